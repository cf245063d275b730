"""One picture for each scenario: wall and processor time of every tool, with their spread. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import Row, Table
from benchmarks.scenarios import all_scenarios
from benchmarks.tools import is_baseline, is_ours

OURS, THEIRS, BASE = "#0b7285", "#adb5bd", "#495057"


def draw(table: Table, folder: Path) -> dict[str, str]:
    """Write the pictures into `folder`; returns their names by scenario, empty without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return {}
    matplotlib.use("Agg")
    made = {}
    for name, rows in table.items():
        good = [row for row in rows.values() if row.count and not row.failure]
        if good:
            _picture(name, good, folder / f"{name}.png")
            made[name] = f"{name}.png"
    return made


def _picture(name: str, rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    scenario = all_scenarios().get(name)
    time = scenario.figure if scenario else "wall"
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    at = list(range(len(rows)))
    colours = [OURS if is_ours(row.tool) else BASE if is_baseline(row.tool) else THEIRS for row in rows]
    titles = {"wall": "wall, s", "first_request": "first request, s", "cpu": "CPU, s"}
    for axes, one in ((left, time), (right, "cpu")):
        spreads = [row.figures.get(one) for row in rows]
        widths = [found.median if found else 0.0 for found in spreads]
        below = [found.median - found.low if found else 0.0 for found in spreads]
        above = [found.high - found.median if found else 0.0 for found in spreads]
        axes.barh(at, widths, color=colours, xerr=(below, above), error_kw={"elinewidth": 1, "ecolor": "#212529"})
        axes.set_xlabel(titles[one])
        axes.set_xlim(0, max(max(w + a for w, a in zip(widths, above, strict=True)) * 1.05, 1e-6))
        axes.spines[["top", "right"]].set_visible(False)
    if rows[0].ideal is not None and time == "wall":
        left.axvline(rows[0].ideal, color="#c92a2a", linewidth=1, linestyle="--", label="ideal")
        left.legend(frameon=False)
    left.set_yticks(at, [row.label for row in rows])
    left.invert_yaxis()
    figure.suptitle(scenario.title if scenario else name)
    figure.savefig(path, dpi=110)
