"""rclone, from its HTTP backend."""

from __future__ import annotations

from benchmarks.finding import banner, where
from benchmarks.model import Extra, Unable

label = "rclone"


def version() -> str | None:
    return banner("rclone", "version")


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.checksum or extra.resume or extra.http2:
        raise Unable("it does not resume" if extra.resume else "not for a single file over HTTP")
    base, _, name = url.rpartition("/")
    chunk = max(1 << 20, -(-extra.size // connections))
    streams = [
        "--multi-thread-streams",
        str(connections),
        "--multi-thread-cutoff",
        "1M",
        "--multi-thread-chunk-size",
        f"{chunk}B",
    ]
    trust = ["--ca-cert", extra.cacert] if extra.cacert else []
    return [where("rclone"), "--config", "/dev/null", "-q", *trust, "copyto", *streams, f':http,url="{base}/":{name}', path]
