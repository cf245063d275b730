"""Answers that begin right and then break off, stand still, or never come.

Knobs: `how`: fin, reset or hold (silence); `after`: bytes.
"""

from __future__ import annotations

from tests.reliability.exchange import Exchange, Gone, fault
from tests.reliability.faults_file import file, head


@fault
async def cut(exchange: Exchange) -> None:
    """The right answer, which ends after `after` bytes of body (0 with `headless`: not even a head)."""
    if exchange.text("headless"):
        await exchange.end(exchange.text("how", "fin"))
    await head(exchange)
    after = exchange.size("after", 700 << 10)
    stop = min(exchange.stop, exchange.start + after)
    await exchange.body(exchange.start, stop)
    if stop < exchange.stop:
        await exchange.end(exchange.text("how", "fin"))


@fault
async def cut_by_chance(exchange: Exchange) -> None:
    """Every second answer (see `rng`) ends somewhere in its body, in one of the three ways."""
    chance = exchange.chance()
    chance.random()  # the one that said whether it is struck
    await head(exchange)
    stop = exchange.start + chance.randrange(1, max(2, exchange.stop - exchange.start))
    how = chance.choice(exchange.text("how", "fin,reset,hold").split(","))
    if chance.random() < 0.5:
        stop = exchange.stop
    await exchange.body(exchange.start, stop)
    if stop < exchange.stop:
        await exchange.end(how)


@fault
async def dies(exchange: Exchange) -> None:
    """The right answers until `after` bytes of body in all were sent; from then on, in the first phase, every connection ends.

    `how`: that of those that are open; new ones are reset. Without it the second phase must be begun by the test.
    """
    book = exchange.book
    if exchange.phase > 1:
        await file(exchange)
        return
    after = exchange.size("after", 2 << 20)
    if book.sent >= after:
        await exchange.end(exchange.text("how", "reset"))
    await head(exchange)
    at = exchange.start
    while at < exchange.stop:
        step = min(16 << 10, exchange.stop - at, max(0, after - book.sent))
        if not step:
            book.notes["died"] += 1
            await exchange.end(exchange.text("how", "reset"))
        await exchange.body(at, at + step)
        at += step


@fault
async def outage(exchange: Exchange) -> None:
    """Right answers, until `after` bytes in all were sent: then all open connections are silent for ever. New ones are well."""
    book = exchange.book
    generation = book.notes["outage"]
    await head(exchange)
    at = exchange.start
    while at < exchange.stop:
        if generation == 0 and book.sent >= exchange.size("after", 2 << 20):
            book.notes["outage"] = 1
            await exchange.hold()
        step = min(16 << 10, exchange.stop - at)
        await exchange.body(at, at + step)
        at += step


@fault
async def portal(exchange: Exchange) -> None:
    """What a captive portal says to everything: a page of its own, 200 text/html; or a redirect to one."""
    if exchange.text("redirect") and not exchange.record.target.endswith("&landed=1"):
        await exchange.answer(302, f"Location: {exchange.record.target}&landed=1")
        return
    page = b"<html><title>Welcome</title>Please log in.</html>".ljust(1850)
    exchange.record.status = 200
    await exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page))
    await exchange.send(page)


@fault
async def silent(exchange: Exchange) -> None:
    """No answer, for ever; or with `status`, that one."""
    if not exchange.text("status"):
        await exchange.hold()
    await exchange.answer(exchange.size("status"), body=b"<h1>No</h1>")
    if exchange.text("close"):
        raise Gone
