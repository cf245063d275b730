"""Axel. Over TLS it does not verify the certificate: it does not find an address in one."""

from __future__ import annotations

from benchmarks.finding import banner, where
from benchmarks.model import Extra, Unable

label = "axel"


def version() -> str | None:
    return banner("axel")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.http2 or extra.checksum:
        raise Unable("no HTTP/2" if extra.http2 else "it verifies no checksum")
    trust = ["-k"] if extra.cacert else []
    return [where("axel"), *trust, "-q", "-n", str(connections), "-o", path, url]
