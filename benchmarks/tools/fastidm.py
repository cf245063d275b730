"""fastidm as its command line runs it, but not waiting for the disk at the end, as no peer does."""

from __future__ import annotations

import sys

from benchmarks.finding import ENV
from benchmarks.model import Extra

label = "fastidm"
http3 = True

START = "import sys, fastidm.__main__ as start; sys.exit(getattr(start, 'command', start.main)())"
"""What the script that pip installs does; without that script, so that any checkout can be measured; older ones have `main`."""


def version() -> str | None:
    try:
        from fastidm.cli.version import describe
    except ImportError:
        return None
    return describe().replace("\n", "; ").strip("; ")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    return [*base(connections, extra), "--no-sync", "-o", path, url]


def many(urls: list[str], folder: str, parallel: int, connections: int, extra: Extra) -> list[str]:
    return [*base(connections, extra), "--no-sync", "--max-downloads", str(parallel), "-d", folder, *urls]


def base(connections: int, extra: Extra, io: str = "auto", pure: bool = False) -> list[str]:
    """What all variants have in common."""
    command = [ENV, "FASTIDM_PURE=1"] if pure else []
    command += [sys.executable, "-c", START, "--quiet", "--conn", str(connections), "--io", io]
    command += ["--http", "3" if extra.http3 else "2"] if extra.http2 or extra.http3 else []
    command += ["--cacert", extra.cacert] if extra.cacert else []
    command += ["--checksum", f"sha256:{extra.checksum}"] if extra.checksum else []
    return command
