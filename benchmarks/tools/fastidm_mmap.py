"""fastidm, forced to write by map."""

from __future__ import annotations

from benchmarks.model import Extra
from benchmarks.tools import fastidm

label = "fastidm --io mmap"
version = fastidm.version


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    return [*fastidm.base(connections, extra, io="mmap"), "--no-sync", "-o", path, url]
