"""The least time that a server's rates allow.

Rules of this module: plain arithmetic on the rates that a scenario gives to its server. It supposes that as many connections as
the scenario grants are open from the first moment and never idle, that starting costs nothing, and that nobody trades a slow
connection for a new one; who does that may come out below it.
"""

from __future__ import annotations

INITIAL_WINDOW = 10 * 1448


def capped(size: int, connections: int, rate: float) -> float:
    """Each connection has `rate` bytes per second."""
    return size / (connections * rate)


def uneven(size: int, connections: int, rate: float, slow: float, every: int) -> float:
    """Each `every`-th connection has the rate `slow`."""
    lame = connections // every
    return size / ((connections - lame) * rate + lame * slow)


def collapsing(size: int, connections: int, rate: float, after: int, rest: float) -> float:
    """One connection falls from `rate` to `rest` after `after` bytes."""
    until = after / rate
    left = size - connections * after
    if left <= 0:
        return capped(size, connections, rate)
    return until + left / ((connections - 1) * rate + rest)


def limited(size: int, connections: int, rate: float, limit: int) -> float:
    """Only `limit` connections are served at once."""
    return capped(size, min(connections, limit), rate)


def distant(size: int, connections: int, rtt: float, window: int, link: float = 0.0) -> float:
    """A handshake and a request of `rtt` seconds each, then windows that double each round trip up to `window` bytes."""
    left, at, each = float(size), 2 * rtt, float(min(INITIAL_WINDOW, window))
    while True:
        burst = connections * each
        if link:
            burst = min(burst, link * rtt)
        if left <= burst:
            return at + (left / link if link else 0.0)
        left -= burst
        at += rtt
        each = min(2 * each, window)
