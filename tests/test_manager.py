"""Downloads in the background: every method from any thread, callbacks that harm nobody, limits that are kept."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastidm import DownloadManager, DownloadStatus, DownloadTask
from fastidm.errors import FastidmError, InterruptedDownload, NotFoundError, UsageError
from fastidm.events import Event, Failed, Finished, Paused, Progress, Started
from fastidm.storage.target import Target
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Gate, Habit, OddServer
from tests.support.servers import Nginx, wait_until

MIB = 1 << 20
DATA = content(4 * MIB)
Serve = Callable[[Habit], OddServer]


def half(task: DownloadTask) -> None:
    """Wait until a gate at 2 MiB holds the rest back."""
    wait_until(lambda: task.progress.received >= MIB, "the first half")


def test_it_downloads_in_the_background_and_the_end_of_the_block_waits_for_all(tmp_path: Path, nginx: Nginx) -> None:
    files = {f"back-{n}.bin": content(1 + 300_000 * n, seed=n) for n in range(8)}
    with DownloadManager() as manager:
        tasks = [manager.add(nginx.add(name, data), tmp_path / name) for name, data in files.items()]
        assert manager.tasks == tuple(tasks)
    assert {task.status for task in tasks} == {DownloadStatus.COMPLETED}
    for name, data in files.items():
        assert (tmp_path / name).read_bytes() == data


def test_wait_returns_the_result_and_raises_the_error_of_its_task(tmp_path: Path, nginx: Nginx) -> None:
    with DownloadManager() as manager:
        good = manager.add(nginx.add("good.bin", DATA), dir=tmp_path)
        bad = manager.add(nginx.url + "/nothing", dir=tmp_path)
        assert good.wait(30).size == len(DATA)
        with pytest.raises(NotFoundError):
            bad.wait(30)
    assert good.wait() is good.result


def test_wait_gives_up_after_its_time(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    with DownloadManager() as manager:
        task = manager.add(odd(gate).url + "/a.bin", dir=tmp_path)
        with pytest.raises(TimeoutError):
            task.wait(0.05)
        assert not manager.wait_all(0.05)
        gate.open()
        assert manager.wait_all(30)


def test_a_paused_task_goes_on_where_it_was(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    with DownloadManager() as manager:
        task = manager.add(odd(gate).url + "/a.bin", dir=tmp_path)
        half(task)
        task.pause()
        with pytest.raises(InterruptedDownload):
            task.wait(30)
        assert task.status is DownloadStatus.PAUSED
        assert task.progress.received >= MIB
        assert sorted(os.listdir(tmp_path)) == ["a.bin.fastidm", "a.bin.part"]
        gate.open()
        task.resume()
        assert task.wait(30).resumed >= MIB
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_pause_that_is_taken_back_at_once_is_none(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    with DownloadManager() as manager:
        task = manager.add(odd(gate).url + "/a.bin", dir=tmp_path)
        half(task)
        for _ in range(5):
            task.pause()
            task.resume()
        gate.open()
        task.wait(30)
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_task_that_waits_for_its_turn_can_be_paused_and_resumed(tmp_path: Path, odd: Serve, nginx: Nginx) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    with DownloadManager(max_downloads=1) as manager:
        first = manager.add(odd(gate).url + "/a.bin", dir=tmp_path)
        second = manager.add(nginx.add("second.bin", b"x"), dir=tmp_path)
        second.pause()
        assert second.settled(30)
        assert second.status is DownloadStatus.PAUSED
        second.resume()
        gate.open()
        assert second.wait(30).size == 1
        first.wait(30)


def test_a_failed_task_can_be_tried_again(tmp_path: Path, odd: Serve) -> None:
    there = threading.Event()
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        if there.is_set():
            file(exchange)
        else:
            exchange.head(404, "Content-Length: 0")

    with DownloadManager() as manager:
        task = manager.add(odd(habit).url + "/a.bin", dir=tmp_path)
        with pytest.raises(NotFoundError):
            task.wait(30)
        there.set()
        task.resume()
        assert task.wait(30).size == len(DATA)
        assert task.error is None


@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("when", ["running", "paused", "waiting"])
def test_a_cancelled_task_has_failed_and_keeps_or_deletes_what_it_has(
    when: str, delete: bool, tmp_path: Path, odd: Serve
) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    server = odd(gate)
    with DownloadManager(max_downloads=1) as manager:
        task = manager.add(server.url + "/a.bin", dir=tmp_path)
        half(task)
        if when == "paused":
            task.pause()
            task.settled(30)
        victim = manager.add(server.url + "/b.bin", dir=tmp_path) if when == "waiting" else task
        victim.cancel(delete)
        with pytest.raises(InterruptedDownload, match="cancelled"):
            victim.wait(30)
        assert victim.status is DownloadStatus.FAILED
        assert victim not in manager.tasks
        kept = [] if delete and when != "waiting" else ["a.bin.fastidm", "a.bin.part"]
        assert sorted(os.listdir(tmp_path)) == kept
        victim.resume()
        assert victim.settled(30)
        assert victim.status is DownloadStatus.FAILED
        gate.open()


def test_a_finished_file_survives_its_cancelling(tmp_path: Path, nginx: Nginx) -> None:
    with DownloadManager() as manager:
        task = manager.add(nginx.add("done.bin", DATA), dir=tmp_path)
        task.wait(30)
        task.cancel(delete=True)
        task.pause()
        task.resume()
        manager.wait_all(30)
    assert task.status is DownloadStatus.COMPLETED
    assert (tmp_path / "done.bin").read_bytes() == DATA


def test_those_with_a_higher_priority_begin_first(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 0)
    order: list[str] = []

    def look(task: DownloadTask, event: Event) -> None:
        if isinstance(event, Finished):
            order.append(task.url[-1])

    server = odd(gate)
    with DownloadManager(look, max_downloads=1) as manager:
        first = manager.add(server.url + "/0", dir=tmp_path)
        wait_until(lambda: first.status is DownloadStatus.DOWNLOADING, "the first")
        for name, priority in (("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0)):
            manager.add(f"{server.url}/{name}", dir=tmp_path, priority=priority)
        gate.open()
    wait_until(lambda: len(order) == 6, "the last callback")
    assert "".join(order) == "0bdaec"


def test_pause_all_and_resume_all(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    server = odd(gate)
    with DownloadManager(max_downloads=2) as manager:
        tasks = [manager.add(f"{server.url}/{n}", dir=tmp_path) for n in range(4)]
        half(tasks[1])
        manager.pause_all()
        assert manager.wait_all(30)
        assert {task.status for task in tasks} == {DownloadStatus.PAUSED}
        gate.open()
        manager.resume_all()
    assert {task.status for task in tasks} == {DownloadStatus.COMPLETED}
    for n in range(4):
        assert (tmp_path / str(n)).read_bytes() == DATA


# ---------------------------------------------------------------------- looking


def test_progress_can_be_read_at_any_time_and_the_segments_are_a_view(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    with DownloadManager() as manager:
        task = manager.add(odd(gate).url + "/a.bin", dir=tmp_path)
        assert len(task.progress.segments) == 0 or task.progress.total is not None
        half(task)
        progress = task.progress
        assert progress.total == len(DATA)
        rows = progress.segments
        assert not rows.flags.owndata
        assert not rows.flags.writeable
        used = rows[rows["stop"] > 0]
        assert (used["position"] - used["start"]).sum() >= MIB
        assert used["stop"].max() == len(DATA)
        gate.open()
        task.wait(30)
        assert (progress.received, progress.total) == (len(DATA), len(DATA))
        assert len(rows) > 0, "what was looked at stays readable"
        assert len(progress.segments) == 0


def test_events_come_in_order_and_end_with_the_last(tmp_path: Path, nginx: Nginx) -> None:
    with DownloadManager() as manager:
        task = manager.add(nginx.add("events.bin", DATA), dir=tmp_path, limit_rate=8 * MIB)
        kinds = [type(event) for event in task.events()]
        assert list(task.events()) == []
    assert kinds[-1] is Finished
    assert set(kinds) <= {Started, Progress, Finished}


def test_events_can_be_awaited(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 2 * MIB)

    async def main(task: DownloadTask) -> list[Event]:
        found: list[Event] = []
        async for event in task.events():
            found.append(event)
            if isinstance(event, Progress) and event.received >= MIB:
                task.pause()
        return found

    with DownloadManager() as manager:
        found = asyncio.run(main(manager.add(odd(gate).url + "/a.bin", dir=tmp_path)))
        gate.open()
    assert isinstance(found[-1], Paused)


# ---------------------------------------------------------------------- callbacks


def test_a_callback_runs_off_the_engines_thread(tmp_path: Path, nginx: Nginx) -> None:
    threads = set()
    done = threading.Event()

    def look(event: Event) -> None:
        threads.add(threading.current_thread().name)
        if isinstance(event, Finished):
            done.set()

    with DownloadManager() as manager:
        manager.add(nginx.add("callback.bin", DATA), dir=tmp_path, on_event=look)
    assert done.wait(30)
    assert threads == {"fastidm-callbacks"}


def test_a_callback_that_raises_fails_its_task_and_no_other(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    server = odd(gate)

    def broken(event: Event) -> None:
        raise ZeroDivisionError("oh")

    with DownloadManager() as manager:
        bad = manager.add(server.url + "/bad", dir=tmp_path, on_event=broken)
        good = manager.add(server.url + "/good", dir=tmp_path)
        with pytest.raises(FastidmError, match="ZeroDivisionError: oh"):
            bad.wait(30)
        gate.open()
        good.wait(30)
    assert (bad.status, good.status) == (DownloadStatus.FAILED, DownloadStatus.COMPLETED)
    assert isinstance(bad.error, FastidmError)
    assert isinstance(bad.error.__cause__, ZeroDivisionError)


def test_a_callback_that_blocks_stops_no_transfer_and_gets_only_the_latest_progress(tmp_path: Path, nginx: Nginx) -> None:
    free = threading.Event()
    seen: list[Event] = []

    def slow(task: DownloadTask, event: Event) -> None:
        free.wait(60)
        seen.append(event)

    with DownloadManager(slow) as manager:
        tasks = [manager.add(nginx.add(f"slow-{n}.bin", DATA), dir=tmp_path, limit_rate=8 * MIB) for n in range(2)]
        for task in tasks:
            task.wait(30)
        free.set()
        wait_until(lambda: sum(isinstance(event, Finished) for event in seen) == 2, "the last callback")
    assert sum(isinstance(event, Progress) for event in seen) <= 4


def test_a_callback_may_call_everything_but_close(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    server = odd(gate)
    refused = threading.Event()

    def look(event: Event) -> None:
        if isinstance(event, Started):
            manager.add(server.url + "/second", dir=tmp_path)
            task.set_limit(None)
            try:
                manager.close()
            except RuntimeError:
                refused.set()
            gate.open()

    with DownloadManager() as manager:
        task = manager.add(server.url + "/first", dir=tmp_path, on_event=look)
        task.wait(30)
        assert refused.wait(30)
        wait_until(lambda: len(manager.tasks) == 2, "the second task")
    assert sorted(os.listdir(tmp_path)) == ["first", "second"]


# ---------------------------------------------------------------------- limits




class Counting:
    """Counts the requests that are being answered at the same time."""

    def __init__(self, habit: Habit) -> None:
        self.habit = habit
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.habit(exchange)
        finally:
            with self._lock:
                self.now -= 1


@pytest.mark.parametrize("limits", [{"max_connections": 3}, {"max_per_host": 3}, {"max_connections": 9, "max_per_host": 3}])
def test_all_tasks_together_keep_to_the_connections_that_are_allowed(
    limits: dict[str, int], tmp_path: Path, odd: Serve
) -> None:
    gate = Gate(File(DATA), MIB)
    counting = Counting(gate)
    server = odd(counting)
    with DownloadManager(max_downloads=8, **limits) as manager:  # type: ignore[arg-type]
        tasks = [manager.add(f"{server.url}/{n}", dir=tmp_path) for n in range(6)]
        wait_until(lambda: counting.now == 3, "three connections")
        assert sum(task.status is DownloadStatus.DOWNLOADING for task in tasks) <= 3
        gate.open()
    assert sorted(os.listdir(tmp_path)) == [str(n) for n in range(6)]
    assert counting.most <= 3


def test_a_limit_of_all_tasks_together_can_be_set_and_lifted(tmp_path: Path, nginx: Nginx) -> None:
    with DownloadManager(limit_rate=MIB // 4) as manager:
        tasks = [manager.add(nginx.add(f"limit-{n}.bin", DATA), dir=tmp_path) for n in range(2)]
        wait_until(lambda: all(task.progress.received for task in tasks), "the first bytes")
        assert not manager.wait_all(0.3)
        manager.set_limit(None)
        assert manager.wait_all(10)


def test_a_limit_of_one_task_can_be_set_and_lifted(tmp_path: Path, nginx: Nginx) -> None:
    with DownloadManager() as manager:
        task = manager.add(nginx.add("limited.bin", DATA), dir=tmp_path, limit_rate=MIB // 4)
        wait_until(lambda: task.progress.received > 0, "the first bytes")
        assert not task.settled(0.3)
        task.set_limit(None)
        assert task.settled(10)


@pytest.mark.parametrize("name", ["max_downloads", "max_connections", "max_per_host", "limit_rate"])
def test_a_limit_below_one_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        DownloadManager(**{name: 0})  # type: ignore[arg-type]


# ---------------------------------------------------------------------- the end


def test_closing_pauses_what_runs_and_what_waits(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    server = odd(gate)
    manager = DownloadManager(max_downloads=1)
    tasks = [manager.add(f"{server.url}/{n}", dir=tmp_path) for n in range(2)]
    half(tasks[0])
    manager.close()
    manager.close()
    assert {task.status for task in tasks} == {DownloadStatus.PAUSED}
    for task in tasks:
        with pytest.raises(InterruptedDownload):
            task.wait(1)
        with pytest.raises(RuntimeError, match="closed"):
            task.resume()
        assert task.settled(1)
    with pytest.raises(RuntimeError, match="closed"):
        manager.add(server.url + "/late", dir=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["0.fastidm", "0.part"]
    gate.open()


def test_a_block_that_raises_pauses_its_tasks(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), 2 * MIB)
    manager = DownloadManager()
    task = manager.add(odd(gate).url + "/a", dir=tmp_path)
    half(task)
    manager.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert task.status is DownloadStatus.PAUSED
    gate.open()


def test_no_thread_and_no_descriptor_is_left(tmp_path: Path, nginx: Nginx) -> None:
    def left() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    with DownloadManager() as manager:
        manager.add(nginx.add("warm.bin", b"x"), dir=tmp_path)
    before = left()
    for n in range(5):
        with DownloadManager(lambda task, event: None) as manager:
            manager.add(nginx.add(f"leak-{n}.bin", DATA), dir=tmp_path)
    wait_until(lambda: left() <= before, "the last thread")


def test_a_failure_is_told_as_an_event(tmp_path: Path, nginx: Nginx) -> None:
    with DownloadManager() as manager:
        task = manager.make(nginx.url + "/missing", dir=tmp_path)
        events = task.events()
        task.begin()
        found = list(events)
    assert isinstance(found[-1], Failed)
    assert found[-1].error == "not_found"


# ---------------------------------------------------------------------- what must not hang


@pytest.mark.timeout(30)
@pytest.mark.parametrize("rate", ["x", 0, -1, 1.5, b"2M"])
def test_a_limit_that_cannot_be_is_said_to_who_sets_it_and_harms_nobody(rate: Any, tmp_path: Path, nginx: Nginx) -> None:
    with DownloadManager() as manager:
        task = manager.add(nginx.add("limit.bin", DATA), dir=tmp_path)
        for call in (manager.set_limit, task.set_limit):
            with pytest.raises(UsageError):
                call(rate)
        manager.set_limit("1G")
        assert task.wait(20).size == len(DATA)


@pytest.mark.parametrize("priority", ["1", 1.0, 1 << 70, None])
def test_a_priority_that_cannot_be_is_said_to_who_gives_it(priority: Any, tmp_path: Path) -> None:
    with DownloadManager() as manager, pytest.raises(UsageError, match="priority"):
        manager.add("http://127.0.0.1:1/x", dir=tmp_path, priority=priority)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("module", ["manager", "background"])
def test_a_thread_that_cannot_be_had_at_first_is_asked_for_again(
    module: str, tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter((True,))

    class Refusing(threading.Thread):
        def start(self) -> None:
            if next(refusals, False):
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(f"fastidm.{module}.Thread", Refusing)
    url = nginx.add("thread.bin", DATA)
    with DownloadManager() as manager:
        if module == "manager":
            with pytest.raises(RuntimeError, match="can't start"):
                manager.add(url, dir=tmp_path)
            assert manager.tasks == ()
        assert manager.add(url, dir=tmp_path).wait(20).size == len(DATA)


@pytest.mark.timeout(30)
def test_a_defect_in_the_queues_thread_is_told_and_ends_no_other_task(
    tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    with DownloadManager() as manager:
        manager._do(lambda queue: 1 // 0)
        assert manager.add(nginx.add("defect.bin", DATA), dir=tmp_path).wait(20).size == len(DATA)
    assert len(told) == 1


@pytest.mark.timeout(30)
def test_closing_tells_who_waits_while_the_disk_is_at_work(
    tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, at_work, finish = threading.Event(), threading.Event(), Target.finish

    def slow(self: Target, *rest: Any) -> None:
        at_work.set()
        go_on.wait(20)
        finish(self, *rest)

    monkeypatch.setattr(Target, "finish", slow)
    manager = DownloadManager()
    task = manager.add(nginx.add("slow-disk.bin", DATA), dir=tmp_path)
    events = task.events()
    assert at_work.wait(10)
    try:
        manager.close()
        with pytest.raises(InterruptedDownload):
            task.wait(10)
        assert [event.kind for event in events][-1] == "pause"
    finally:
        go_on.set()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("pause_before", [True, False])
def test_what_was_cancelled_does_not_come_back(pause_before: bool, tmp_path: Path, odd: Serve) -> None:
    manager = DownloadManager(state_dir=tmp_path / "state")
    task = manager.add(odd(Gate(File(content(30 * MIB)), 10 * MIB)).url + "/gone.bin", dir=tmp_path)
    half(task)
    if pause_before:
        task.pause()
        assert task.settled(10)
    task.cancel(delete=True)
    manager.close()
    with pytest.raises(InterruptedDownload):
        task.wait(10)
    with DownloadManager(state_dir=tmp_path / "state") as following:
        assert following.tasks == ()


def test_no_thread_for_callbacks_is_left(tmp_path: Path, nginx: Nginx) -> None:
    def callers() -> int:
        return sum(thread.name == "fastidm-callbacks" for thread in threading.enumerate())

    before, url = callers(), nginx.add("callers.bin", DATA)
    for number in range(20):
        manager = DownloadManager(lambda task, event: None)
        manager.add(url, tmp_path / str(number))
        manager.close()
    wait_until(lambda: callers() == before, "the end of their threads")


@pytest.mark.timeout(30)
def test_a_callback_that_wants_to_end_the_program_fails_its_task_and_no_other(tmp_path: Path, nginx: Nginx) -> None:
    heard: list[str] = []

    def on_event(task: DownloadTask, event: Event) -> None:
        heard.append(event.kind)
        if task.url.endswith("exits.bin"):
            raise SystemExit("no")

    with DownloadManager(on_event) as manager:
        bad = manager.add(nginx.add("exits.bin", DATA), dir=tmp_path)
        wait_until(lambda: heard, "its callback")
        assert manager.add(nginx.add("stays.bin", DATA), dir=tmp_path).wait(20).size == len(DATA)
        assert bad.settled(10)
        wait_until(lambda: "done" in heard, "the others' callbacks")


def test_a_forked_child_waits_for_nothing_of_its_parent(tmp_path: Path, odd: Serve) -> None:
    program = (
        "import os, signal, sys, fastidm\n"
        "manager = fastidm.DownloadManager()\n"
        "task = manager.add(sys.argv[1], sys.argv[2])\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(10)\n"
        "    for call in (task.wait, task.events, manager.wait_all, task.pause, lambda: manager.set_limit(1)):\n"
        "        try:\n"
        "            call()\n"
        "        except RuntimeError as error:\n"
        "            print(error, flush=True)\n"
        "    os._exit(0)\n"
        "assert os.wait()[1] == 0\n"
        "manager.close()\n"
    )
    url = odd(Gate(File(DATA), 2 * MIB)).url + "/forked.bin"
    arguments = [sys.executable, "-c", program, url, str(tmp_path / "forked.bin")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("belongs to the process that made it") == 5
