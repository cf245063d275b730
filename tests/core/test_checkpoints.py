"""When a checkpoint is due, what the disk may begin with before, and when it is too far behind."""

from __future__ import annotations

from fastidm.core.checkpoints import (
    BYTES,
    BYTES_UNTOLD,
    HEAD_START,
    PAUSE,
    SECONDS,
    UNSYNCED_MOST,
    WHOLE,
    Checkpoints,
    HeadStart,
)
from fastidm.core.segments import SegmentTable, tile

MEMORY = 1 << 40
SIZE = 16 * HEAD_START


def test_one_is_due_each_second_if_there_is_anything_new() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    assert not checkpoints.due(0, 10.0)
    assert not checkpoints.due(1, SECONDS / 2)
    assert checkpoints.due(1, SECONDS)
    checkpoints.begun(1, SECONDS)
    assert not checkpoints.due(1, 9.0)
    assert not checkpoints.due(2, SECONDS * 1.5)
    assert checkpoints.due(2, SECONDS * 2)


def test_many_bytes_make_it_sooner_but_not_at_once() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    assert not checkpoints.due(BYTES, PAUSE / 2)
    assert checkpoints.due(BYTES, PAUSE)


def test_what_was_there_before_is_nothing_new() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    checkpoints.start(5000)
    assert not checkpoints.due(5000, 10.0)
    assert checkpoints.due(5001, 10.0)


def test_claims_that_are_given_up_are_no_reason_to_wait_for_their_return() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    checkpoints.start(5000)
    assert not checkpoints.due(100, 10.0)
    assert checkpoints.due(101, 10.0)


def test_the_disk_is_behind_until_a_checkpoint_is_done() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    checkpoints.due(UNSYNCED_MOST, 0.1)
    assert not checkpoints.behind
    assert checkpoints.due(UNSYNCED_MOST + 1, 0.1), "it does not wait for its second"
    assert checkpoints.behind
    checkpoints.begun(UNSYNCED_MOST + 1, 0.1)
    checkpoints.due(UNSYNCED_MOST + 2, 0.2)
    assert checkpoints.behind, "begun is not done"
    checkpoints.done(UNSYNCED_MOST + 1)
    checkpoints.due(UNSYNCED_MOST + 2, 0.3)
    assert not checkpoints.behind


def test_a_small_machine_lets_less_wait() -> None:
    checkpoints = Checkpoints(1 << 20, 0.0)
    checkpoints.due(1 << 16, 0.1)
    assert not checkpoints.behind
    checkpoints.due((1 << 16) + 1, 0.1)
    assert checkpoints.behind


def test_a_disk_that_cannot_be_told_to_begin_gets_its_checkpoints_sooner() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    assert not checkpoints.due(BYTES_UNTOLD, PAUSE)
    checkpoints.handed(0, False)
    assert checkpoints.due(BYTES_UNTOLD, PAUSE)
    assert not checkpoints.due(BYTES_UNTOLD - 1, PAUSE)
    assert not checkpoints.head_start_due(1 << 40), "it is not asked again"


def test_bytes_bring_a_checkpoint_before_the_network_has_to_wait() -> None:
    checkpoints = Checkpoints(16 * (64 << 20), 0.0)
    assert checkpoints.due(32 << 20, PAUSE)
    assert not checkpoints.behind


def test_a_head_start_is_due_when_enough_has_come_since_the_last() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    checkpoints.start(5000)
    assert not checkpoints.head_start_due(5000 + HEAD_START - 1)
    assert checkpoints.head_start_due(5000 + HEAD_START)
    checkpoints.handed(5000 + HEAD_START, True)
    assert not checkpoints.head_start_due(4999 + 2 * HEAD_START)
    assert checkpoints.head_start_due(5000 + 2 * HEAD_START)
    assert not checkpoints.head_start_due(100), "claims were given up"
    assert checkpoints.head_start_due(100 + HEAD_START)


class Coming:
    """A table of which more and more is written, and what the disk was told to begin with."""

    def __init__(self) -> None:
        self._buffer = tile(SIZE, [SIZE // 4, SIZE // 2, SIZE - 777], 8)
        self.table = SegmentTable(self._buffer)
        self._head_start = HeadStart()

    def write(self, row: int, position: int) -> None:
        memoryview(self._buffer).cast("q")[4 * row + 2] = position

    def take(self) -> list[tuple[int, int]]:
        return self._head_start.take(bytes(self._buffer))


def test_the_disk_begins_with_what_is_whole_and_with_everything_once() -> None:
    coming = Coming()
    assert coming.take() == []
    coming.write(0, HEAD_START - 1)
    assert coming.take() == [], "it is not worth it"
    coming.write(1, SIZE // 4 + WHOLE + 17)
    assert coming.take() == [(0, HEAD_START - WHOLE), (SIZE // 4, SIZE // 4 + WHOLE)]
    assert coming.take() == []
    coming.write(0, 2 * HEAD_START + 17)
    assert coming.take() == [(HEAD_START - WHOLE, 2 * HEAD_START)]


def test_the_end_of_a_segment_need_not_be_whole_and_is_not_lost_when_the_segment_melts() -> None:
    coming = Coming()
    coming.write(2, SIZE - 777)
    coming.write(3, SIZE - 700)
    assert coming.take() == [(SIZE // 2, SIZE - 777)]
    coming.write(0, SIZE // 4 - 5)
    assert coming.take() == [(0, SIZE // 4 - WHOLE)]
    coming.write(0, SIZE // 4)
    coming.write(1, SIZE // 4 + HEAD_START)
    coming.table.melt()
    assert coming.take() == [(SIZE // 4 - WHOLE, SIZE // 4 + HEAD_START)]


def test_what_was_given_up_and_comes_again_is_handed_down_again() -> None:
    coming = Coming()
    coming.write(0, 2 * HEAD_START)
    assert coming.take() == [(0, 2 * HEAD_START)]
    coming.write(0, 0)
    coming.write(1, SIZE // 4 + HEAD_START)
    assert coming.take() == [(SIZE // 4, SIZE // 4 + HEAD_START)]
    coming.write(0, 2 * HEAD_START)
    assert coming.take() == [(0, 2 * HEAD_START)]
