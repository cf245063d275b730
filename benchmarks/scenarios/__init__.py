"""What is measured. A file per theme, each with a tuple `SCENARIOS`; see `benchmarks.model.Scenario` for their fields."""

from __future__ import annotations

from functools import cache

from benchmarks.model import Scenario
from benchmarks.scenarios import broken, distant, http2, limited, loopback, many, start, throttled


@cache
def all_scenarios() -> dict[str, Scenario]:
    """Every scenario by its name, in the order of the report."""
    themes = (loopback, http2, throttled, limited, distant, broken, many, start)
    return {scenario.name: scenario for theme in themes for scenario in theme.SCENARIOS}
