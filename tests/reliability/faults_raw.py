"""Heads that are too long, too slow, too many, or no HTTP at all."""

from __future__ import annotations

import asyncio

from tests.reliability.exchange import Exchange, fault
from tests.reliability.faults_file import file


@fault
async def loris(exchange: Exchange) -> None:
    """The head, a byte each `pause` seconds, for ever."""
    await exchange.raw(b"HTTP/1.1 206 Partial Content\r\nX-Slow: ")
    while True:
        await exchange.raw(b"a")
        await asyncio.sleep(exchange.number("pause", 0.2))


@fault
async def many_fields(exchange: Exchange) -> None:
    """`count` fields of `bytes` bytes each before the right ones."""
    await exchange.raw(b"HTTP/1.1 200 OK\r\n")
    line = b"X-Filler: " + b"a" * exchange.size("bytes", 10) + b"\r\n"
    for _ in range(exchange.size("count", 1)):
        await exchange.raw(line)
    await exchange.raw(b"Content-Length: %d\r\n\r\n" % exchange.total)
    await exchange.body(0, exchange.total)


@fault
async def early(exchange: Exchange) -> None:
    """`count` times 103 Early Hints before the right answer."""
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    count = exchange.size("count", 20_000)
    for at in range(0, count, 1000):
        await exchange.raw(hint * min(1000, count - at))
    await file(exchange)


@fault
async def bytes_first(exchange: Exchange) -> None:
    """The bytes `say` in place of an answer, then the end."""
    await exchange.raw(exchange.text("say", "220 mail.example ESMTP").encode() + b"\r\n")
    exchange.close()
