"""Requests over real servers: heads, bodies, reuse of connections, pausing, cancelling, waking."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from fastidm.core.response import Head
from fastidm.core.retry import PASSING, Trouble
from fastidm.net import transfers as module
from fastidm.net.errors import trouble_of
from fastidm.net.transfers import REST, Transfer, Transfers, parse_head
from fastidm.options import Options
from fastidm.storage.sink import PAUSE
from tests.support.content import content
from tests.support.servers import CA, Caddy, Nginx

SECONDS = 20.0


class Got:
    """What came of one request."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.body = bytearray()
        self.end: tuple[int, str] | None = None

    def sink(self, block: memoryview) -> None:
        self.body += block


class World:
    """`Transfers`, and a loop that runs until something is true."""

    def __init__(self) -> None:
        self.settled = 0
        self.transfers = Transfers(self._settle)

    def _settle(self) -> None:
        self.settled += 1

    def start(self, url: str, got: Got, first: int | None = 0, last: int | None = None, **other: object) -> Transfer:
        given = {"trusted": True, "fresh": False, "sink": got.sink, "on_head": got.heads.append} | other
        options = given.pop("options", Options())
        return self.transfers.start(
            options, url, first, last, on_end=lambda *end: setattr(got, "end", end), **given  # type: ignore[arg-type]
        )

    def until(self, done: Callable[[], object]) -> None:
        deadline = monotonic() + SECONDS
        while not done():
            assert monotonic() < deadline
            self.transfers.wait(1.0)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.transfers.close()


def test_a_range_comes_with_its_head_first(world: World, nginx: Nginx) -> None:
    data = content(100_000)
    got = Got()
    world.start(nginx.add("range.bin", data), got, 1000, 49_999)
    world.until(lambda: got.end)
    assert got.end == (0, "")
    assert [head.status for head in got.heads] == [206]
    assert got.heads[0].get("content-range") == "bytes 1000-49999/100000"
    assert got.body == data[1000:50_000]
    assert world.settled > 0


