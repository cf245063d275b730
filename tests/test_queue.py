"""The queue: several files at once, stopping from elsewhere, one that fails alone."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

import fastidm
from fastidm.core.task import TaskMachine
from fastidm.errors import InterruptedDownload, NotFoundError, UsageError
from fastidm.events import DownloadStatus, Event, Finished, Progress
from fastidm.options import Options
from fastidm.queue import Queue, Task
from tests.support.content import content
from tests.support.oddserver import Exchange, File, OddServer
from tests.support.servers import Nginx


def test_a_task_that_has_ended_keeps_what_may_be_asked_and_lets_go_of_the_rest(tmp_path: Path, nginx: Nginx) -> None:
    with Queue() as manager:
        options = Options(directory=str(tmp_path))
        good, bad = (manager.add(url, options) for url in (nginx.add("good.bin", b"x"), nginx.url + "/missing"))
        manager.run()
    assert (good.status, good.path, good.error) == (DownloadStatus.COMPLETED, str(tmp_path / "good.bin"), None)
    assert bad.status is DownloadStatus.FAILED
    assert isinstance(bad.error, NotFoundError)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, TaskMachine) and thing.url in (good.url, bad.url)]


def test_many_files_run_a_few_at_a_time_and_each_is_right(tmp_path: Path, nginx: Nginx) -> None:
    files = {f"many-{n}.bin": content(1 + 300_000 * n, seed=n) for n in range(12)}
    running: set[str] = set()
    most = 0

    def observe(task: Task, event: Event) -> None:
        nonlocal most
        if isinstance(event, Finished):
            running.discard(task.url)
        else:
            running.add(task.url)
        most = max(most, len(running))

    with Queue(observe, max_downloads=4) as manager:
        tasks = [manager.add(nginx.add(name, data), Options(directory=str(tmp_path))) for name, data in files.items()]
        assert {task.status for task in tasks} == {DownloadStatus.PENDING}
        manager.run()
    assert {task.status for task in tasks} == {DownloadStatus.COMPLETED}
    assert 1 < most <= 4
    for name, data in files.items():
        assert (tmp_path / name).read_bytes() == data


def test_one_failure_leaves_the_others_alone(tmp_path: Path, nginx: Nginx) -> None:
    options = Options(directory=str(tmp_path))
    with Queue(max_downloads=1) as manager:
        bad = manager.add(nginx.url + "/not-there", options)
        good = manager.add(nginx.add("there.bin", content(2_000_000)), options)
        manager.run()
    assert (bad.status, good.status) == (DownloadStatus.FAILED, DownloadStatus.COMPLETED)
    assert isinstance(bad.error, NotFoundError)
    assert good.error is None


def test_stop_from_another_thread_pauses_and_the_same_task_goes_on_later(tmp_path: Path, nginx: Nginx) -> None:
    data = content(30_000_000)
    options = Options(directory=str(tmp_path), limit_rate=10_000_000)
    seen = threading.Event()

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Progress) and event.received > 2_000_000:
            seen.set()

    url = nginx.add("stopped.bin", data)
    manager = Queue(observe)
    task, waiting = manager.add(url, options), manager.add(url + "?not-started", options)
    manager._max_downloads = 1

    def stop() -> None:
        seen.wait(60)
        manager.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    manager.run()
    stopper.join()
    manager.close()
    assert task.status is waiting.status is DownloadStatus.PAUSED
    assert isinstance(task.error, InterruptedDownload)
    assert sorted(os.listdir(tmp_path)) == ["stopped.bin.fastidm", "stopped.bin.part"]
    done = fastidm.download(url, dir=tmp_path)
    assert done.resumed > 2_000_000
    assert (tmp_path / "stopped.bin").read_bytes() == data
    assert os.listdir(tmp_path) == ["stopped.bin"]


def test_stop_before_run_starts_nothing(tmp_path: Path, nginx: Nginx) -> None:
    with Queue() as manager:
        task = manager.add(nginx.add("never.bin", b"x"), Options(directory=str(tmp_path)))
        manager.stop()
        manager.run()
    assert task.status is DownloadStatus.PAUSED
    assert os.listdir(tmp_path) == []


NO_URLS = ["", "example.com/f", "ftp://h/f", "http://", "http://:80/", "http://h:x/", "http://h:70000/", "http://h/a b", "http://h/\n"]


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_http_url_is_refused_at_once(url: str) -> None:
    with Queue() as manager, pytest.raises(UsageError):
        manager.add(url)


def test_a_manager_runs_at_least_one_task() -> None:
    with pytest.raises(UsageError):
        Queue(max_downloads=0)


def test_a_defect_in_one_task_leaves_the_others_alone(tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    with Queue() as manager:
        urls = [nginx.add(f"{name}.bin", content(3_000_000)) for name in ("bad", "good")]
        bad, good = (manager.add(url, Options(directory=str(tmp_path))) for url in urls)
        manager._start_more()
        assert bad._running is not None
        monkeypatch.setattr(bad._running.machine, "opened", broken)
        manager.run()
    assert (bad.status, good.status) == (DownloadStatus.FAILED, DownloadStatus.COMPLETED)
    assert bad.error is not None
    assert bad.error.exit_code == 1
    assert "ZeroDivisionError" in bad.error.message


def test_closing_a_manager_twice_is_fine(tmp_path: Path) -> None:
    manager = Queue()
    manager.close()
    manager.close()
    manager.stop()


def test_after_a_suspend_of_the_machine_the_dead_connections_are_made_anew_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's first answers stop for ever in the middle; what wakes them is the clock that went on in the sleep."""
    data = content(3_000_000)
    file, asleep = File(data), threading.Event()

    def habit(exchange: Exchange) -> None:
        if asleep.is_set():
            file(exchange)
        else:
            exchange.send(file.head(exchange)[:100_000])
            exchange.hold()

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Progress) and event.received:
            asleep.set()

    monkeypatch.setattr("fastidm.engine.slept", lambda: 60.0 * asleep.is_set())
    with OddServer(habit) as server, Queue(observe) as manager:
        task = manager.add(server.url + "/a.bin", Options(directory=str(tmp_path), connections=1))
        manager.run()
        assert task.status is DownloadStatus.COMPLETED
        assert task.result is not None and task.result.seconds < 5
    assert (tmp_path / "a.bin").read_bytes() == data
