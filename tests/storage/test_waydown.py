"""The helper thread that keeps the disk busy: what it does in which order, and that it ends when it should."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from threading import Thread

import pytest

from fastidm.core import checkpoints
from fastidm.core.segments import restore
from fastidm.errors import StorageError
from fastidm.options import Options
from fastidm.storage import linux, waydown
from fastidm.storage.pages import ROWS
from fastidm.storage.target import Content, Target
from fastidm.storage.waydown import WayDown
from tests.support.servers import wait_until

MIB = 1 << 20
SIZE = 8 * MIB


class Way:
    """A way down whose steps are noted: a range that was handed down, or the bytes of a checkpoint that is done."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, error: int = 0) -> None:
        monkeypatch.setattr(checkpoints, "HEAD_START", MIB)
        monkeypatch.setattr(linux, "begin_writing", self._begin_writing)
        self.error = error
        self.steps: list[object] = []
        self.target = Target(str(folder / "file"), "http://host/file", Options())
        assert self.target.prepare() is None
        self.target.begin(Content(SIZE, None, None), bytes(restore(SIZE, (), (), ROWS)))
        self.down = WayDown(self.target, self.steps.append)

    def _begin_writing(self, fd: int, start: int, stop: int) -> int:
        assert fd == self.target.fd
        self.steps.append((start, stop))
        return self.error

    def write(self, stop: int) -> bytes:
        """The file's bytes below `stop` are written; returns a copy of the table."""
        os.pwrite(self.target.fd, bytes(stop), 0)
        words = self.target.table.cast("q")
        words[2], words[3] = stop, ~stop
        words.release()
        return bytes(self.target.table)


def test_it_hands_down_what_comes_and_ends_when_nothing_more_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(tmp_path, monkeypatch)
    way.write(2 * MIB)
    thread = Thread(target=way.down.run)
    thread.start()
    wait_until(lambda: way.steps == [(0, 2 * MIB)], "the first range")
    way.write(4 * MIB)
    wait_until(lambda: way.steps == [(0, 2 * MIB), (2 * MIB, 4 * MIB)], "the second")
    thread.join(10)
    assert not thread.is_alive()
    way.target.close()


def test_a_checkpoint_that_is_asked_for_while_it_runs_is_made_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(tmp_path, monkeypatch)
    monkeypatch.setattr(waydown, "IDLE_ROUNDS", 1000)
    thread = Thread(target=way.down.run)
    thread.start()
    way.down.checkpoint(way.write(100), 100)
    wait_until(lambda: way.steps == [100], "the checkpoint")
    assert not way.down.asked
    way.down.hurry()
    thread.join(5)
    assert not thread.is_alive(), "hurry ends it"
    way.target.close()


def test_a_checkpoint_comes_first_and_one_that_was_not_begun_waits_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = Way(tmp_path, monkeypatch)
    way.down.checkpoint(way.write(2 * MIB), 2 * MIB)
    way.down.hurry()
    begun = time.monotonic()
    assert way.down.run()
    assert time.monotonic() - begun < 0.2
    assert way.steps == []
    assert way.down.asked
    way.down.run()
    assert way.steps == [2 * MIB, (0, 2 * MIB)]
    way.target.close()


def test_the_loop_tells_the_disk_until_it_has_waited_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(tmp_path, monkeypatch)
    long = [2.0, 0.5, 2.0, 0.5, 2.0]
    times = iter([at for each in long for at in (1.0, 1.0 + waydown.LONG * each)])
    monkeypatch.setattr(waydown, "monotonic", lambda: next(times))
    assert [way.down.now(at * MIB, (at + 1) * MIB) for at in range(7)] == [0] * 5 + [-1] * 2
    assert way.steps == [(at * MIB, (at + 1) * MIB) for at in range(5)]
    way.target.close()


def test_where_the_disk_cannot_be_told_it_makes_checkpoints_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(tmp_path, monkeypatch, errno.ENOSYS)
    way.write(2 * MIB)
    assert not way.down.run()
    way.down.checkpoint(way.write(3 * MIB), 3 * MIB)
    assert not way.down.run()
    assert way.steps == [(0, 2 * MIB), 3 * MIB]
    way.target.close()


def test_an_error_ends_it_and_every_later_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(tmp_path, monkeypatch, errno.EIO)
    rows = way.write(2 * MIB)
    with pytest.raises(StorageError):
        way.down.run()
    way.down.checkpoint(rows, 2 * MIB)
    with pytest.raises(StorageError):
        way.down.run()
    assert way.steps == [(0, 2 * MIB)]
    way.target.close()
