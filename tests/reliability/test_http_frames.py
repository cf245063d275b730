"""HTTP/2 and HTTP/3 with servers that break off: streams are asked for again, connections replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.content import content, first_difference
from tests.support.oddserver import Exchange, File, Habit, OddServer
from tests.support.servers import CA, Caddy, Nginx

DATA = content(8 << 20, seed=58)
Serve = Callable[[Habit], OddServer]


def assert_only(folder: Path) -> None:
    assert os.listdir(folder) == ["a.bin"], "nothing is there but the file"
    assert first_difference((folder / "a.bin").read_bytes(), DATA) is None


def breaks(file: File, times: int) -> Habit:
    """The first `times` answers end after half of their body."""

    def habit(exchange: Exchange) -> None:
        body = file.head(exchange)
        if exchange.server.exchanges.index(exchange) >= times:
            exchange.send(body)
        else:
            exchange.send(body[: len(body) // 2])
            exchange.reset()

    return habit


@pytest.mark.row("H58")
@pytest.mark.parametrize("version", ["2", "3"])
def test_a_stream_that_is_reset_is_asked_for_again(
    version: str, odd: Serve, server_folders: tuple[Path, Path], ca: CA, folder: Path
) -> None:
    """Caddy resets the stream when the server behind it breaks off."""
    behind = odd(breaks(File(DATA), 3))
    relay = f"reverse_proxy /odd/* 127.0.0.1:{behind.port} {{\nflush_interval -1\n}}"
    with Caddy(*server_folders, ca.issue("localhost", "127.0.0.1"), extra=relay) as server:
        url = server.url + "/odd/a.bin"
        done = run("--json", "--http", version, "--cacert", ca.file, url, cwd=folder).done
        assert f"HTTP/{version}.0" in {request.protocol for request in server.wait_for_requests(1, url)}
    assert done["retries"] >= 1
    assert len(behind.exchanges) > 3
    assert_only(folder)


@pytest.mark.row("H58")
def test_connections_that_the_server_ends_by_goaway_are_replaced(
    server_folders: tuple[Path, Path], ca: CA, folder: Path
) -> None:
    # So slow that one connection does not have everything before a second one is opened.
    slow = "keepalive_requests 1; limit_rate 4m;"
    with Nginx(*server_folders, ca.issue("localhost", "127.0.0.1"), http2=True, extra=slow) as server:
        url = server.add("a.bin", DATA)
        run("--json", "--http", "2", "--cacert", ca.file, url, cwd=folder).done  # noqa: B018
        requests = server.wait_for_requests(2, url)
    assert {request.protocol for request in requests} == {"HTTP/2.0"}
    assert len({request.connection for request in requests}) == len(requests)
    assert_only(folder)
