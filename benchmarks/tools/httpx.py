"""httpx: one stream, or one coroutine per file."""

from __future__ import annotations

from benchmarks.finding import ENV, library, package
from benchmarks.model import Extra, Unable

label = "httpx, 1 stream"
single = True


def version() -> str | None:
    return package("httpx")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.checksum or extra.resume:
        raise Unable("a plain stream: no such thing in a few lines")
    http2 = [ENV, "BENCH_HTTP2=1"] if extra.http2 else []
    return [*http2, *library("httpx", "one", url, path, "1", extra.cacert)]


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    return library("httpx", "many", folder, str(parallel), "1", extra.cacert, *urls)
