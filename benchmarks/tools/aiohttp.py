"""aiohttp: one stream, or one coroutine per file."""

from __future__ import annotations

from benchmarks.finding import library, package
from benchmarks.model import Extra, Unable

label = "aiohttp, 1 stream"
single = True


def version() -> str | None:
    return package("aiohttp")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.http2 or extra.checksum or extra.resume:
        raise Unable("a plain stream: no such thing in a few lines")
    return library("aiohttp", "one", url, path, "1", extra.cacert)


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    return library("aiohttp", "many", folder, str(parallel), "1", extra.cacert, *urls)
