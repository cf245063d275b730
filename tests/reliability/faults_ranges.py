"""Answers to a Range that are not what was asked for: elsewhere, shorter, longer, unplaced, of another size, or refused."""

from __future__ import annotations

import asyncio

from tests.reliability.exchange import Exchange, fault
from tests.reliability.faults_file import file


@fault
async def ignored(exchange: Exchange) -> None:
    """The whole file (200) to any request."""
    await exchange.head(200, f"Content-Length: {exchange.total}")
    await exchange.body(0, exchange.total)


@fault
async def unplaced(exchange: Exchange) -> None:
    """A part (206) that does not say which."""
    if exchange.first is None:
        await file(exchange)
        return
    await exchange.head(206, f"Content-Length: {exchange.stop - exchange.start}")
    await exchange.body(exchange.start, exchange.stop)


@fault
async def shifted(exchange: Exchange) -> None:
    """A part that begins `by` bytes (may be negative) beside the one asked for, and says so."""
    if exchange.first is None:
        await file(exchange)
        return
    start = min(max(0, exchange.start + exchange.size("by", 1000)), exchange.stop - 1)
    await exchange.part_head(start, exchange.stop)
    await exchange.body(start, exchange.stop)


@fault
async def liar(exchange: Exchange) -> None:
    """The right head, and, after `wait` seconds, a body from `by` bytes beside."""
    if exchange.first is None:
        await file(exchange)
        return
    await exchange.part_head(exchange.start, exchange.stop)
    await asyncio.sleep(exchange.number("wait"))
    start = exchange.start + exchange.size("by", 4096)
    length, late = exchange.stop - exchange.start, max(0, exchange.total - start)
    await exchange.body(start, start + min(length, late))
    if length > late:
        await exchange.body(0, length - late)


@fault
async def other_total(exchange: Exchange) -> None:
    """A part of a file of `total` bytes."""
    if exchange.first is None:
        await file(exchange)
        return
    await exchange.part_head(exchange.start, exchange.stop, exchange.text("total", "*"))
    await exchange.body(exchange.start, exchange.stop)


@fault
async def content_range(exchange: Exchange) -> None:
    """A part with the Content-Range in `value`, where {first}, {last} and {total} stand for the right numbers."""
    if exchange.first is None:
        await file(exchange)
        return
    numbers = {"first": exchange.start, "last": exchange.stop - 1, "total": exchange.total}
    lines = [f"Content-Range: {value.format(**numbers)}" for value in exchange.all("value")]
    await exchange.head(206, *lines, f"Content-Length: {exchange.stop - exchange.start}")
    await exchange.body(exchange.start, exchange.stop)


@fault
async def multipart(exchange: Exchange) -> None:
    """multipart/byteranges for a single range."""
    if exchange.first is None:
        await file(exchange)
        return
    span = f"bytes {exchange.start}-{exchange.stop - 1}/{exchange.total}"
    before = f"--frontier\r\nContent-Type: text/plain\r\nContent-Range: {span}\r\n\r\n".encode()
    after = b"\r\n--frontier--\r\n"
    length = len(before) + exchange.stop - exchange.start + len(after)
    await exchange.head(206, "Content-Type: multipart/byteranges; boundary=frontier", f"Content-Length: {length}")
    await exchange.send(before)
    await exchange.body(exchange.start, exchange.stop)
    await exchange.send(after)


@fault
async def shorter(exchange: Exchange) -> None:
    """A part of at most `most` bytes, as a server may."""
    if exchange.first is None:
        await file(exchange)
        return
    stop = min(exchange.stop, exchange.start + exchange.size("most", 300 << 10))
    await exchange.part_head(exchange.start, stop)
    await exchange.body(exchange.start, stop)


@fault
async def longer(exchange: Exchange) -> None:
    """A part that goes on for `more` bytes."""
    if exchange.first is None:
        await file(exchange)
        return
    stop = min(exchange.total, exchange.stop + exchange.size("more", 1 << 20))
    await exchange.part_head(exchange.start, stop)
    await exchange.body(exchange.start, stop)


@fault
async def unsatisfied(exchange: Exchange) -> None:
    """416 to any range; `total`, the size that it tells."""
    if exchange.first is None:
        await file(exchange)
        return
    lines = [f"Content-Range: bytes */{exchange.text('total')}"] if exchange.text("total") else []
    await exchange.answer(416, *lines)


@fault
async def zipped(exchange: Exchange) -> None:
    """Content-Encoding: gzip although it was not asked for; to requests with a Range, without, or (`to=all`) both."""
    to = exchange.text("to", "ranges")
    if to != "all" and (exchange.first is None) == (to == "ranges"):
        await file(exchange)
        return
    body = exchange.zipped()
    if exchange.first is None:
        await exchange.head(200, "Content-Encoding: gzip", f"Content-Length: {len(body)}")
        await exchange.send(body)
        return
    stop = len(body) if exchange.last is None else min(len(body), exchange.last + 1)
    lines = ("Content-Encoding: gzip", f"Content-Length: {stop - exchange.first}")
    await exchange.head(206, f"Content-Range: bytes {exchange.first}-{stop - 1}/{len(body)}", *lines)
    await exchange.send(body[exchange.first : stop])
