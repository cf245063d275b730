"""pooch, the real one, downloads through fastidm."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import pooch
import pytest

from fastidm.errors import NetworkError
from fastidm.integrations.pooch import FastidmDownloader
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Habit, OddServer
from tests.support.servers import Nginx

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]


def known(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_retrieve_brings_the_file_and_nothing_else(nginx: Nginx, tmp_path: Path) -> None:
    data = content(3 * MIB)
    url = nginx.add("pooch.bin", data)
    path = pooch.retrieve(url, known(data), fname="here.bin", path=tmp_path, downloader=FastidmDownloader())
    assert Path(path).read_bytes() == data
    assert os.listdir(tmp_path) == ["here.bin"]


def test_a_registry_is_fetched_and_asked_whether_files_are_there(nginx: Nginx, tmp_path: Path) -> None:
    data = content(MIB)
    base = nginx.add("listed.bin", data).removesuffix("listed.bin")
    brain = pooch.create(path=tmp_path, base_url=base, registry={"listed.bin": known(data), "gone.bin": None})
    downloader = FastidmDownloader(connections=4)
    assert brain.is_available("listed.bin", downloader=downloader)
    assert not brain.is_available("gone.bin", downloader=downloader)
    assert Path(brain.fetch("listed.bin", downloader=downloader)).read_bytes() == data


def test_what_an_interrupted_attempt_has_brought_is_not_fetched_again(odd: Serve, tmp_path: Path) -> None:
    data = content(8 * MIB)
    file = File(data)

    def breaks(exchange: Exchange) -> None:
        body = file.head(exchange)
        exchange.send(body[: 4 * MIB] if not exchange.first else b"")
        exchange.reset()

    server = odd(breaks)
    downloader = FastidmDownloader(retries=0, connections=1)
    with pytest.raises(NetworkError):
        pooch.retrieve(server.url + "/some.bin", known(data), fname="some.bin", path=tmp_path, downloader=downloader)
    server.habit = file
    before = len(server.exchanges)
    path = pooch.retrieve(server.url + "/some.bin", known(data), fname="some.bin", path=tmp_path, downloader=downloader)
    assert Path(path).read_bytes() == data
    assert sum(exchange.sent for exchange in server.exchanges[before:]) < 5 * MIB
    assert os.listdir(tmp_path) == ["some.bin"]


def test_an_open_file_is_written_to_as_well(nginx: Nginx) -> None:
    data = content(MIB)
    into = io.BytesIO()
    FastidmDownloader()(nginx.add("open.bin", data), into, None)
    assert into.getvalue() == data


def test_a_bar_is_drawn_on_request(nginx: Nginx, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = nginx.add("bar.bin", content(MIB))
    FastidmDownloader(progressbar=True)(url, str(tmp_path / "bar.bin"), None)
    assert "1.05M/1.05M" in capsys.readouterr().err


def test_a_bar_of_ones_own_is_moved(nginx: Nginx, tmp_path: Path) -> None:
    class Bar:
        total, moved, closed = 0, 0, False

        def update(self, count: int) -> None:
            self.moved += count

        def reset(self) -> None:
            self.moved = 0

        def close(self) -> None:
            self.closed = True

    bar = Bar()
    FastidmDownloader(progressbar=bar)(nginx.add("own-bar.bin", content(MIB)), str(tmp_path / "own-bar.bin"), None)
    assert (bar.total, bar.moved, bar.closed) == (MIB, MIB, True)


def test_to_ask_whether_it_is_there_fetches_nothing() -> None:
    data = content(8 * MIB)

    def habit(exchange: Exchange) -> None:
        exchange.answer(*((200,) if exchange.target == "/there" else (500,)), body=data)

    downloader = FastidmDownloader(retries=3)
    with OddServer(habit) as server:
        assert downloader(server.url + "/there", None, None, check_only=True) is True
        assert downloader(server.url + "/broken", None, None, check_only=True) is False
        assert len(server.exchanges) == 2
    with pytest.raises(NetworkError):
        downloader(server.url + "/there", None, None, check_only=True)


def test_what_is_written_to_need_not_say_how_much_it_took(nginx: Nginx) -> None:
    class Into:
        def __init__(self) -> None:
            self.got = b""

        def write(self, block: memoryview) -> None:
            self.got += block

    into = Into()
    FastidmDownloader()(nginx.add("silent.bin", content(MIB)), into, None)  # type: ignore[arg-type]
    assert into.got == content(MIB)
