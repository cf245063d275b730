"""fastidm as it comes: the end is only told when the file would survive a power cut."""

from __future__ import annotations

from benchmarks.model import Extra
from benchmarks.tools import fastidm

label = "fastidm, synced"
version = fastidm.version


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    return [*fastidm.base(connections, extra), "-o", path, url]