def test_without_epoll_requests_come_as_well(nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that have poll alone."""
    monkeypatch.delattr("select.epoll", raising=False)
    world = World()
    data = content(3_000_000)
    url, results = nginx.add("polled.bin", data), [Got() for _ in range(8)]
    for got in results:
        world.start(url, got)
    world.until(lambda: all(got.end for got in results))
    assert [(got.end, bytes(got.body)) for got in results] == [((0, ""), data)] * 8
    world.transfers.wake()
    began = monotonic()
    world.transfers.wait(SECONDS)
    assert monotonic() - began < SECONDS
    world.transfers.close()


def test_no_range_is_asked_where_none_is_wanted(world: World, nginx: Nginx) -> None:
    got = Got()
    world.start(nginx.add("whole.bin", content(10)), got, None)
    world.until(lambda: got.end)
    assert got.heads[0].status == 200
    assert got.body == content(10)


def test_many_requests_share_kept_alive_connections_unless_fresh_ones_are_wanted(world: World, nginx: Nginx) -> None:
    url = nginx.add("reused.bin", content(1000))
    before = len(nginx.requests())
    for fresh in (False, False, True):
        got = Got()
        world.start(url, got, fresh=fresh)
        world.until(lambda got=got: got.end)
    first, second, third = [request.connection for request in nginx.requests()[before:]]
    assert first == second != third


@pytest.mark.parametrize(("version", "connections"), [("1.1", 2), ("2", 1)])
def test_what_waits_on_a_used_connection_is_suspect_unless_it_comes_in_frames(
    version: str, connections: int, world: World, tls_nginx: Nginx, ca: CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastidm.net.transfers._readable", lambda fd: True)
    url = tls_nginx.add("suspect.bin", content(1000))
    for _ in range(2):
        got = Got()
        world.start(url, got, options=Options(cacert=ca.file, http=version))
        world.until(lambda got=got: got.end)
        assert (got.end, got.body) == ((0, ""), content(1000))
    assert len({request.connection for request in tls_nginx.wait_for_requests(2, url)}) == connections


@pytest.mark.parametrize("version", ["2", "3"])
def test_requests_at_the_same_time_share_no_connection(version: str, world: World, caddy: Caddy, ca: CA) -> None:
    url = caddy.add("alone.bin", content(1000))
    options = Options(cacert=ca.file, http=version)
    world.start(url, first := Got(), options=options)
    world.until(lambda: first.end)  # now there is a connection that could be shared
    all_got = [Got() for _ in range(3)]
    held = [world.start(url, got, options=options, sink=lambda block: PAUSE) for got in all_got]
    world.until(lambda: all(got.heads for got in all_got))
    for transfer, got in zip(held, all_got, strict=True):
        transfer.receive_into(got.sink)
        transfer.go_on()
    world.until(lambda: all(got.end for got in all_got))
    assert [(got.end, got.body) for got in all_got] == [((0, ""), content(1000))] * 3
    requests = caddy.wait_for_requests(4, url)
    assert f"HTTP/{version}.0" in {request.protocol for request in requests}
    assert len({request.connection for request in requests}) == 3, "the first one is used again"


@pytest.mark.parametrize("version", ["1.1", "2", "3"])
def test_the_connection_of_a_cancelled_transfer_is_not_used_again(version: str, world: World, caddy: Caddy, ca: CA) -> None:
    options = Options(cacert=ca.file, http=version)
    before, after = caddy.add("before.bin", content(1000)), caddy.add("after.bin", content(1000))
    world.start(before, one := Got(), options=options)
    world.until(lambda: one.end)
    # This goes over the same connection. The server may not note that it was given up: its end need not get there over UDP.
    transfer = world.start(caddy.add("given-up.bin", content(50_000_000)), got := Got(), options=options)
    world.until(lambda: got.body)
    world.transfers.cancel(transfer)
    world.start(after, other := Got(), options=options)
    world.until(lambda: other.end)
    assert other.body == content(1000)
    (first,), (last,) = caddy.wait_for_requests(1, before), caddy.wait_for_requests(1, after)
    assert first.connection != last.connection


@pytest.mark.parametrize(
    ("code", "trouble"),
    [(16, Trouble.BROKEN), (92, Trouble.BROKEN), (95, Trouble.BROKEN), (96, Trouble.CONNECT), (55, Trouble.BROKEN)],
)
def test_what_breaks_in_http_2_and_3_passes(code: int, trouble: Trouble) -> None:
    assert trouble_of(code, "words") == (trouble, "words")
    assert trouble in PASSING


def test_a_body_waits_until_it_is_given_a_sink(world: World, nginx: Nginx) -> None:
    data = content(3_000_000)
    got = Got()
    transfer = world.start(nginx.add("held.bin", data), got, sink=lambda block: PAUSE)
    world.until(lambda: got.heads)
    for _ in range(3):
        world.transfers.wait(0.01)
    assert got.end is None
    transfer.receive_into(got.sink)
    transfer.go_on()
    world.until(lambda: got.end)
    assert got.end == (0, "")
    assert got.body == data


def test_a_paused_transfer_receives_nothing_until_it_goes_on(world: World) -> None:
    got = Got()
    with socket.create_server(("127.0.0.1", 0)) as server:
        transfer = world.start(f"http://127.0.0.1:{server.getsockname()[1]}/", got)
        world.until(lambda: _readable(server))
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfront")
            world.until(lambda: got.body == b"front")
            transfer.pause()
            peer.sendall(b" back")
            for _ in range(5):
                world.transfers.wait(0.01)
            assert got.body == b"front"
            transfer.go_on()
            world.until(lambda: got.end)
    assert got.body == b"front back"


def test_pausing_before_there_is_a_connection_is_no_error(world: World, nginx: Nginx) -> None:
    got = Got()
    transfer = world.start(nginx.add("early.bin", content(10)), got)
    transfer.pause()
    transfer.go_on()
    world.until(lambda: got.end)
    assert got.body == content(10)


def test_a_cancelled_transfer_tells_nothing_more(world: World, nginx: Nginx) -> None:
    got, other = Got(), Got()
    url = nginx.add("cancelled.bin", content(50_000_000))
    transfer = world.start(url, got)
    world.until(lambda: got.body)
    world.transfers.cancel(transfer)
    received = len(got.body)
    world.start(nginx.add("after.bin", content(10)), other)
    world.until(lambda: other.end)
    assert got.end is None
    assert len(got.body) == received


def test_a_refused_connection_is_told_with_libcurls_code(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    got = Got()
    world.start(f"http://127.0.0.1:{port}/", got)
    world.until(lambda: got.end)
    assert got.end is not None
    trouble, detail = trouble_of(*got.end)
    assert trouble is Trouble.CONNECT
    assert str(port) in detail


def test_what_it_waits_is_counted_and_what_it_works_is_not(world: World, nginx: Nginx) -> None:
    begun = monotonic()
    world.transfers.wait(0.1)
    assert world.transfers.waited == pytest.approx(monotonic() - begun, abs=0.05)

    def busy(block: memoryview) -> None:
        until = monotonic() + 0.2
        while monotonic() < until:
            pass

    before, begun, got = world.transfers.waited, monotonic(), Got()
    world.start(nginx.add("waited.bin", content(1000)), got, sink=busy)
    world.until(lambda: got.end)
    assert world.transfers.waited - before <= monotonic() - begun - 0.2


class Clock:
    """Time that passes only while somebody rests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.rests: list[float] = []
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


def test_a_round_that_follows_at_once_rests_but_no_longer_than_it_may_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    for timeout in (0.0, 0.001, REST / 2, 0.0):
        world.transfers.wait(timeout)
    assert clock.rests == pytest.approx([REST, REST / 2])
    assert world.transfers.waited == pytest.approx(1.5 * REST), "to rest is to wait"
    clock.now += REST
    world.transfers.wait(0.001)
    assert len(clock.rests) == 2, "enough time has passed"


@pytest.mark.parametrize("what", ["wake", "start"])
def test_what_is_asked_for_is_done_without_a_rest(
    world: World, nginx: Nginx, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    clock = Clock(monkeypatch)
    world.transfers.wait(0)
    if what == "wake":
        world.transfers.wake()
    else:
        world.start(nginx.add("asked.bin", content(10)), Got())
    world.transfers.wait(1.0)
    assert clock.rests == []


def test_small_answers_are_not_waited_for(world: World, nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(module, "sleep", rests.append)
    url = nginx.add("small.bin", content(1000))
    for _ in range(20):
        got = Got()
        world.start(url, got)
        world.until(lambda got=got: got.end)
    assert rests == []


def test_waking_from_another_thread_ends_the_wait(world: World) -> None:
    began = monotonic()
    waker = threading.Thread(target=world.transfers.wake)
    waker.start()
    world.transfers.wait(SECONDS)
    waker.join()
    assert monotonic() - began < SECONDS / 2


def test_a_thousand_wakes_are_as_good_as_one(world: World) -> None:
    for _ in range(100_000):
        world.transfers.wake()
    world.transfers.wait(SECONDS)
    began = monotonic()
    world.transfers.wait(0.05)
    assert monotonic() - began >= 0.04, "no wake is left over"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_wake_while_an_earlier_one_is_being_heard_does_not_silence_later_ones(
    world: World, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    read = os.read

    def slow_read(fd: int, size: int) -> bytes:
        if when == "before":
            world.transfers.wake()
        data = read(fd, size)
        if when == "after":
            world.transfers.wake()
        return data

    world.transfers.wake()
    with monkeypatch.context() as patched:
        patched.setattr(os, "read", slow_read)
        world.transfers.wait(SECONDS)
    world.transfers.wake()
    began = monotonic()
    world.transfers.wait(SECONDS)
    assert monotonic() - began < SECONDS / 2


def test_a_defect_in_a_callback_ends_the_loop_and_is_not_just_printed(world: World, nginx: Nginx) -> None:
    def broken(head: Head) -> None:
        raise ZeroDivisionError

    world.start(nginx.add("defect.bin", b"x"), Got(), on_head=broken)
    with pytest.raises(ZeroDivisionError):
        world.until(lambda: False)


def test_secrets_go_to_the_trusted_origin_only(world: World) -> None:
    options = Options(headers=("X-Secret: canary",), user="me:canary")
    for trusted in (True, False):
        with socket.create_server(("127.0.0.1", 0)) as server:
            got = Got()
            world.start(f"http://127.0.0.1:{server.getsockname()[1]}/", got, options=options, trusted=trusted)
            world.until(lambda server=server: _readable(server))
            peer, _ = server.accept()
            with peer:
                world.until(lambda peer=peer: _readable(peer))
                request = peer.recv(65536)
        assert (b"canary" in request) is trusted
        assert (b"Authorization: Basic" in request) is trusted
        assert b"Accept-Encoding: identity\r\n" in request
        world.until(lambda got=got: got.end)


def _readable(sock: socket.socket) -> bool:
    import select

    return bool(select.select([sock], [], [], 0.01)[0])


@pytest.mark.parametrize(
    ("lines", "status", "fields"),
    [
        ([b"HTTP/1.1 200 OK\r\n", b"ETag: \"a\"\r\n"], 200, (("etag", '"a"'),)),
        ([b"HTTP/2 206\r\n", b"X:1\r\n", b"x: 2\r\n"], 206, (("x", "1"), ("x", "2"))),
        ([b"HTTP/1.0 404 \xff\r\n", b"no field\r\n", b": empty\r\n"], 404, (("", "empty"),)),
        ([b"HTTP/1.1 200 OK\r\n", b"A: " + b"b" * 90_000 + b"\r\n"], 200, (("a", "b" * 90_000),)),
        ([b"nonsense\r\n"], 0, ()),
        ([], 0, ()),
    ],
)
def test_heads_are_read_without_trust(lines: list[bytes], status: int, fields: tuple[tuple[str, str], ...]) -> None:
    assert parse_head(lines) == Head(status, fields)


def test_what_a_user_writes_need_not_be_ascii(world: World) -> None:
    name = "zoë"
    secrets = {"headers": (f"X-Name: {name}",), "user": f"{name}:ß"}
    options = Options(user_agent=name, cookie_file=f"/{name}", cacert=f"/{name}", **secrets)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as server:
        got = Got()
        world.start(f"http://127.0.0.1:{server.getsockname()[1]}/é", got, options=options)
        world.until(lambda: _readable(server))
        peer, _ = server.accept()
        with peer:
            world.until(lambda: _readable(peer))
            request = peer.recv(65536)
    world.until(lambda: got.end)
    assert request.startswith(b"GET /%C3%A9 HTTP/1.1\r\n")
    assert "X-Name: zoë\r\n".encode() in request


def test_the_cookies_of_one_request_are_not_sent_with_the_next(world: World, tmp_path: Path) -> None:
    jar = tmp_path / "cookies.txt"
    jar.write_text("127.0.0.1\tFALSE\t/\tFALSE\t0\tsecret\tcanary\n")
    for options, expected in ((Options(cookie_file=str(jar)), True), (Options(), False)):
        with socket.create_server(("127.0.0.1", 0)) as server:
            got = Got()
            world.start(f"http://127.0.0.1:{server.getsockname()[1]}/", got, options=options)
            world.until(lambda server=server: _readable(server))
            peer, _ = server.accept()
            with peer:
                world.until(lambda peer=peer: _readable(peer))
                assert (b"canary" in peer.recv(65536)) is expected
        world.until(lambda got=got: got.end)


def test_closing_twice_and_waking_afterwards_touch_no_foreign_descriptor(tmp_path: Path) -> None:
    transfers = Transfers(lambda: None)
    transfers.close()
    with open(tmp_path / "foreign", "wb+", buffering=0) as first, open(tmp_path / "other", "wb+", buffering=0) as second:
        transfers.wake()
        transfers.close()
        for file in (first, second):
            file.write(b"mine")
            assert os.fstat(file.fileno()).st_size == 4
