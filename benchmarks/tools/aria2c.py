"""aria2c as one who knows it calls it: many connections, no preallocation, patience with refusals."""

from __future__ import annotations

import os

from benchmarks.finding import banner, where
from benchmarks.model import Extra, Unable

label = "aria2c, tuned"
PROGRAM = "aria2c"


def version() -> str | None:
    return banner(PROGRAM)


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    return tuned(PROGRAM, url, path, connections, extra)


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    return [*base(PROGRAM, connections, extra), "-Z", f"-j{parallel}", "-d", folder, *urls]


def tuned(program: str, url: str, path: str, connections: int, extra: Extra) -> list[str]:
    folder, name = os.path.split(path)
    return [*base(program, connections, extra), "-d", folder, "-o", name, url]


def base(program: str, connections: int, extra: Extra) -> list[str]:
    n = min(connections, 16)  # it takes no more for one server
    flags = ["-q", "--no-conf", f"-x{n}", f"-s{n}", "-k1M", "--file-allocation=none", "--max-tries=0", "--retry-wait=1"]
    flags += ["--auto-save-interval=1"] if extra.resume else []  # by itself it notes each minute how far it is
    return [where(program), *flags, *common(extra)]


def common(extra: Extra) -> list[str]:
    """What has nothing to do with speed."""
    if extra.http2:
        raise Unable("no HTTP/2")
    flags = [f"--ca-certificate={extra.cacert}"] if extra.cacert else []
    flags += ["-c"] if extra.resume else []
    return flags + ([f"--checksum=sha-256={extra.checksum}"] if extra.checksum else [])
