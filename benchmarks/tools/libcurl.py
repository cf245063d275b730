"""libcurl alone: one handle of pycurl, written to a file through a buffer of 128 KiB. What fastidm is built on, without it."""

from __future__ import annotations

from benchmarks.finding import ENV, library
from benchmarks.model import Extra, Unable

label = "libcurl alone, 1 stream"
single = True
baseline = True
http3 = True


def version() -> str | None:
    try:
        import pycurl
    except ImportError:
        return None
    return str(pycurl.version)


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    if extra.checksum or extra.resume:
        raise Unable("a plain stream: no such thing in a few lines")
    asked = "BENCH_HTTP3=1" if extra.http3 else "BENCH_HTTP2=1" if extra.http2 else ""
    return [*([ENV, asked] if asked else []), *library("pycurl", "one", url, path, "1", extra.cacert)]
