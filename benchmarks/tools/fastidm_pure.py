"""fastidm without its C extension."""

from __future__ import annotations

from benchmarks.model import Extra
from benchmarks.tools import fastidm

label = "fastidm, pure Python"
version = fastidm.version


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    return [*fastidm.base(connections, extra, pure=True), "--no-sync", "-o", path, url]
