"""fastidm as a library: one file by `download`, several by a `DownloadManager` with as many at once as is asked for."""

from __future__ import annotations

from benchmarks.finding import library
from benchmarks.model import Extra, Unable
from benchmarks.tools import fastidm

label = "fastidm, library"
version = fastidm.version


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.http2 or extra.checksum:
        raise Unable("measured with the command")
    return library("fastidm", "one", url, path, str(connections), extra.cacert)


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    return library("fastidm", "many", folder, str(parallel), str(connections), extra.cacert, *urls)
