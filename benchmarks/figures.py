"""From runs to figures: medians, spreads, ratios.

Rules of this module: a wrong file, a failure and a warm-up have no time. A ratio is one of medians. Nothing is rounded here.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.model import GIB, Run, usable
from benchmarks.tools import FLOOR


@dataclass
class Spread:
    """A median with the least and the greatest value."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Iterable[float]) -> Spread | None:
    """None without values."""
    found = sorted(values)
    return Spread(statistics.median(found), found[0], found[-1], len(found)) if found else None


@dataclass
class Row:
    """One tool in one scenario."""

    scenario: str
    tool: str
    label: str
    size: int
    count: int = 0
    figures: dict[str, Spread] = field(default_factory=dict)
    """By name: wall, cpu, user, system, rss, sent_ratio, requests, connections, server_cpu, first_request, and the numbers
    among a run's details."""
    ideal: float | None = None
    command: str = ""
    failure: str = ""
    unable: str = ""

    def median(self, name: str) -> float | None:
        """Of the figure `name`; also "cpu_per_gib", derived."""
        if name == "cpu_per_gib":
            cpu = self.median("cpu")
            return None if cpu is None or not self.size else cpu / (self.size / GIB)
        found = self.figures.get(name)
        return found.median if found else None


Table = dict[str, dict[str, Row]]
"""Rows by scenario and tool."""

PLAIN = ("wall", "cpu", "user", "system", "rss", "sent_ratio", "requests", "connections", "server_cpu")


def summarise(runs: Sequence[Run]) -> Table:
    """Rows in the order in which scenarios and tools first appear in `runs`, tools from the fastest to the slowest."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.scenario, run.tool].append(run)
    table: Table = defaultdict(dict)
    for (scenario, tool), group in groups.items():
        table[scenario][tool] = _row(scenario, tool, group)
    return {scenario: dict(sorted(rows.items(), key=lambda item: _rank(item[1]))) for scenario, rows in table.items()}


def ratio(over: float | None, under: float | None) -> float | None:
    """None where one of the two is missing or `under` is 0."""
    return over / under if over is not None and under else None


def against(rows: Mapping[str, Row], tool: str, figure: str = "wall") -> tuple[str, float | None]:
    """("× ideal" or "× floor", how many times the tool takes of it): the ideal where there is one, else the C floor."""
    row = rows[tool]
    if row.ideal is not None:
        return "× ideal", ratio(row.median(figure), row.ideal)
    floor = rows.get(FLOOR)
    return "× floor", ratio(row.median(figure), floor.median(figure) if floor else None)


def noise(values: Sequence[float]) -> float:
    """By which share the median may move by chance: twice the range between the quartiles, over the root of the number of
    values; with less than five values, the whole range. 1.0 where nothing can be said."""
    if len(values) < 2 or not (middle := statistics.median(values)):
        return 1.0
    if len(values) < 5:
        return (max(values) - min(values)) / middle
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return 2 * (third - first) / middle / math.sqrt(len(values))


def _row(scenario: str, tool: str, group: Sequence[Run]) -> Row:
    good = list(usable(group))
    last = good[-1] if good else group[-1]
    row = Row(scenario, tool, last.label, last.size, len(good), ideal=last.ideal)
    row.command = str(last.details.get("command", ""))
    row.failure = next((run.failure for run in group if run.failure), "")
    row.unable = next((run.unable for run in group if run.unable), "")
    columns: dict[str, list[float]] = {name: [getattr(run, name) for run in good] for name in PLAIN}
    columns["first_request"] = [run.first_request for run in good if run.first_request is not None]
    for run in good:
        for name, value in run.details.items():
            if isinstance(value, int | float):
                columns.setdefault(name, []).append(value)
    for name, values in columns.items():
        found = spread(values)
        if found is not None:
            row.figures[name] = found
    return row


def _rank(row: Row) -> tuple[bool, float]:
    wall = row.median("wall")
    return wall is None or bool(row.failure), wall or 0.0
