"""fastidm, forced to write by pwrite."""

from __future__ import annotations

from benchmarks.model import Extra
from benchmarks.tools import fastidm

label = "fastidm --io pwrite"
version = fastidm.version


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    return [*fastidm.base(connections, extra, io="pwrite"), "--no-sync", "-o", path, url]
