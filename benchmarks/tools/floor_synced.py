"""The baseline again, which then waits until the disk has it all: what fastidm's default is to be compared with."""

from __future__ import annotations

from benchmarks.model import Extra
from benchmarks.tools import floor

label = "C floor, synced"
baseline = True
version = floor.version


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    binary, *rest = floor.command(url, path, connections, extra)
    return [binary, "-s", *rest]
