"""Bodies whose length is unsaid, false, doubled, absurd, or followed by what does not belong to them."""

from __future__ import annotations

from tests.reliability.exchange import Exchange, fault
from tests.reliability.faults_file import head


@fault
async def unsaid(exchange: Exchange) -> None:
    """No length at all: the file ends with the connection (see `how`). `cut`: bytes after which that comes too early."""
    await exchange.head(200, "Connection: close", version=exchange.text("version", "1.1"))
    await exchange.body(0, exchange.size("cut", exchange.total))
    await exchange.end(exchange.text("how", "fin"))


@fault
async def chunked(exchange: Exchange) -> None:
    """The whole file in chunks. `cut`: bytes after which it breaks off, `how`."""
    await exchange.head(200, "Transfer-Encoding: chunked")
    stop = exchange.size("cut", exchange.total)
    for start in range(0, stop, 50_000):
        data = exchange.piece(start, min(start + 50_000, stop))
        await exchange.raw(b"%x\r\n" % len(data))
        await exchange.send(data)
        await exchange.raw(b"\r\n")
    if stop < exchange.total:
        await exchange.end(exchange.text("how", "fin"))
    await exchange.raw(b"0\r\n\r\n")


@fault
async def length(exchange: Exchange) -> None:
    """A 200 with the Content-Length of each `value`, and the whole file; the connection ends."""
    await exchange.head(200, *(f"Content-Length: {value}" for value in exchange.all("value")), "Connection: close")
    await exchange.body(0, exchange.total)
    exchange.close()


@fault
async def both_lengths(exchange: Exchange) -> None:
    """Content-Length and Transfer-Encoding together; the chunks are right."""
    await exchange.head(200, f"Content-Length: {exchange.size('value', 100)}", "Transfer-Encoding: chunked")
    for start in range(0, exchange.total, 50_000):
        data = exchange.piece(start, start + 50_000)
        await exchange.raw(b"%x\r\n" % len(data))
        await exchange.send(data)
        await exchange.raw(b"\r\n")
    await exchange.raw(b"0\r\n\r\n")


@fault
async def glued(exchange: Exchange) -> None:
    """The right answer, with another one glued behind it: poison for whoever uses the connection again."""
    last = max(exchange.start, exchange.stop - 1000)
    await head(exchange)
    await exchange.body(exchange.start, last)
    await exchange.arrived()
    # With the last bytes in one piece: what comes later may meet the next request and then looks just like its answer.
    await exchange.send(exchange.piece(last, exchange.stop) + b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)


@fault
async def huge(exchange: Exchange) -> None:
    """A part of a file of `claims` bytes."""
    claims = exchange.size("claims", 50 << 40)
    start = exchange.start
    await exchange.part_head(start, claims if exchange.last is None else exchange.last + 1, claims)
    await exchange.body(start, exchange.total)
    await exchange.hold()
