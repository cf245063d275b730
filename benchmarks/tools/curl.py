"""curl: one connection; `-Z` for many files."""

from __future__ import annotations

from benchmarks.finding import banner, where
from benchmarks.model import Extra, Unable

label = "curl"
single = True


def version() -> str | None:
    return banner("curl")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.checksum:
        raise Unable("it verifies no checksum")
    flags = [*(["-C", "-"] if extra.resume else []), "--http2" if extra.http2 else "--http1.1"]
    return [*base(extra), *flags, "-o", path, url]


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    pairs = [word for url in urls for word in ("-o", f"{folder}/{url.rpartition('/')[2]}", url)]
    return [*base(extra), "-Z", "--parallel-max", str(parallel), *pairs]


def base(extra: Extra) -> list[str]:
    return [where("curl"), "-q", "-sS", "--fail", *(["--cacert", extra.cacert] if extra.cacert else [])]
