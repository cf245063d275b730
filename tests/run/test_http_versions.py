"""HTTP/2 and HTTP/3: the same files, a connection for each segment, and what happens where a server does not have them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pycurl
import pytest

from fastidm.core import connections
from fastidm.options import Options
from fastidm.queue import Queue
from tests.support.alone import download
from tests.support.command import Command, call, run
from tests.support.content import content, first_difference
from tests.support.oddserver import Habit, OddServer, Proxy
from tests.support.servers import CA, Caddy, Nginx, Server

MIB = 1 << 20
SIZE = 8 * MIB
DATA = content(SIZE, seed=41)
PROTOCOLS = {"1.1": "HTTP/1.1", "2": "HTTP/2.0", "3": "HTTP/3.0"}


@pytest.fixture(scope="session", params=[("tls_nginx", "2"), ("caddy", "2"), ("caddy", "3")], ids=" ".join)
def speaking(request: pytest.FixtureRequest) -> tuple[Server, str]:
    """(server, HTTP version) for each of the servers and versions that it has."""
    name, version = request.param
    return request.getfixturevalue(name), version


def assert_only(folder: Path, data: bytes = DATA) -> None:
    assert os.listdir(folder) == ["a.bin"], "nothing is there but the file"
    assert first_difference((folder / "a.bin").read_bytes(), data) is None


def protocols(server: Server, url: str) -> set[str]:
    """What the answered requests for `url` spoke."""
    return {request.protocol for request in server.wait_for_requests(1, url)}


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB + 1, 20 * MIB])
def test_a_file_of_any_size_comes_whole(speaking: tuple[Server, str], size: int, folder: Path, ca: CA) -> None:
    server, version = speaking
    data = content(size, seed=42)
    url = server.add("a.bin", data)
    done = download(url, Options(directory=str(folder), cacert=ca.file, http=version))
    assert (done.size, done.received, done.length_unverified) == (size, size, False)
    assert_only(folder, data)
    assert PROTOCOLS[version] in protocols(server, url)


def test_a_file_of_another_version_before_does_not_decide_it(speaking: tuple[Server, str], folder: Path, ca: CA) -> None:
    """A connection that is open speaks what it speaks."""
    server, version = speaking
    urls = [server.add(f"{number}.bin", DATA) for number in range(3)]
    wanted = ("1.1", version, version)
    with Queue(max_downloads=1) as queue:
        for url, http in zip(urls, wanted, strict=True):
            queue.add(url, Options(directory=str(folder), cacert=ca.file, http=http, connections=1))
        queue.run()
    assert [protocols(server, url) for url in urls] == [{PROTOCOLS[http]} for http in wanted]


def test_both_sinks_write_the_same(pure_and_c: type, speaking: tuple[Server, str], folder: Path, ca: CA) -> None:
    server, version = speaking
    outcome = run("--quiet", "--http", version, "--cacert", ca.file, server.add("a.bin", DATA), cwd=folder)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert_only(folder)


def test_each_segment_has_a_connection_of_its_own(
    speaking: tuple[Server, str], folder: Path, ca: CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, version = speaking
    url = server.add("a.bin", DATA)
    # So slow that a connection's first segment is not yet full when the last connection is opened. It is our own limit that
    # makes it slow, and bytes wait here: those would be reasons not to open others.
    monkeypatch.setattr(connections, "LOSS", 0)
    monkeypatch.setattr(connections, "SATURATED", 2.0)
    done = download(url, Options(directory=str(folder), cacert=ca.file, http=version, connections=4, limit_rate=10 * MIB))
    assert done.connections == 4
    assert len({request.connection for request in server.wait_for_requests(4, url)}) >= 4
    assert_only(folder)


def test_a_rate_limit_holds(speaking: tuple[Server, str], folder: Path, ca: CA) -> None:
    server, version = speaking
    url = server.add("a.bin", DATA)
    done = download(url, Options(directory=str(folder), cacert=ca.file, http=version, limit_rate=8 * MIB))
    assert done.seconds > 0.8
    assert_only(folder)


def test_after_a_kill_it_goes_on_where_it_was(speaking: tuple[Server, str], folder: Path, ca: CA) -> None:
    server, version = speaking
    words = ("--json", "--http", version, "--cacert", ca.file, server.add("a.bin", DATA))
    with Command("--limit-rate", "3M", *words, cwd=folder) as command:
        command.wait_for_received(SIZE // 4)
        command.kill()
    done = run(*words, cwd=folder).done
    assert done["resumed"] >= SIZE // 4
    assert done["received"] == SIZE - done["resumed"]
    assert_only(folder)


# --- servers and libraries without them ---


@pytest.mark.parametrize("version", ["2", "3"])
def test_a_server_that_has_http_1_alone_is_asked_so(
    version: str, server_folders: tuple[Path, Path], ca: CA, folder: Path
) -> None:
    with Nginx(*server_folders, ca.issue("localhost", "127.0.0.1")) as server:
        url = server.add("a.bin", DATA)
        run("--json", "--http", version, "--cacert", ca.file, url, cwd=folder).done  # noqa: B018
        assert protocols(server, url) == {"HTTP/1.1"}
    assert_only(folder)


@pytest.mark.parametrize("silent", [False, True], ids=["no one listens", "no one answers"])
def test_a_server_without_quic_is_asked_over_tcp(silent: bool, tls_nginx: Nginx, ca: CA, folder: Path) -> None:
    url = tls_nginx.add("a.bin", DATA)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        if silent:
            deaf.bind(("127.0.0.1", tls_nginx.port))
        done = run("--json", "--http", "3", "--cacert", ca.file, url, cwd=folder).done
    assert done["retries"] == 0
    assert protocols(tls_nginx, url) == {"HTTP/2.0"}
    assert_only(folder)


@pytest.mark.parametrize("version", ["2", "3"])
def test_without_tls_it_is_http_1(version: str, nginx: Nginx, folder: Path) -> None:
    url = nginx.add("a.bin", DATA)
    download(url, Options(directory=str(folder), http=version))
    assert protocols(nginx, url) == {"HTTP/1.1"}
    assert_only(folder)


@pytest.mark.parametrize("version", ["2", "3"])
def test_no_version_gets_past_a_proxy(
    version: str, odd: Callable[[Habit], OddServer], caddy: Caddy, ca: CA, folder: Path
) -> None:
    """libcurl asks it to carry QUIC first, in a request of its own (RFC 9298)."""
    tunnels = Proxy()
    proxy = odd(lambda exchange: tunnels(exchange) if exchange.method == "CONNECT" else exchange.answer(501))
    url = caddy.add("a.bin", DATA)
    download(url, Options(directory=str(folder), cacert=ca.file, http=version, proxy=proxy.url))
    assert protocols(caddy, url) == {"HTTP/2.0"}
    connections = {request.connection for request in caddy.requests(url)}
    assert len(connections) <= len([exchange for exchange in proxy.exchanges if exchange.method == "CONNECT"])
    assert_only(folder)


@pytest.mark.parametrize("version", ["2", "3"])
def test_an_untrusted_certificate_is_refused_at_once(version: str, caddy: Caddy, folder: Path) -> None:
    outcome = run("--quiet", "--http", version, caddy.add("a.bin", DATA), cwd=folder)
    assert outcome.code == 16
    assert "--cacert" in outcome.complaint
    assert os.listdir(folder) == []


@pytest.mark.parametrize("version", ["2", "3"])
def test_a_port_where_no_one_listens_is_said_to_be_one(version: str, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outcome = run("--quiet", "--http", version, "--retries", "0", f"https://127.0.0.1:{port}/a.bin", cwd=folder)
    assert outcome.code == 6
    assert "the connection is refused" in outcome.complaint


@pytest.mark.parametrize(("version", "bit"), [("2", 16), ("3", 25)])
def test_a_libcurl_without_it_is_a_usage_error(
    version: str, bit: int, monkeypatch: pytest.MonkeyPatch, nginx: Nginx, folder: Path
) -> None:
    known = pycurl.version_info()
    monkeypatch.setattr("fastidm.net.setup.pycurl.version_info", lambda: (*known[:4], known[4] & ~(1 << bit), *known[5:]))
    outcome = call("--quiet", "--http", version, nginx.add("a.bin", DATA), cwd=folder)
    assert outcome.code == 2
    assert f"without HTTP/{version}" in outcome.complaint
    assert os.listdir(folder) == []
