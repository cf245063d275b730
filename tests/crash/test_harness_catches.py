"""The harness is tested itself: each classic mistake about the order of writes and syncs, made on purpose, is caught.

The mistakes are patches made here; the product has no switch for them. The same scenarios without a patch have no violation,
which `test_power_cuts.py` shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from fastidm.storage import journal as journal_module
from fastidm.storage import linux, owned, pages, place
from fastidm.storage.journal import Journal
from fastidm.storage.pages import raw_epoch
from fastidm.storage.partfile import PartFile
from fastidm.storage.sink import PureSink
from fastidm.storage.target import Target
from tests.crash.driver import Run
from tests.crash.judge import Reader
from tests.crash.recorder import Recorder
from tests.crash.scenarios import (
    DATA,
    Scenario,
    judged,
    killed_in_each_sync,
    recorded,
    turns,
    with_a_failing_disk,
    with_a_head_start,
    with_sinks_that_tell_the_disk,
    without_a_break,
)

Mistake = Callable[[], AbstractContextManager[object]]

FALSE_CLAIM = "claimed and not all on the disk"
LOST = "were checkpointed"
UNSOUND_FILE = "the final name on an incomplete file"
LOST_FILE = "a finished file is gone"
FALSE_AFTER_KILL = "claimed and not in the file"


def snapshot_after_the_sync() -> AbstractContextManager[object]:
    def checkpoint(self: Target, rows: bytes) -> None:
        assert self._part is not None and self._journal is not None
        self._sync(self._part)
        self._journal.checkpoint(bytes(self.table))

    return patch.object(Target, "checkpoint", checkpoint)


def slot_before_the_sync() -> AbstractContextManager[object]:
    def checkpoint(self: Target, rows: bytes) -> None:
        assert self._part is not None and self._journal is not None
        self._journal.checkpoint(rows)
        self._sync(self._part)

    return patch.object(Target, "checkpoint", checkpoint)


def no_sync_of_the_data() -> AbstractContextManager[object]:
    return patch.object(PartFile, "sync", lambda self: None)


def one_slot_for_all_checkpoints() -> AbstractContextManager[object]:
    write_slot = Journal._write_slot

    def again(self: Journal, claims: Any) -> None:
        write_slot(self, claims)
        self._good = 1 - self._good

    return patch.object(Journal, "_write_slot", again)


def live_page_of_another_boot_believed() -> AbstractContextManager[object]:
    return patch.object(journal_module, "live_epoch", lambda head, boot, mount: raw_epoch(head))


def no_checksums() -> AbstractContextManager[object]:
    return patch.object(pages, "zlib", SimpleNamespace(crc32=lambda *_: 0))


def position_moved_before_the_bytes() -> AbstractContextManager[object]:
    write_file = PureSink._write_file

    def early(self: PureSink, data: memoryview, at: int) -> int:
        self._advance(at + len(data))
        return write_file(self, data, at)

    return patch.object(PureSink, "_write_file", early)


@contextmanager
def rename_before_the_sync() -> Iterator[None]:
    finish, publish = Target.finish, place.publish

    def late(self: Target, *arguments: Any) -> None:
        part = self._part
        assert part is not None

        def publish_and_sync(*names: Any, **more: Any) -> None:
            publish(*names, **more)
            part.sync()

        with patch.object(Target, "_sync", lambda self, part: None), patch.object(place, "publish", publish_and_sync):
            finish(self, *arguments)

    with patch.object(Target, "finish", late):
        yield


def folder_not_synced() -> AbstractContextManager[object]:
    return patch.object(owned, "sync_folder", lambda folder: None)


def failed_sync_retried() -> AbstractContextManager[object]:
    def until_it_says_yes(self: Target, part: PartFile) -> None:
        while True:
            try:
                owned.sync(part.fd)
                return
            except OSError:
                continue

    return patch.object(Target, "_sync", until_it_says_yes)


@contextmanager
def handing_down_taken_for_a_sync() -> Iterator[None]:
    def sync(self: PartFile) -> None:
        self.hand_down([(0, self.size)])

    with patch.object(PartFile, "sync", sync):
        yield


def error_of_handing_down_ignored() -> AbstractContextManager[object]:
    def hand_down(self: PartFile, ranges: Any) -> bool:
        return all(linux.begin_writing(self.fd, start, stop) == 0 for start, stop in ranges)

    return patch.object(PartFile, "hand_down", hand_down)


def error_told_to_a_sink_ignored() -> AbstractContextManager[object]:
    def hand_down_now(self: PartFile, start: int, stop: int) -> int:
        return -(linux.begin_writing(self.fd, start, stop) != 0)

    return patch.object(PartFile, "hand_down_now", hand_down_now)


@contextmanager
def no_poison() -> Iterator[None]:
    with patch.object(Journal, "poison", lambda self: None), patch.object(Journal, "poison_now", lambda self: None):
        yield


def slot_written_before_the_other_is_known_to_be_on_disk() -> AbstractContextManager[object]:
    open_journal = Journal.open

    def rash(path: str) -> Journal:
        journal = open_journal(path)
        journal._settled = True
        return journal

    return patch.object(Journal, "open", rash)


def journal_removed_before_the_rename() -> AbstractContextManager[object]:
    publish = place.publish

    def early(part_path: str, path: str, *rest: Any, **more: Any) -> None:
        os.unlink(path + ".fastidm")
        publish(part_path, path, *rest, **more)

    return patch.object(place, "publish", early)


def disk_fails_once(recorder: Recorder, random: Random) -> None:
    """For those who do not notice it."""
    run = Run(recorder, DATA, random)
    turns(run, 5)
    recorder.failures = 1
    run.checkpoint()
    turns(run, 5)
    run.stop()


def disk_fails_early(recorder: Recorder, random: Random) -> None:
    """For those who do not notice it."""
    _fail_early(Run.hand_down, recorder, random)


def disk_fails_under_a_sink(recorder: Recorder, random: Random) -> None:
    """For those who do not notice it."""
    _fail_early(Run.hand_down_now, recorder, random)


def _fail_early(hand_down: Callable[[Run], object], recorder: Recorder, random: Random) -> None:
    run = Run(recorder, DATA, random)
    turns(run, 5)
    recorder.early_failures = 1
    hand_down(run)
    run.checkpoint()
    turns(run, 5)
    run.stop()


@pytest.mark.parametrize(
    ("mistake", "scenario", "crash", "consequence"),
    [
        (snapshot_after_the_sync, without_a_break, "cut", FALSE_CLAIM),
        (slot_before_the_sync, without_a_break, "cut", FALSE_CLAIM),
        (no_sync_of_the_data, without_a_break, "cut", FALSE_CLAIM),
        (no_sync_of_the_data, without_a_break, "cut", UNSOUND_FILE),
        (one_slot_for_all_checkpoints, without_a_break, "cut", LOST),
        (live_page_of_another_boot_believed, without_a_break, "cut", FALSE_CLAIM),
        (no_checksums, without_a_break, "cut", FALSE_CLAIM),
        (position_moved_before_the_bytes, without_a_break, "kill", FALSE_AFTER_KILL),
        (rename_before_the_sync, without_a_break, "cut", UNSOUND_FILE),
        (folder_not_synced, without_a_break, "cut", LOST_FILE),
        (folder_not_synced, without_a_break, "cut", LOST),
        (failed_sync_retried, disk_fails_once, "cut", FALSE_CLAIM),
        (handing_down_taken_for_a_sync, without_a_break, "cut", FALSE_CLAIM),
        (handing_down_taken_for_a_sync, without_a_break, "cut", UNSOUND_FILE),
        (error_of_handing_down_ignored, disk_fails_early, "cut", FALSE_CLAIM),
        (error_told_to_a_sink_ignored, disk_fails_under_a_sink, "cut", FALSE_CLAIM),
        (no_poison, with_a_failing_disk, "kill", FALSE_AFTER_KILL),
        (no_poison, with_a_head_start, "kill", FALSE_AFTER_KILL),
        (no_poison, with_sinks_that_tell_the_disk, "kill", FALSE_AFTER_KILL),
        (slot_written_before_the_other_is_known_to_be_on_disk, killed_in_each_sync, "cut", LOST),
        (journal_removed_before_the_rename, without_a_break, "cut", LOST),
    ],
)
def test_a_mistake_is_caught(mistake: Mistake, scenario: Scenario, crash: str, consequence: str, tmp_path: Path) -> None:
    (tmp_path / "reader").mkdir()
    with mistake():
        judge = judged(recorded(scenario, tmp_path), Reader(tmp_path / "reader"))
        if crash == "cut":
            judge.cut_everywhere(8)
        else:
            judge.kill_everywhere(ascending=True)
    assert any(consequence in violation for violation in judge.violations), judge.violations[:5]
