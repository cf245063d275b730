"""fsspec, the real one, reads http through fastidm."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import pytest
from fsspec.callbacks import Callback
from fsspec.implementations.http import HTTPFileSystem, get_client

from fastidm.integrations.fsspec import FastidmHTTPFileSystem, register
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Habit, OddServer
from tests.support.servers import CA, Nginx

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


def served_parts(server: OddServer) -> bool:
    """Whether a download of ours was there: fsspec asks for whole files."""
    return any(exchange.headers.get("range") for exchange in server.exchanges)


@pytest.mark.parametrize(
    "asked",
    [
        {"ssl": aiohttp.Fingerprint(b"0" * 32)},
        {"ssl": False},
        {"proxy_headers": {"a": "b"}},
        {"max_redirects": 1},
        {"allow_redirects": False},
        {"timeout": aiohttp.ClientTimeout(total=9)},
        {"cookies": {"a": "b"}},
        {"client_kwargs": {"read_bufsize": 1 << 16}},
        {"client_kwargs": {"cookies": {"a": "b"}}},
        {"get_client": lambda loop=None, **named: get_client(loop=loop, **named)},
    ],
    ids=lambda asked: "-".join(asked),
)
def test_what_is_not_understood_is_left_to_fsspec(asked: dict[str, Any], odd: Serve, tmp_path: Path) -> None:
    server = odd(File(content(1000)))
    fs = FastidmHTTPFileSystem(skip_instance_cache=True, **asked)
    assert fs.cat(server.url + "/x") == content(1000)
    fs.get_file(server.url + "/x", str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == content(1000)
    assert not served_parts(server)


def test_a_certificate_is_pinned_as_without_us(tls_nginx: Nginx, ca: CA) -> None:
    fs = FastidmHTTPFileSystem(skip_instance_cache=True, ssl=aiohttp.Fingerprint(b"0" * 32), fastidm={"cacert": ca.file})
    with pytest.raises(aiohttp.ServerFingerprintMismatch):
        fs.cat(tls_nginx.add("pinned.bin", b"secret"))


def test_headers_of_the_client_are_sent(odd: Serve) -> None:
    seen: list[tuple[str | None, str | None]] = []
    file = File(content(1000))

    def habit(exchange: Exchange) -> None:
        seen.append((exchange.headers.get("authorization"), exchange.headers.get("x-kind")))
        file(exchange)

    server = odd(habit)
    client = {"headers": {"Authorization": "Bearer 1", "X-Kind": "client"}, "trust_env": True}
    fs = FastidmHTTPFileSystem(skip_instance_cache=True, client_kwargs=client, headers={"X-Kind": "request"})
    assert fs.cat(server.url + "/x") == content(1000)
    assert seen == [("Bearer 1", "request")]
    assert served_parts(server)


def test_two_threads_may_get_the_same_file(odd: Serve, tmp_path: Path) -> None:
    data, both, begun = content(3 * MIB), threading.Event(), []
    file = File(data)

    def habit(exchange: Exchange) -> None:
        body = file.head(exchange)
        if not exchange.first:
            begun.append(exchange)
            exchange.send(body[:MIB])
            if len(begun) > 1:
                both.set()
            both.wait(10)  # each is at work before one is done
            body = body[MIB:]
        exchange.send(body)

    url, target = odd(habit).url + "/same.bin", tmp_path / "same.bin"

    def get() -> None:
        FastidmHTTPFileSystem(skip_instance_cache=True).get_file(url, str(target))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(get), pool.submit(get)]:
            done.result()
    assert target.read_bytes() == data
    assert os.listdir(tmp_path) == ["same.bin"]


def test_a_private_file_stays_private_and_a_link_a_link(nginx: Nginx, tmp_path: Path) -> None:
    url, target, link = nginx.add("private.bin", content(3 * MIB)), tmp_path / "private.bin", tmp_path / "link.bin"
    target.write_bytes(b"before")
    target.chmod(0o640)
    link.symlink_to(target)
    FastidmHTTPFileSystem(skip_instance_cache=True).get_file(url, str(link))
    assert target.read_bytes() == content(3 * MIB)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert link.is_symlink()
