"""HTTP/2 and HTTP/3 alone: what many small writes cost a tool.

nginx writes frames of 8 KiB and Caddy smaller ones; over HTTP/3 a block is what fits into a packet of UDP, 1.4 KB.
"""

from __future__ import annotations

from functools import partial

from benchmarks.model import GIB, MIB, Scenario
from benchmarks.origins import caddy, nginx

SCENARIOS = (
    Scenario(
        "http2",
        "HTTP/2 from nginx",
        "One file over TLS, HTTP/2 asked for. Tools without a switch for HTTP/2 are left out.",
        size=GIB,
        quick=128 * MIB,
        origin=partial(nginx, tls=True, http2=True),
        http2=True,
        variants=("libcurl",),
    ),
    Scenario(
        "http2_caddy",
        "HTTP/2 from Caddy",
        "The same from Caddy, whose frames are smaller.",
        size=GIB,
        quick=128 * MIB,
        origin=partial(caddy, tls=True),
        http2=True,
        variants=("libcurl",),
    ),
    Scenario(
        "http3",
        "HTTP/3 from Caddy",
        "The same over QUIC, which curl as packaged rarely has: compared with libcurl alone, the one that fastidm is built on.",
        size=512 * MIB,
        quick=128 * MIB,
        origin=partial(caddy, tls=True),
        http3=True,
        tools=("fastidm", "libcurl"),
    ),
)
