"""lftp, its `pget`."""

from __future__ import annotations

from benchmarks.finding import banner, where
from benchmarks.model import Extra, Unable

label = "lftp"


def version() -> str | None:
    return banner("lftp")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.http2 or extra.checksum:
        raise Unable("no HTTP/2" if extra.http2 else "it verifies no checksum")
    trust = f"set ssl:ca-file {extra.cacert}; " if extra.cacert else ""
    return [where("lftp"), "--norc", "-e", f"{trust}pget -n {connections} -c {url} -o {path}; quit"]
