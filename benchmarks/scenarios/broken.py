"""What goes wrong: connections that are reset, a process that is killed."""

from __future__ import annotations

from functools import partial

from benchmarks import ideals
from benchmarks.model import MIB, Scenario
from benchmarks.origins import throttled

RATE = 16 * MIB

SCENARIOS = (
    Scenario(
        "resets",
        "Reset every few MiB",
        "16 MiB/s each, and every connection is reset after 2 to 6 MiB. Ideal: nothing is lost and reconnecting is free.",
        size=512 * MIB,
        quick=128 * MIB,
        origin=partial(throttled, rate=RATE, reset_after=4 * MIB),
        ideal=partial(ideals.capped, rate=RATE),
        floor=False,
    ),
    Scenario(
        "resume",
        "Killed in the middle, and run again",
        "8 MiB/s each; SIGKILL when the server has sent half, then the same command once more. The time is that of both runs."
        " What the server sent beyond the size was fetched twice.",
        size=256 * MIB,
        quick=96 * MIB,
        origin=partial(throttled, rate=8 * MIB),
        ideal=partial(ideals.capped, rate=8 * MIB),
        kind="resume",
    ),
)
