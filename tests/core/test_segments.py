"""The segment table: whatever is done to it, it tiles the file and claims no byte that was not written (I3, I7)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastidm.core.segments import ROW_BYTES, UNKNOWN, Segment, SegmentTable, merge, restore, rows_in, subtract, tile

CAPACITY = 6
SIZE = 1000


def table_of(*rows: tuple[int, int, int], capacity: int = CAPACITY) -> SegmentTable:
    """A table of these (start, stop, position), in that order in the buffer."""
    buffer = b"".join(struct.pack("=4q", *row, ~row[2]) for row in rows)
    return SegmentTable(bytearray(buffer.ljust(ROW_BYTES * capacity, b"\0")))


def claims(buffer: bytes | bytearray) -> list[tuple[int, int]]:
    """What a later run may believe of these rows: [start, position) of every row that can be."""
    rows = ((start, stop, min(position, ~check)) for start, stop, position, check in struct.iter_unpack("=4q", buffer))
    return merge(((start, position) for start, stop, position in rows if 0 <= start <= position <= stop), UNKNOWN)


def covered(ranges: list[tuple[int, int]]) -> set[int]:
    return {at for start, stop in ranges for at in range(start, stop)}


def tiles(table: SegmentTable, size: int) -> bool:
    at = 0
    for start, stop, position in table.snapshot():
        if start != at or not start <= position <= stop:
            return False
        at = stop
    return at == size == table.size


class Watched:
    """The words of a table; `look` is called after every single store, as a kill may come between any two."""

    def __init__(self, words: memoryview, look: Callable[[], None]) -> None:
        self._words, self._look = words, look

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, at: int) -> int:
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._words[at] = value
        self._look()


# ---------------------------------------------------------------------- reading


def test_a_new_table_is_tiled_by_its_cuts() -> None:
    table = SegmentTable(tile(SIZE, [300, 600], CAPACITY))
    assert table.snapshot() == (Segment(0, 300, 0), Segment(300, 600, 300), Segment(600, SIZE, 600))
    assert (table.size, table.received(), table.room(), table.complete()) == (SIZE, 0, 3, False)


def test_rows_are_named_by_their_place_in_the_buffer_and_listed_by_their_place_in_the_file() -> None:
    table = table_of((500, 1000, 700), (0, 0, 0), (0, 500, 100))
    assert table.order == [2, 0]
    assert table.snapshot() == (Segment(0, 500, 100), Segment(500, 1000, 700))
    assert (table.received(), table.remaining(0), table.remaining(2)) == (300, 300, 400)


def test_a_segment_that_was_given_away_before_its_first_byte_does_not_confuse_the_order() -> None:
    table = table_of((200, SIZE, 300), (200, 200, 200), (0, 200, 0))
    assert table.order == [2, 1, 0] and tiles(table, SIZE)


def test_an_empty_file_is_complete_from_the_beginning() -> None:
    table = SegmentTable(tile(0, [], CAPACITY))
    assert (table.size, table.received(), table.complete(), table.snapshot()) == (0, 0, True, ())


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 1000, 1)],
        [(0, 400, 0), (500, 1000, 500)],
        [(0, 600, 0), (500, 1000, 500)],
        [(0, 1000, 1001)],
        [(0, 500, 0), (500, 1000, 499)],
        [(0, 500, 0), (0, 500, 0)],
    ],
)
def test_rows_that_do_not_tile_are_refused(rows: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValueError):
        table_of(*rows)


@pytest.mark.parametrize("written", [[], [(0, 300)], [(0, 300), (300, 450), (500, SIZE)], [(200, 300)], [(0, SIZE)]])
def test_collapsing_leaves_one_segment_with_what_is_written_at_the_front(written: list[tuple[int, int]]) -> None:
    buffer = restore(SIZE, written, [100, 400, 500], CAPACITY)
    table = SegmentTable(buffer)
    front = next((stop for start, stop in merge(written, SIZE) if start == 0), 0)
    table.collapse()
    assert table.snapshot() == (Segment(0, SIZE, front),)
    assert SegmentTable(buffer).snapshot() == table.snapshot()
    assert table.room() == CAPACITY - 1


def test_numpy_sees_the_very_memory_that_the_sink_moves() -> None:
    buffer = tile(SIZE, [400], CAPACITY)
    rows = SegmentTable(buffer).array
    buffer[16:32] = struct.pack("=2q", 123, ~123)
    assert (rows["position"][0], rows["check"][0]) == (123, ~123)
    assert (rows["start"][1], rows["stop"][1]) == (400, SIZE)


def test_the_file_ends_where_a_stream_of_unknown_length_ended() -> None:
    table = table_of((0, UNKNOWN, 0), capacity=1)
    table._words[2] = 700
    table.finish_stream(0)
    assert table.complete() and table.size == 700
    assert table.snapshot() == (Segment(0, 700, 700),)


# ---------------------------------------------------------------------- editing


def test_a_split_gives_the_back_to_a_new_row() -> None:
    table = table_of((0, SIZE, 200))
    new = table.split(0, 600)
    assert (table[0], table[new]) == (Segment(0, 600, 200), Segment(600, SIZE, 600))


def test_a_split_at_the_position_leaves_the_front_finished() -> None:
    table = table_of((0, SIZE, 200))
    new = table.split(0, 200)
    assert table.remaining(0) == 0 and table[new] == Segment(200, SIZE, 200)


@pytest.mark.parametrize("at", [-1, 0, 199, SIZE, SIZE + 1])
def test_a_split_outside_of_what_is_unwritten_is_refused_and_changes_nothing(at: int) -> None:
    table = table_of((0, SIZE, 200))
    with pytest.raises(ValueError):
        table.split(0, at)
    assert table.snapshot() == (Segment(0, SIZE, 200),)


def test_a_full_table_refuses_to_split_and_stays_as_it_is() -> None:
    table = SegmentTable(tile(SIZE, [100, 200], 3))
    before = table.snapshot()
    with pytest.raises(IndexError):
        table.split(table.order[-1], 500)
    assert table.snapshot() == before and table.room() == 0


def test_finished_segments_melt_into_their_right_neighbours() -> None:
    table = table_of((0, 300, 300), (300, 500, 500), (500, SIZE, 600))
    table.melt()
    assert table.snapshot() == (Segment(0, SIZE, 600),)
    assert table.room() == CAPACITY - 1


def test_a_row_that_a_sink_holds_does_not_melt() -> None:
    table = table_of((0, 300, 300), (300, 500, 500), (500, SIZE, 600))
    table.melt({1, None})
    assert table.snapshot() == (Segment(0, 500, 500), Segment(500, SIZE, 600))
    assert table[1] == Segment(0, 500, 500)


def test_the_last_segment_has_nothing_to_melt_into() -> None:
    table = table_of((0, 500, 200), (500, SIZE, SIZE))
    table.melt()
    assert table.snapshot() == (Segment(0, 500, 200), Segment(500, SIZE, SIZE))


def test_room_that_melting_made_can_be_used_again() -> None:
    table = table_of((0, 300, 300), (300, SIZE, 300), capacity=2)
    table.melt()
    table.split(1, 600)
    assert tiles(table, SIZE) and table.room() == 0


# ---------------------------------------------------------------------- properties

ranges = st.lists(st.tuples(st.integers(-50, 1100), st.integers(-50, 1100)), max_size=12)
cuts = st.lists(st.integers(-50, 1100), max_size=12)


@given(ranges, st.integers(0, SIZE))
def test_merged_claims_are_the_same_bytes_sorted_apart_and_inside_the_file(ranges: list[tuple[int, int]], size: int) -> None:
    merged = merge(ranges, size)
    assert covered(merged) == {at for at in covered(ranges) if 0 <= at < size}
    assert all(start < stop for start, stop in merged)
    assert all(stop < start for (_, stop), (start, _) in pairwise(merged))


@given(ranges, cuts, st.integers(1, 20), st.integers(0, SIZE))
def test_a_restored_table_tiles_the_file_and_claims_nothing_new(
    ranges: list[tuple[int, int]], cuts: list[int], capacity: int, size: int
) -> None:
    buffer = restore(size, ranges, cuts, capacity)
    assert len(buffer) == ROW_BYTES * capacity
    assert tiles(SegmentTable(buffer), size)
    assert covered(claims(buffer)) <= covered(ranges)


@given(ranges, cuts, st.integers(0, SIZE))
def test_a_restored_table_with_enough_rows_loses_no_claim(ranges: list[tuple[int, int]], cuts: list[int], size: int) -> None:
    buffer = restore(size, ranges, cuts, 40)
    assert claims(buffer) == merge(ranges, size)


@given(ranges, st.integers(1, 8), st.integers(1, SIZE))
def test_no_claim_is_given_up_while_the_rows_suffice(ranges: list[tuple[int, int]], capacity: int, size: int) -> None:
    written = merge(ranges, size)
    unwritten_front = [(0, 0)] if written and written[0][0] > 0 else []
    if len(unwritten_front + written) <= capacity:
        assert claims(restore(size, ranges, (), capacity)) == written


def test_when_there_are_more_holes_than_rows_the_smallest_claim_is_given_up() -> None:
    buffer = restore(SIZE, [(100, 300), (400, 410), (500, 700)], (), 3)
    assert claims(buffer) == [(100, 300), (500, 700)]


def test_restoring_cuts_only_where_nothing_is_written() -> None:
    table = SegmentTable(restore(SIZE, [(0, 300)], [200, 300, 600], CAPACITY))
    assert table.snapshot() == (Segment(0, 600, 300), Segment(600, SIZE, 600))


@given(st.integers(0, 1 << 50), st.lists(st.integers(0, 1 << 50), max_size=9).map(sorted), st.integers(1, 9))
def test_any_cuts_tile_a_file_of_any_size_within_the_rows_there_are(size: int, cuts: list[int], capacity: int) -> None:
    table = SegmentTable(tile(size, cuts, capacity))
    assert tiles(table, size) and len(table.order) <= capacity and table.received() == 0


class TableUnderKills(RuleBasedStateMachine):
    """Claim, receive, split, hedge, release, crash and replay in any order, looked at after every single store.

    `written` is the truth: the bytes that a sink has put into the file. `sinks` holds (row, cursor) of every running request.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: set[int] = set()
        self.sinks: list[list[int]] = []
        self.seen: list[bytes] = []

    @initialize(cuts=st.lists(st.integers(1, 199), max_size=4).map(sorted), capacity=st.integers(1, 6))
    def begin(self, cuts: list[int], capacity: int) -> None:
        self.capacity = capacity
        self.take_up(tile(200, cuts, capacity))

    def take_up(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.table = SegmentTable(buffer)
        self.table._words = Watched(self.table._words, self.look)  # type: ignore[assignment]
        self.sinks = []

    def look(self) -> None:
        """A kill may come now: the bytes of the table as they stand claim nothing that was not written."""
        now = bytes(self.buffer)
        self.seen = [*self.seen[-20:], now]
        assert covered(claims(now)) <= self.written

    @rule(data=st.data(), back=st.integers(0, 40))
    def claim(self, data: st.DataObject, back: int) -> None:
        """A request for the rest of a segment is answered; it may overlap what is written, or be a hedge of another one."""
        if self.table.order:
            row = data.draw(st.sampled_from(self.table.order))
            self.sinks.append([row, max(self.table.start(row), self.table.position(row) - back)])

    @precondition(lambda self: self.sinks)
    @rule(data=st.data(), count=st.integers(1, 80))
    def receive(self, data: st.DataObject, count: int) -> None:
        """Bytes come in, and are bounded by the row as the sink does it: file first, position afterwards."""
        sink = data.draw(st.sampled_from(self.sinks))
        row, cursor = sink
        _, stop, position = self.table[row]
        sink[1] = end = min(stop, cursor + count)
        self.written |= set(range(cursor, end))
        if end > position:
            self.buffer[ROW_BYTES * row + 16 : ROW_BYTES * (row + 1)] = struct.pack("=2q", end, ~end)
            self.look()

    @precondition(lambda self: self.sinks)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """A request ends."""
        self.sinks.remove(data.draw(st.sampled_from(self.sinks)))

    @rule(data=st.data(), at=st.integers(0, 199))
    def split(self, data: st.DataObject, at: int) -> None:
        row = data.draw(st.sampled_from(self.table.order))
        _, stop, position = self.table[row]
        at = max(at, position)
        if at < stop and self.table.room():
            new = self.table.split(row, at)
            assert self.table[new] == Segment(at, stop, at) and self.table.stop(row) == at
        else:
            with pytest.raises((ValueError, IndexError)):
                self.table.split(row, at)

    @rule()
    def melt(self) -> None:
        before, busy = claims(self.buffer), {row for row, _ in self.sinks}
        held = {row: self.table.position(row) for row in busy}
        self.table.melt(busy)
        assert claims(self.buffer) == before
        assert all(row in self.table.order and self.table.position(row) == at for row, at in held.items())
        if not busy:
            assert all(self.table.remaining(row) for row in self.table.order[:-1])

    @rule(data=st.data(), cuts=st.lists(st.integers(0, 200), max_size=4))
    def crash_and_replay(self, data: st.DataObject, cuts: list[int]) -> None:
        """SIGKILL, now or between two of the last stores; the next run goes on with what it finds."""
        found = claims(data.draw(st.sampled_from([*self.seen, bytes(self.buffer)])))
        self.take_up(restore(200, found, cuts, self.capacity))
        self.seen = []

    @invariant()
    def tiles(self) -> None:
        if hasattr(self, "table"):
            assert tiles(self.table, 200)
            assert tiles(SegmentTable(bytearray(self.buffer)), 200)

    @invariant()
    def claims_what_was_written(self) -> None:
        if hasattr(self, "table"):
            assert covered(claims(self.buffer)) <= self.written
            assert self.table.received() == len(covered(claims(self.buffer)))


TestTableUnderKills = TableUnderKills.TestCase
TestTableUnderKills.settings = settings(max_examples=60, stateful_step_count=40)


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


@given(RANGES, RANGES)
def test_what_is_subtracted_is_gone_and_the_rest_is_left(ranges: list[tuple[int, int]], held: list[tuple[int, int]]) -> None:
    ranges, held = merge(ranges, 60), merge(held, 60)
    left = subtract(ranges, held)
    assert covered(left) == covered(ranges) - covered(held)
    assert all(start < stop for start, stop in left)


def test_rows_that_are_not_in_use_or_claim_nothing_are_not_in_a_copy() -> None:
    table = table_of((0, 300, 200), (300, 600, 300), (600, 1000, 1000))
    assert rows_in(bytes(table._words)) == [(0, 300, 200), (600, 1000, 1000)]
