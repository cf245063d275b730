"""Into memory: the same engine, no file, no copy."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import fastidm
from fastidm.errors import IntegrityError, LimitError, NotFoundError
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Gate, Habit, OddServer
from tests.support.servers import Nginx

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 300_000, 9 * MIB + 1])
def test_a_body_of_any_size_is_right(size: int, nginx: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = fastidm.fetch(nginx.add("body.bin", content(size)))
    assert isinstance(body, fastidm.Body)
    assert len(body) == size
    assert bytes(body) == content(size)
    assert (body.result.size, body.result.path) == (size, "")
    assert os.listdir(tmp_path) == []


def test_a_body_can_be_read_without_a_copy_and_is_the_callers_own(nginx: Nginx) -> None:
    data = content(MIB)
    with fastidm.fetch(nginx.add("view.bin", data)) as body:
        with memoryview(body) as view:
            assert view.nbytes == MIB
            view[0:1] = b"!"
            with pytest.raises(BufferError):
                body.close()
        assert hashlib.sha256(body).digest() == hashlib.sha256(b"!" + data[1:]).digest()
    with pytest.raises(ValueError, match="closed"):
        len(body)


def test_a_body_that_nobody_holds_gives_its_memory_back(nginx: Nginx) -> None:
    def maps() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:fastidm")

    body = fastidm.fetch(nginx.add("held.bin", content(MIB)))
    assert maps() == 1
    view = memoryview(body)
    del body
    assert bytes(view[:3]) == content(MIB)[:3]
    view.release()
    del view
    gc.collect()
    assert maps() == 0


def test_a_stream_of_unknown_length_comes_into_memory_too(odd: Serve) -> None:
    data = content(3 * MIB)

    def habit(exchange: Exchange) -> None:
        exchange.head(200, "Connection: close")
        exchange.send(data)
        exchange.close()

    body = fastidm.fetch(odd(habit).url + "/stream")
    assert bytes(body) == data
    assert body.result.length_unverified


def test_several_connections_fill_one_body(odd: Serve) -> None:
    data = content(16 * MIB)
    file = File(data)
    gate = Gate(file, MIB)

    def habit(exchange: Exchange) -> None:
        if not exchange.first:
            gate(exchange)
            return
        file(exchange)
        gate.open()  # only now: else the first might bring everything before the second is answered

    body = fastidm.fetch(odd(habit).url + "/wide.bin", connections=4)
    assert bytes(body) == data
    assert body.result.connections > 1


def test_a_checksum_is_verified(nginx: Nginx) -> None:
    data = content(MIB)
    url = nginx.add("sum.bin", data)
    assert bytes(fastidm.fetch(url, checksum="sha256:" + hashlib.sha256(data).hexdigest())) == data
    with pytest.raises(IntegrityError):
        fastidm.fetch(url, checksum="sha256:" + "0" * 64)


def test_a_body_that_is_too_large_is_refused_before_it_comes(nginx: Nginx) -> None:
    url = nginx.add("large.bin", content(MIB))
    assert len(fastidm.fetch(url, max_size=MIB)) == MIB
    with pytest.raises(LimitError, match=str(MIB)):
        fastidm.fetch(url, max_size=MIB - 1)


def test_a_stream_that_becomes_too_large_is_refused_while_it_comes(odd: Serve) -> None:
    def habit(exchange: Exchange) -> None:
        exchange.head(200, "Connection: close")
        while not exchange.gone():
            exchange.send(bytes(64 << 10))
        exchange.close()

    with pytest.raises(LimitError, match=str(MIB)):
        fastidm.fetch(odd(habit).url + "/endless", max_size=MIB)


def test_an_error_is_raised_and_nothing_stays(nginx: Nginx) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotFoundError):
        fastidm.fetch(nginx.url + "/nothing")
    assert len(os.listdir("/proc/self/fd")) <= before + 2, "but an idle connection"


def test_many_bodies_at_once_in_asyncio(nginx: Nginx) -> None:
    urls = [nginx.add(f"body-{n}.bin", content(200_000, seed=n)) for n in range(20)]

    async def main() -> list[fastidm.Body]:
        return await asyncio.gather(*(fastidm.afetch(url) for url in urls))

    for n, body in enumerate(asyncio.run(main())):
        assert bytes(body) == content(200_000, seed=n)
