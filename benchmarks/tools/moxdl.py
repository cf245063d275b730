"""moxdl: the standard library of Python alone."""

from __future__ import annotations

import os

from benchmarks.finding import ENV, package, where
from benchmarks.model import Extra, Unable

label = "moxdl"


def version() -> str | None:
    return package("moxdl") if where("mox") else None


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.http2 or extra.resume:
        raise Unable("no HTTP/2" if extra.http2 else "after SIGKILL it begins anew, under another name")
    folder, name = os.path.split(path)
    trust = [ENV, f"SSL_CERT_FILE={extra.cacert}"] if extra.cacert else []
    check = ["--sha256", extra.checksum] if extra.checksum else []
    return [*trust, where("mox"), "-c", str(connections), "--no-sound", "--no-history", *check, "-d", folder, "-o", name, url]
