"""pypdl."""

from __future__ import annotations

from benchmarks.finding import library, package
from benchmarks.model import Extra, Unable

label = "pypdl"


def version() -> str | None:
    return package("pypdl")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.http2 or extra.checksum or extra.cacert:
        raise Unable("not tried with a private certificate" if extra.cacert else "no such thing")
    return library("pypdl", "one", url, path, str(connections), "")
