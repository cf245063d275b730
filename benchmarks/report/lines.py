"""The JSON lines: one with `"kind": "meta"`, then one for each run. Names are stable; unknown ones are ignored when read."""

from __future__ import annotations

import json
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
