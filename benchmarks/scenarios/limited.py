"""A server that serves four requests at once and refuses the fifth."""

from __future__ import annotations

from functools import partial

from benchmarks import ideals
from benchmarks.model import MIB, Scenario
from benchmarks.origins import throttled

RATE, LIMIT = 16 * MIB, 4
IDEAL = partial(ideals.limited, rate=RATE, limit=LIMIT)

SCENARIOS = (
    Scenario(
        "limited_503",
        "Four connections, more get 503",
        "16 MiB/s each, a fifth request is answered with 503. The tool asks for 16. Ideal: four, all the time.",
        size=256 * MIB,
        quick=64 * MIB,
        origin=partial(throttled, rate=RATE, limit=LIMIT),
        ideal=IDEAL,
        granted=LIMIT,
    ),
    Scenario(
        "limited_rst",
        "Four connections, more are reset",
        "The same, but a fifth request is answered with a reset.",
        size=256 * MIB,
        quick=64 * MIB,
        origin=partial(throttled, rate=RATE, limit=LIMIT, rst=1),
        ideal=IDEAL,
        granted=LIMIT,
    ),
)
