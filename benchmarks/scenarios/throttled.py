"""The reason for several connections: a server that gives each of them so much and no more."""

from __future__ import annotations

from functools import partial

from benchmarks import ideals
from benchmarks.model import GIB, KIB, MIB, Scenario
from benchmarks.origins import throttled

CAP = 4 * MIB
FAST, SLOW, EVERY = 8 * MIB, 256 * KIB, 5
NUMBER, AFTER, REST = 3, 8 * MIB, 64 * KIB

SCENARIOS = (
    Scenario(
        "capped",
        "4 MiB/s for each connection",
        "Each connection is paced by the kernel to 4 MiB/s. Ideal: all 16 from the first moment to the last.",
        size=256 * MIB,
        quick=64 * MIB,
        origin=partial(throttled, rate=CAP),
        ideal=partial(ideals.capped, rate=CAP),
    ),
    Scenario(
        "wide",
        "128 connections of 4 MiB/s",
        "One file over 128 connections, each paced to 4 MiB/s so that all of them are of use: what a connection costs in memory"
        " and in processor time.",
        size=GIB,
        quick=256 * MIB,
        origin=partial(throttled, rate=CAP),
        ideal=partial(ideals.capped, rate=CAP),
        connections=128,
        tools=("fastidm", "fastidm_pure", "floor", "axel"),
    ),
    Scenario(
        "uneven",
        "Each fifth connection is 32 times slower",
        "8 MiB/s, but 256 KiB/s for the fifth, tenth and fifteenth connection (and so on). Ideal: what 13 fast and 3 slow"
        " ones carry; who gives up a slow one for a new one may come out below it.",
        size=512 * MIB,
        quick=96 * MIB,
        origin=partial(throttled, rate=FAST, slow_every=EVERY, slow=SLOW),
        ideal=partial(ideals.uneven, rate=FAST, slow=SLOW, every=EVERY),
        floor=False,
    ),
    Scenario(
        "collapsing",
        "One connection collapses",
        "8 MiB/s each, but the third falls to 64 KiB/s after 8 MiB. Ideal: the others carry on and never idle.",
        size=512 * MIB,
        quick=160 * MIB,
        origin=partial(throttled, rate=FAST, collapse=NUMBER, collapse_after=AFTER, collapse_rate=REST),
        ideal=partial(ideals.collapsing, rate=FAST, after=AFTER, rest=REST),
        floor=False,
    ),
)
