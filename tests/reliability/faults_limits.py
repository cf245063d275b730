"""Servers that give little: few connections at a time, or an answer later."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from time import time

from tests.reliability.exchange import Exchange, fault
from tests.reliability.faults_file import file


@fault
async def limit(exchange: Exchange) -> None:
    """At most `most` bodies at a time; what comes beyond gets `refuse`: 503, 429, reset, fin or hold.

    `retry`, the Retry-After of a refusal. The first bodies wait half-way until one more was asked for, at most 2 s, so that
    the limit is met for certain.
    """
    book, most = exchange.book, exchange.size("most", 2)
    if book.active >= most:
        book.notes["refused"] += 1
        await _refuse(exchange)
        return
    book.active += 1
    book.peak = max(book.peak, book.active)
    try:
        await file(exchange)
    finally:
        book.active -= 1


async def _refuse(exchange: Exchange) -> None:
    how = exchange.text("refuse", "503")
    if not how.isdigit():
        await exchange.end(how)
    retry = [f"Retry-After: {exchange.text('retry')}"] if exchange.text("retry") else []
    await exchange.answer(int(how), *retry)


@fault
async def busy(exchange: Exchange) -> None:
    """`status` (503), with `retry` as Retry-After: text, or "in:SECONDS" for the date that is so far away."""
    retry = exchange.text("retry")
    if retry.startswith("in:"):
        retry = formatdate(time() + float(retry.removeprefix("in:")), usegmt=True)
    lines = [f"Retry-After: {retry}"] if retry else []
    await exchange.answer(exchange.size("status", 503), *lines, body=b"busy")


@fault
async def late(exchange: Exchange) -> None:
    """The right answer, after `wait` seconds."""
    await asyncio.sleep(exchange.number("wait", 1))
    await file(exchange)
