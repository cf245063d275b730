"""aria2c as it comes: one connection to a server."""

from __future__ import annotations

import os

from benchmarks.finding import banner, where
from benchmarks.model import Extra
from benchmarks.tools.aria2c import PROGRAM, common

label = "aria2c, default"
single = True


def version() -> str | None:
    return banner(PROGRAM)


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    folder, name = os.path.split(path)
    return [where(PROGRAM), "-q", "--no-conf", *common(extra), "-d", folder, "-o", name, url]
