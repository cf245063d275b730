"""requests: one stream, or one thread per file."""

from __future__ import annotations

from benchmarks.finding import library, package
from benchmarks.model import Extra, Unable

label = "requests, 1 stream"
single = True


def version() -> str | None:
    return package("requests")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.http2 or extra.checksum or extra.resume:
        raise Unable("a plain stream: no such thing in a few lines")
    return library("requests", "one", url, path, "1", extra.cacert)


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    return library("requests", "many", folder, str(parallel), "1", extra.cacert, *urls)
