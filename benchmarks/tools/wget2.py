"""Wget2: it cuts a file into chunks, but was seen to fetch them over one connection."""

from __future__ import annotations

from benchmarks.finding import banner, where
from benchmarks.model import Extra, Unable

label = "wget2"
single = True


def version() -> str | None:
    return banner("wget2")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.checksum:
        raise Unable("it verifies no checksum")
    chunk = max(1 << 20, -(-extra.size // connections))
    flags = ["--no-http2", *(["-c"] if extra.resume else [f"--chunk-size={chunk}"])]
    if extra.http2:
        flags = []  # with chunks it fetches everything twice
    return [*base(connections, extra), *flags, "-O", path, url]


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    return [*base(parallel, extra), "-P", folder, *urls]


def base(threads: int, extra: Extra) -> list[str]:
    trust = [f"--ca-certificate={extra.cacert}"] if extra.cacert else []
    return [where("wget2"), "--no-config", "-q", f"--max-threads={threads}", *trust]
