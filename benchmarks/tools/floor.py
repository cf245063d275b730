"""The baseline: a bare C client (`floor.c`, for many files `floor_many.c`) that receives and writes, and nothing else."""

from __future__ import annotations

from urllib.parse import urlsplit

from benchmarks.build import program
from benchmarks.model import Extra, Unable

label = "C floor"
baseline = True


def version() -> str | None:
    return "recv + pwrite, one thread" if program("floor") else None


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.http2 or extra.checksum or extra.resume:
        raise Unable("it receives and writes, nothing else")
    parts = urlsplit(url)
    binary = program("floor-tls" if extra.cacert else "floor")
    if not binary:
        raise Unable("it was built without TLS: OpenSSL's headers are missing")
    where = [parts.hostname or "", str(parts.port), parts.path, str(extra.size), str(connections), path]
    return [binary, *where, *([extra.cacert] if extra.cacert else [])]


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    parts = urlsplit(urls[0])
    paths = [urlsplit(url).path for url in urls]
    return [program("floor-many"), parts.hostname or "", str(parts.port), folder, str(parallel), *paths]
