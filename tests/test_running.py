"""One task: what happens between its machine and the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fastidm.core import checkpoints, connections
from fastidm.core.checkpoints import HeadStart
from fastidm.core.load import Load
from fastidm.core.phase import Phase
from fastidm.events import DownloadStatus, Event, Started
from fastidm.net.transfers import Transfer
from fastidm.options import Options
from fastidm.queue import Queue, Task
from fastidm.storage import linux, whole, writers
from fastidm.storage.target import Target
from fastidm.storage.waydown import WayDown
from tests.support.alone import download
from tests.support.content import content
from tests.support.servers import DemoServer, Nginx, wait_until


def test_nothing_is_published_after_a_checkpoint_has_failed(
    tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint fails when the last byte has come, and the rename already waits for its turn at the disk."""
    with Queue() as manager:
        options = Options(directory=str(tmp_path), limit_rate=10_000_000)
        task = manager.add(nginx.add("poisoned.bin", content(3_000_000)), options)

        def checkpoint(target: Target, rows: bytes) -> None:
            assert task._running is not None
            machine = task._running.machine
            wait_until(lambda: machine.phase is Phase.FINISHING, "the last byte")
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(Target, "checkpoint", checkpoint)
        monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
        manager.run()
    assert task.status is DownloadStatus.FAILED
    assert task.error is not None
    assert task.error.exit_code == 10
    assert not (tmp_path / "poisoned.bin").exists()


@pytest.mark.parametrize("sync", [True, False])
def test_the_disk_begins_while_data_comes_if_it_is_to_be_waited_for(
    tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    handed = []

    def begin_writing(fd: int, start: int, stop: int) -> int:
        handed.append((start, stop))
        return 0

    monkeypatch.setattr(linux, "begin_writing", begin_writing)
    monkeypatch.setattr(checkpoints, "HEAD_START", 1 << 20)
    with Queue() as manager:
        options = Options(directory=str(tmp_path), limit_rate=10_000_000, sync=sync)
        task = manager.add(nginx.add("early.bin", content(6_000_000)), options)
        manager.run()
    assert task.status is DownloadStatus.COMPLETED
    assert (tmp_path / "early.bin").read_bytes() == content(6_000_000)
    assert bool(handed) == sync


@pytest.mark.parametrize("sync", [True, False])
def test_the_sinks_themselves_tell_the_disk_if_it_is_to_be_waited_for(
    tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    handed = []
    monkeypatch.setattr(linux, "begin_writing", lambda fd, start, stop: handed.append((start, stop)) or 0)
    monkeypatch.setattr(HeadStart, "take", lambda head_start, rows: [])
    with Queue() as manager:
        options = Options(output=str(tmp_path / "early.bin"), connections=1, io="pwrite", sync=sync)
        manager.add(nginx.add("early.bin", content(6_000_000)), options)
        manager.run()
    assert (tmp_path / "early.bin").read_bytes() == content(6_000_000)
    assert bool(handed) is sync
    assert sum(stop - start for start, stop in handed) == (handed[-1][1] if sync else 0)


@pytest.mark.parametrize("helper", [True, False])
def test_an_error_of_a_disk_that_began_early_ends_the_download(
    tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch, helper: bool
) -> None:
    monkeypatch.setattr(linux, "begin_writing", lambda fd, start, stop: errno.EIO)
    monkeypatch.setattr(checkpoints, "HEAD_START", 1 << 20)
    if helper:
        monkeypatch.setattr(WayDown, "now", lambda way, start, stop: -1)
    else:
        monkeypatch.setattr(HeadStart, "take", lambda head_start, rows: [])
    with Queue() as manager:
        options = Options(directory=str(tmp_path), limit_rate=10_000_000, connections=1)
        task = manager.add(nginx.add("failing.bin", content(6_000_000)), options)
        manager.run()
    assert task.status is DownloadStatus.FAILED
    assert task.error is not None
    assert task.error.exit_code == 10
    assert not (tmp_path / "failing.bin").exists()


@pytest.mark.parametrize("busy", [True, False])
def test_a_loop_that_never_waits_opens_no_more_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """It says so, and bytes always wait for it; or it always waits."""
    monkeypatch.setattr(Load, "measure", lambda load, now, waited: float(busy))
    monkeypatch.setattr(Transfer, "queued", 100_000)
    with DemoServer(size=6_000_000, rate=6_000_000) as server:
        done = download(server.url, Options(output=str(tmp_path / "file.bin"), connections=4))
    assert (done.connections == 1) is busy


@pytest.mark.parametrize("busy", [True, False])
def test_an_answer_that_finds_the_loop_at_its_limit_brings_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """At each look it seems to be idle, and then it is not."""
    monkeypatch.setattr(connections, "SATURATED_SECONDS", 100.0)
    monkeypatch.setattr(Load, "measure", lambda load, now, waited: 0.0)
    monkeypatch.setattr(Load, "glance", lambda load, now, waited: float(busy))
    monkeypatch.setattr(Transfer, "queued", 100_000)
    with DemoServer(size=6_000_000, rate=2_000_000) as server:
        done = download(server.url, Options(output=str(tmp_path / "file.bin"), connections=4))
    assert (done.connections == 2) is busy


@pytest.mark.parametrize("rename", [False, True])
def test_a_small_file_replaces_none_that_came_up_meanwhile(tmp_path: Path, nginx: Nginx, rename: bool) -> None:
    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Started):
            Path(event.path).write_bytes(b"precious")

    with Queue(observe) as manager:
        options = Options(directory=str(tmp_path), sync=False, rename=rename)
        task = manager.add(nginx.add("small.bin", content(60_000)), options)
        manager.run()
    assert (tmp_path / "small.bin").read_bytes() == b"precious"
    if rename:
        assert (tmp_path / "small (1).bin").read_bytes() == content(60_000)
        assert task.path == str(tmp_path / "small (1).bin")
    else:
        assert task.error is not None
        assert task.error.name == "exists"


def test_a_small_file_that_could_not_be_written_is_no_obstacle_to_a_pause(
    tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for while the disk is at work, which then says that it is full."""

    def write(*arguments: object) -> int:
        manager.call(lambda: manager.pause(task))
        wait_until(lambda: task.status is DownloadStatus.PAUSED, "the pause")
        return errno.ENOSPC

    monkeypatch.setattr(writers, "Writer", writers.PureWriter)
    monkeypatch.setattr(whole, "write_whole", write)
    with Queue() as manager:
        task = manager.add(nginx.add("small.bin", content(60_000)), Options(directory=str(tmp_path), sync=False))
        manager.run()
    assert task.status is DownloadStatus.PAUSED
    assert os.listdir(tmp_path) == []
