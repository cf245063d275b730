"""A server far away: 60 ms round trip, windows that grow as TCP's do."""

from __future__ import annotations

from functools import partial

from benchmarks import ideals
from benchmarks.model import MIB, Scenario
from benchmarks.origins import throttled

RTT, WINDOW, LINK = 0.060, MIB, 64 * MIB

SCENARIOS = (
    Scenario(
        "distant",
        "60 ms round trip",
        "Each connection pays two round trips before its first byte; its window begins with ten segments, doubles, and ends at"
        " 1 MiB. Ideal: all connections at once, without knowing the size.",
        size=256 * MIB,
        quick=96 * MIB,
        origin=partial(throttled, rtt=int(RTT * 1e6), window=WINDOW),
        ideal=partial(ideals.distant, rtt=RTT, window=WINDOW),
    ),
    Scenario(
        "distant_link",
        "60 ms round trip, 64 MiB/s for all",
        "The same, through one link of 64 MiB/s that the connections share.",
        size=256 * MIB,
        quick=64 * MIB,
        origin=partial(throttled, rtt=int(RTT * 1e6), window=WINDOW, link=LINK),
        ideal=partial(ideals.distant, rtt=RTT, window=WINDOW, link=LINK),
    ),
)
