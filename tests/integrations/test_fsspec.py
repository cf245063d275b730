"""fsspec, the real one, reads http through fastidm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.callbacks import Callback
from fsspec.implementations.http import HTTPFileSystem

from fastidm.integrations.fsspec import FastidmHTTPFileSystem, register
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Habit, OddServer
from tests.support.servers import Nginx

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register()
    yield
    for protocol in ("http", "https"):
        fsspec.register_implementation(protocol, HTTPFileSystem, clobber=True)


def test_a_file_is_got_by_the_registered_file_system(nginx: Nginx, tmp_path: Path) -> None:
    data = content(3 * MIB)
    url = nginx.add("got.bin", data)
    fs = fsspec.filesystem("http", skip_instance_cache=True)
    assert isinstance(fs, FastidmHTTPFileSystem)
    fs.get_file(url, str(tmp_path / "got.bin"))
    assert (tmp_path / "got.bin").read_bytes() == data
    fs.get(url, str(tmp_path / "again.bin"))
    assert (tmp_path / "again.bin").read_bytes() == data
    assert fs.cat(url) == data
    assert fs.cat_file(url, start=10, end=20) == data[10:20]
    fs.get_file(url, str(tmp_path / "got.bin"))


def test_its_caches_are_filled_by_it(nginx: Nginx, tmp_path: Path) -> None:
    data = content(MIB)
    url = nginx.add("cached.bin", data)
    for cache in ("simplecache", "filecache"):
        with fsspec.open(f"{cache}::{url}", **{cache: {"cache_storage": str(tmp_path / cache)}}) as file:
            assert file.read() == data


def test_a_file_that_is_opened_is_read_as_before(nginx: Nginx) -> None:
    data = content(MIB)
    with fsspec.open(nginx.add("opened.bin", data)) as file:
        file.seek(1000)
        assert file.read(10) == data[1000:1010]


def test_its_callback_hears_of_every_byte(nginx: Nginx, tmp_path: Path) -> None:
    callback = Callback()
    fs = FastidmHTTPFileSystem(skip_instance_cache=True)
    fs.get_file(nginx.add("heard.bin", content(MIB)), str(tmp_path / "heard.bin"), callback=callback)
    assert (callback.size, callback.value) == (MIB, MIB)


def test_headers_and_options_reach_the_server(odd: Serve, tmp_path: Path) -> None:
    seen: list[str] = []
    file = File(content(MIB))

    def habit(exchange: Exchange) -> None:
        seen.append(exchange.headers.get("x-token", "") + exchange.headers.get("user-agent", ""))
        file(exchange)

    fs = FastidmHTTPFileSystem(headers={"X-Token": "one-"}, fastidm={"user_agent": "two"}, skip_instance_cache=True)
    fs.get_file(odd(habit).url + "/file.bin", str(tmp_path / "file.bin"))
    assert set(seen) == {"one-two"}


def test_a_missing_file_is_what_fsspec_calls_it(nginx: Nginx, tmp_path: Path) -> None:
    fs = FastidmHTTPFileSystem(skip_instance_cache=True)
    for call in (lambda: fs.get_file(nginx.url + "/none", str(tmp_path / "none")), lambda: fs.cat(nginx.url + "/none")):
        with pytest.raises(FileNotFoundError):
            call()
