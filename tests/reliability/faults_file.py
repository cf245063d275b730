"""The right answer, as RFC 9110 says; what every request gets that is not struck, and many faults are made of.

Knobs: `size`, `seed`, `etag`, `modified`, `type`, `name`, `line` (repeatable); `rate`, bytes a second of each body;
`ranges=no`, any Range is ignored; `slow=K`, `crawl=R`: the K-th request of the key gets R bytes a second.
In `etag` and the others "{node}" is a number of the connection, as if each came to another node of a network.
"""

from __future__ import annotations

from tests.reliability.exchange import Exchange, fault


@fault
async def file(exchange: Exchange) -> None:
    """The file, or the part of it that was asked for."""
    await head(exchange)
    if exchange.record.method == "HEAD":
        return
    slow = exchange.record.number == exchange.number("slow")
    await exchange.body(exchange.start, exchange.stop, exchange.number("crawl") if slow else None)


async def head(exchange: Exchange) -> None:
    """The head of the right answer; the body [exchange.start, exchange.stop) belongs to it."""
    start, stop = exchange.start, exchange.stop
    if exchange.first is None:
        await exchange.head(200, f"Content-Length: {exchange.total}")
    elif start >= exchange.total:
        await exchange.head(416, f"Content-Range: bytes */{exchange.total}", "Content-Length: 0")
    else:
        await exchange.part_head(start, stop)


@fault
async def refuses_head(exchange: Exchange) -> None:
    """`status` to HEAD alone; or, with `lies`, a HEAD of half the size."""
    if exchange.record.method != "HEAD":
        await file(exchange)
    elif exchange.text("lies"):
        await exchange.head(200, f"Content-Length: {exchange.total // 2}")
    else:
        await exchange.answer(exchange.size("status", 405))
