"""GNU Wget: one connection."""

from __future__ import annotations

from benchmarks.finding import banner, where
from benchmarks.model import Extra, Unable

label = "wget"
single = True


def version() -> str | None:
    return banner("wget")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.http2 or extra.checksum:
        raise Unable("no HTTP/2" if extra.http2 else "it verifies no checksum")
    return [*base(extra), *(["-c"] if extra.resume else []), "-O", path, url]


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    return [*base(extra), "-P", folder, *urls]  # one after the other, over one connection


def base(extra: Extra) -> list[str]:
    return [where("wget"), "--no-config", "-q", *([f"--ca-certificate={extra.cacert}"] if extra.cacert else [])]
