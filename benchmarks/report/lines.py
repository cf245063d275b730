"""The JSON lines: one with `"kind": "meta"`, then one for each run. Names are stable; unknown ones are ignored when read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.model import Run


def write(path: Path, record: dict[str, Any]) -> None:
    """Append one line, at once: what was measured before a crash is kept."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read(path: Path) -> tuple[dict[str, Any], list[Run]]:
    """(what is known about the measurement, its runs)."""
    meta: dict[str, Any] = {}
    runs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["kind"] == "meta":
            meta |= record
        elif record["kind"] == "run":
            runs.append(Run.from_record(record))
    return meta, runs


def join(paths: Sequence[Path]) -> tuple[dict[str, Any], list[Run]]:
    """As `read`, of several measurements on one machine. Of a scenario that several have, the last one counts, and it alone:
    claims compare what was measured together."""
    meta: dict[str, Any] = {}
    of_scenario: dict[str, list[Run]] = {}
    measured: dict[str, dict[str, Any]] = {}
    for path in paths:
        about, runs = read(path)
        meta = {**meta, **about, "tools": _known(meta.get("tools", {}), about.get("tools", {}))}
        for name in dict.fromkeys(run.scenario for run in runs):
            of_scenario[name] = [run for run in runs if run.scenario == name]
            measured[name] = about
    meta["parts"] = [
        {"date": about.get("date"), "mode": about.get("mode"), "revision": about.get("revision"), "scenarios": names}
        for about in {id(about): about for about in measured.values()}.values()
        if (names := [name for name, other in measured.items() if other is about])
    ]
    return meta, [run for runs in of_scenario.values() for run in runs]


def _known(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The tools of both; one that was asked for in either was asked for."""
    return {
        name: tool if tool.get("asked", True) or name not in before else before[name]
        for name, tool in {**before, **now}.items()
    }
