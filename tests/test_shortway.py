"""The short way of small files: it makes no machine, and whatever happens on it ends as it would with one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from fastidm import shortway
from fastidm.core.phase import Phase
from fastidm.events import DownloadStatus, Event, Finished, Progress, Retrying, Started
from fastidm.options import Options
from fastidm.queue import Queue, Task
from fastidm.running import RunningTask
from fastidm.storage import whole, writers
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Gate, Habit, OddServer
from tests.support.servers import Nginx

DATA = content(100_000)
LARGE = content(700_000)
GOOD = File(DATA)


def in_turn(*habits: Habit) -> Callable[[], Habit]:
    """Makes a habit that does with the first request what the first of them says, and so on; the last one stays."""

    def make() -> Habit:
        left = list(habits)
        return lambda exchange: (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return make


def breaks(exchange: Exchange) -> None:
    exchange.send(GOOD.head(exchange)[: len(DATA) // 2])
    exchange.reset()


def closes_within_the_head(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 206 Partial Content\r\nContent-")
    exchange.close()


def closes_early(exchange: Exchange) -> None:
    exchange.send(GOOD.head(exchange)[:-1])
    exchange.close()


def of_no_length(exchange: Exchange) -> None:
    exchange.head(200, "Connection: close")
    exchange.send(DATA)
    exchange.close()


def sends(status: int, *lines: str, body: bytes = b"") -> Habit:
    return lambda exchange: exchange.answer(status, *lines, body=body)


ABC = "Repr-Digest: sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:"

CASES: dict[str, Callable[[], Habit]] = {
    "a small file": in_turn(GOOD),
    "one byte": in_turn(File(b"x")),
    "an empty file": in_turn(File(b"")),
    "a large file": in_turn(File(LARGE)),
    "no parts": in_turn(sends(200, body=DATA)),
    "no length": in_turn(of_no_length),
    "a name of the server's": in_turn(File(DATA, lines=('Content-Disposition: attachment; filename="other.bin"',))),
    "a checksum that is right": in_turn(File(b"abc", lines=(ABC,))),
    "a checksum that is wrong": in_turn(File(b"abd", lines=(ABC,))),
    "elsewhere": in_turn(sends(302, "Location: /f.bin?2"), GOOD),
    "nowhere": in_turn(sends(404)),
    "busy at first": in_turn(sends(503), GOOD),
    "told to wait": in_turn(sends(429, "Retry-After: 1"), GOOD),
    "refused": in_turn(sends(403)),
    "an encoded body": in_turn(sends(200, "Content-Encoding: gzip", body=DATA)),
    "a part that begins elsewhere": in_turn(sends(206, "Content-Range: bytes 5-9/10", body=b"abcde")),
    "broken half-way": in_turn(breaks, GOOD),
    "broken within the head": in_turn(closes_within_the_head, GOOD),
    "closed before the last byte": in_turn(closes_early, GOOD),
}  # fmt: skip


def outcome(habit: Habit, folder: Path, options: Options) -> dict[str, object]:
    """All that a user can see of one download, but for times."""
    told: list[tuple[str, dict[str, object]]] = []

    def observe(task: Task, event: Event) -> None:
        if not isinstance(event, Progress):
            kept = {f.name: getattr(event, f.name) for f in fields(event) if f.name not in ("seconds", "rate", "delay")}
            told.append((event.kind, kept))

    folder.mkdir()
    with OddServer(habit) as server, Queue(observe) as queue:
        task = queue.add(f"{server.url}/f.bin", options)
        queue.run()
        return {
            "events": [(kind, {name: _same(value, server, folder) for name, value in kept.items()}) for kind, kept in told],
            "status": task.status,
            "error": task.error and (task.error.name, _same(task.error.message, server, folder), task.error.hint),
            "files": {path.name: path.read_bytes() for path in folder.iterdir()},
            "requests": [exchange.headers.get("range") for exchange in server.exchanges],
        }


def _same(value: object, server: OddServer, folder: Path) -> object:
    return value.replace(server.url, "URL").replace(str(folder), "DIR") if isinstance(value, str) else value


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_short_way_changes_no_outcome(case: str, sync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def options(folder: str) -> Options:
        return Options(directory=str(tmp_path / folder), sync=sync, retries=2)

    short = outcome(CASES[case](), tmp_path / "short", options("short"))
    monkeypatch.setattr(RunningTask, "_take_short_way", lambda self, now: False)
    assert short == outcome(CASES[case](), tmp_path / "long", options("long"))


def test_a_plain_small_file_makes_no_machine(tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortway, "SHORT", 60.0)  # however busy this computer is
    running: list[RunningTask | None] = []

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Started):
            running.append(task._running)

    with Queue(observe) as queue:
        task = queue.add(nginx.add("small.bin", DATA), Options(directory=str(tmp_path), sync=False))
        queue.run()
    assert task.status is DownloadStatus.COMPLETED
    assert (tmp_path / "small.bin").read_bytes() == DATA
    assert running[0] is not None and running[0]._machine is None


def test_one_that_does_not_come_soon_is_taken_over_by_the_machine_with_all_that_came(tmp_path: Path) -> None:
    half = len(DATA) // 2
    gate = Gate(GOOD, half)
    received: list[int] = []

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Progress):
            received.append(event.received)
            if event.received >= half:
                gate.open()

    with OddServer(gate) as server, Queue(observe) as queue:
        task = queue.add(f"{server.url}/f.bin", Options(directory=str(tmp_path), connections=1))
        queue.run()
        assert task.status is DownloadStatus.COMPLETED
        assert [exchange.headers["range"] for exchange in server.exchanges] == ["bytes=0-"]
    assert half in received
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"f.bin": DATA}


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("wish", ["pause", "cancel", "limit"])
def test_a_wish_on_the_way_is_obeyed(answered: bool, wish: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortway, "SHORT", 60.0)  # nothing but the wish ends it
    gate = Gate(GOOD, 1000)

    def serve(exchange: Exchange) -> None:
        if not answered:
            queue.call(act)
            exchange.server.wait_for(lambda: done or exchange.gone(), "the wish")
        gate(exchange)

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Started) and answered:
            queue.call(act)

    def act() -> None:
        running = task._running
        assert running is not None and running._machine is None and running._short is not None
        assert (running._short.sink is not None) == answered
        if wish == "pause":
            queue.pause(task)
        elif wish == "cancel":
            queue.cancel(task, delete=True)
        else:
            queue.set_limit(10_000_000, task)
            gate.open()
        done.append(wish)
        server.notify()

    done: list[str] = []
    with OddServer(serve) as server, Queue(observe) as queue:
        task = queue.add(f"{server.url}/f.bin", Options(directory=str(tmp_path), sync=False))
        queue.run()
    assert done == [wish]
    if wish == "limit":
        assert task.status is DownloadStatus.COMPLETED
        assert (tmp_path / "f.bin").read_bytes() == DATA
    else:
        assert task.status is (DownloadStatus.PAUSED if wish == "pause" else DownloadStatus.FAILED)
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("wish", ["pause", "nothing", "cancel"])
def test_a_machine_that_is_made_while_the_file_is_being_written_waits_for_that(
    wish: str, tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def write(folder: bytes, path: bytes, data: bytearray, sync: bool) -> int:
        queue.call(act)
        assert asked.wait(30)
        return written(folder, path, data, sync)

    def act() -> None:
        running = task._running
        assert running is not None and running._machine is None
        if wish == "pause":
            queue.pause(task)
        elif wish == "cancel":
            queue.cancel(task)
        else:
            assert running.machine.phase is Phase.FINISHING
        asked.set()

    written = whole.write_whole
    monkeypatch.setattr(writers, "Writer", writers.PureWriter)
    monkeypatch.setattr(whole, "write_whole", write)
    monkeypatch.setattr(shortway, "SHORT", 60.0)
    with Queue() as queue:
        task = queue.add(nginx.add("small.bin", DATA), Options(directory=str(tmp_path), sync=False))
        queue.run()
    assert task.status is DownloadStatus.COMPLETED  # it was too late to stop it
    assert task.result is not None and task.result.received == len(DATA)
    assert (tmp_path / "small.bin").read_bytes() == DATA


def test_a_server_that_tells_another_file_to_wait_does_not_hold_up_one_that_is_under_way(tmp_path: Path) -> None:
    """The name in its head is what ends the short way."""
    told = threading.Event()

    def serve(exchange: Exchange) -> None:
        if exchange.target == "/busy":
            exchange.server.wait_for_requests(2)
            exchange.answer(429, "Retry-After: 3600")
        else:
            exchange.server.wait_for(told.is_set, "the word of the server")
            File(DATA, lines=('Content-Disposition: attachment; filename="other.bin"',))(exchange)

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Retrying):
            told.set()
            server.notify()
        elif isinstance(event, Finished):
            queue.stop()

    with OddServer(serve) as server, Queue(observe) as queue:
        tasks = [queue.add(f"{server.url}/{name}", Options(directory=str(tmp_path))) for name in ("busy", "good")]
        queue.run()
        assert [task.status for task in tasks] == [DownloadStatus.PAUSED, DownloadStatus.COMPLETED]
        assert len(server.exchanges) == 2
    assert (tmp_path / "other.bin").read_bytes() == DATA


def test_a_share_of_the_connections_needs_no_machine_and_holds_for_the_one_that_comes(
    tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortway, "SHORT", 60.0)  # the large one may keep the loop busy
    shares: list[int] = []

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Started):
            assert task._running is not None
            if task is small:
                assert task._running._machine is None
            else:
                shares.append(task._running.machine.connections.share)

    with Queue(observe, max_connections=3) as queue:
        options = Options(directory=str(tmp_path), sync=False, connections=16)
        large = queue.add(nginx.add("large.bin", content(30_000_000)), options)
        small = queue.add(nginx.add("small.bin", DATA), options)
        queue.run()
    assert (small.status, large.status) == (DownloadStatus.COMPLETED, DownloadStatus.COMPLETED)
    assert shares in ([2], [3])  # of 16; all three when the small one has ended before


def test_what_broke_is_counted_as_a_retry(tmp_path: Path) -> None:
    seen: list[Event] = []
    with OddServer(CASES["busy at first"]()) as server, Queue(lambda task, event: seen.append(event)) as queue:
        queue.add(f"{server.url}/f.bin", Options(directory=str(tmp_path)))
        queue.run()
    assert [type(event) for event in seen if not isinstance(event, Progress)] == [Retrying, Started, Finished]
