"""Redirects: in chains and loops, to other places, to forbidden ones, and to links that expire."""

from __future__ import annotations

from urllib.parse import urlencode

from tests.reliability.exchange import Exchange, fault
from tests.reliability.faults_file import file


@fault
async def redirect(exchange: Exchange) -> None:
    """To `to`, by `status` (302)."""
    await exchange.answer(exchange.size("status", 302), f"Location: {exchange.text('to')}")


@fault
async def chain(exchange: Exchange) -> None:
    """`hops` redirects, each to itself with one less; `hops=-1` never ends."""
    hops = exchange.size("hops", 3)
    if hops == 0:
        await file(exchange)
        return
    path, _, _ = exchange.record.target.partition("?")
    rest = {"hops": max(-1, hops - 1), "size": exchange.total, "seed": exchange.seed}
    await exchange.answer(302, f"Location: {path}?{urlencode(rest)}")


@fault
async def signed(exchange: Exchange) -> None:
    """A redirect to a link that is good for `uses` requests, and a new link each time; then `status` (403).

    `dead=1`: there are no new links: the second and all that follow are as bad as the first. `sticks` keeps the client at the
    link: no redirect, the URL itself expires.
    """
    path, _, query = exchange.record.target.partition("?")
    notes, uses = exchange.book.notes, exchange.size("uses", 3)
    token = exchange.text("token") or ("0" if exchange.text("sticks") else "")
    if not token:
        notes["tokens"] += 1
        await exchange.answer(302, f"Location: {path}?{query}&token={notes['tokens']}")
        return
    notes[token] += 1
    spent = notes[token] > uses or (exchange.text("dead") and int(token) > 1)
    if spent and exchange.phase == 1:
        await exchange.answer(exchange.size("status", 403), body=b"expired")
    else:
        await file(exchange)
