"""HTTP/2 alone. nginx writes 8 KiB frames, Caddy many small ones: what many small writes cost a tool."""

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
    ),
    Scenario(
        "http2_caddy",
        "HTTP/2 from Caddy",
        "The same from Caddy, whose frames are smaller.",
        size=512 * MIB,
        quick=128 * MIB,
        origin=partial(caddy, tls=True),
        http2=True,
    ),
)
