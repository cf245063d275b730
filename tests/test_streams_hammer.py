"""Streams from a server that resets and stalls at random, with pieces that are asked for twice all the time: every byte is
right, none is missing, none comes twice."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

import fastidm
from fastidm import streams
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Habit, OddServer

MIB = 1 << 20
DATA = content(12 * MIB)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_server_does_the_bytes_are_right(
    seed: int, odd: Callable[[Habit], OddServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PATIENCE", 0.01)
    monkeypatch.setattr(streams, "SLOW", 0.5)
    monkeypatch.setattr(streams, "UNKNOWING", 0.05)
    chance, file = Random(seed), File(DATA)
    held: set[int | None] = {None, 0}

    def habit(exchange: Exchange) -> None:
        body, fate = file.head(exchange), chance.random()
        if fate < 0.15:
            exchange.send(body[: chance.randrange(len(body) + 1)])
            exchange.reset()
        if fate < 0.3 and exchange.first not in held:  # the second request for the same piece is served
            held.add(exchange.first)
            exchange.send(body[: len(body) // 2])
            exchange.hold()
        exchange.send(body)

    server = odd(habit)
    with fastidm.stream(server.url + "/stream", connections=chance.choice((2, 5, 16)), retries=30) as stream:
        got = bytearray()
        while block := stream.read(chance.choice((1000, 100_000, 3 * MIB))):
            got += block
    assert bytes(got) == DATA
    with fastidm.open(server.url + "/file", connections=chance.choice((2, 5, 16)), retries=30) as opened:
        for _ in range(10):
            at, count = chance.randrange(len(DATA)), chance.choice((10, 100_000, MIB))
            opened.seek(at)
            assert opened.read(count) == DATA[at : at + count]
