"""Which bytes are written, and which are still to come: the segment table.

Rules of this module:

* A row is four int64: `start`, `stop`, `position`, `check`; it claims that [start, position) is written. `check` is
  ~position, so that a reader of a damaged row may take the lesser of two positions; while the process lives only `position`
  is read. The buffer is the live page of the journal, mapped, so what stands here survives SIGKILL as it stands.
* One writer per column: the sink moves `position` and `check`; this module moves everything else.
* The rows in use tile [0, size) between any two calls. Within a call rows may overlap, but the union of the claims never
  grows: every edit below is ordered so that a reader of a half-finished edit believes at most the truth.
* A finished segment melts into its right neighbour, since [start, position) of that neighbour then spans both. So the table
  holds at most one row more than there are unfinished segments, however large the file.

Edits use plain integers: importing numpy costs 115 ms of CPU, more than a whole download of 100 MiB, and a loop over 160 rows
costs 10 µs. `array` gives numpy's view of the same memory to those who want to look at many rows at once.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from struct import Struct

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import NamedTuple

    from numpy import void
    from numpy.typing import NDArray

WORDS = 4
"""int64 words of a row."""
ROW_BYTES = 8 * WORDS
_ROW = Struct("=4q")
FIELDS = [("start", "<i8"), ("stop", "<i8"), ("position", "<i8"), ("check", "<i8")]
"""A row, as numpy sees it."""
UNKNOWN = (1 << 63) - 1
"""`stop` of the only segment of a stream whose length the server does not say."""


if TYPE_CHECKING:

    class Segment(NamedTuple):
        """A copy of one row: half-open [start, stop), written up to `position`."""

        start: int
        stop: int
        position: int

else:  # the same, without importing typing
    Segment = namedtuple("Segment", ("start", "stop", "position"))


class SegmentTable:
    """The segments of one file, in a writable buffer of rows.

    Parameters: `buffer`, ROW_BYTES × rows bytes, aligned to 8; what it holds is taken as the table (see `tile` and `restore`).
    Rows are named by their index in the buffer, which never changes while the row is in use.

    Raises `ValueError` if the rows in the buffer do not tile one range that begins at 0.
    """

    def __init__(self, buffer: memoryview | bytearray) -> None:
        self._words = memoryview(buffer).cast("B").cast("q")
        self.capacity = len(self._words) // WORDS
        starts, stops = self._words[::WORDS].tolist(), self._words[1::WORDS].tolist()
        self.order = [row for _, _, row in sorted((starts[r], stop, r) for r, stop in enumerate(stops) if stop > 0)]
        """Rows in use, by their place in the file."""
        self._unused = [row for row in reversed(range(self.capacity)) if stops[row] <= 0]
        at = 0
        for row in self.order:
            start, stop, position = self[row]
            if start != at or not start <= position <= stop:
                raise ValueError("the rows do not tile the file")
            at = stop
        self.size = at

    def __getitem__(self, row: int) -> Segment:
        at = WORDS * row
        return Segment(self._words[at], self._words[at + 1], self._words[at + 2])

    def start(self, row: int) -> int:
        return self._words[WORDS * row]

    def stop(self, row: int) -> int:
        return self._words[WORDS * row + 1]

    def position(self, row: int) -> int:
        return self._words[WORDS * row + 2]

    def remaining(self, row: int) -> int:
        """Bytes of the segment that are not written yet."""
        return self._words[WORDS * row + 1] - self._words[WORDS * row + 2]

    def received(self) -> int:
        """Bytes of the file that are written."""
        words, total = self._words, 0
        for row in self.order:
            total += words[WORDS * row + 2] - words[WORDS * row]
        return total

    def complete(self) -> bool:
        """Whether every byte of the file is written."""
        return self.received() == self.size

    def holds(self, start: int, stop: int) -> bool:
        """Whether the bytes [start, stop) are written."""
        at = start
        for row in self.order:
            if self.start(row) <= at < self.position(row):
                at = self.position(row)
        return at >= stop

    def room(self) -> int:
        """How many more segments fit."""
        return len(self._unused)

    def snapshot(self) -> tuple[Segment, ...]:
        """A copy of every segment, by place."""
        return tuple(self[row] for row in self.order)

    @property
    def array(self) -> NDArray[void]:
        """The rows in the buffer as a numpy structured array with fields start, stop, position, check; no copy is made."""
        import numpy

        return numpy.frombuffer(self._words, numpy.dtype(FIELDS))

    def split(self, row: int, at: int) -> int:
        """Cut a segment in two at offset `at`; the row keeps the front, the new row that is returned gets the back.

        Raises `ValueError` unless position <= at < stop, and `IndexError` when the table is full.
        """
        _, stop, position = self[row]
        if not position <= at < stop:
            raise ValueError(f"cannot split {self[row]} at {at}")
        new = self._unused.pop()
        put_row(self._words, new, at, stop, at, ~at)
        self._words[WORDS * row + 1] = at
        self.order.insert(self.order.index(row) + 1, new)
        return new

    def melt(self, busy: Iterable[int | None] = ()) -> None:
        """Let finished segments melt into their right neighbours, and so make room. Rows in `busy` stay: a sink holds them."""
        keep = set(busy)
        for row, right in zip(self.order[:], self.order[1:], strict=False):
            if self.remaining(row) == 0 and row not in keep:
                self._words[WORDS * right] = self.start(row)
                self._free(row)
                self.order.remove(row)

    def absorb(self, row: int) -> None:
        """Let a segment reach to the end of the file: those behind it, which must be untouched and no sink's, are gone."""
        at = self.order.index(row) + 1
        for other in self.order[at:]:
            self._free(other)
        self.order = self.order[:at]
        self._words[WORDS * row + 1] = self.size

    def collapse(self) -> None:
        """Give up all claims but that of the front: one segment is left. No sink may hold a row."""
        self.melt()
        first, *others = self.order
        for row in others:
            self._free(row)
        self._words[WORDS * first + 1] = self.size
        self.order = [first]

    def finish_stream(self, row: int) -> None:
        """The server ended a stream of unknown length: what is written is the file."""
        self._words[WORDS * row + 1] = self.size = self.position(row)

    def _free(self, row: int) -> None:
        clear_row(self._words, row)
        self._unused.append(row)


def rows_in(copy: bytes) -> list[Segment]:
    """The segments in a copy of a live table, in no order. It may have been made in the middle of an edit."""
    words = memoryview(copy).cast("q").tolist()
    rows = map(Segment, words[::WORDS], words[1::WORDS], words[2::WORDS])
    return [row for row in rows if row.start < row.position <= row.stop]


def put_row(words: memoryview, row: int, start: int, stop: int, position: int, check: int) -> None:
    """Put a segment into an unused row of a live table of int64 words."""
    # `stop` last: a row that does not stop beyond its start claims nothing.
    at = WORDS * row
    words[at] = start
    words[at + 2] = position
    words[at + 3] = check
    words[at + 1] = stop


def clear_row(words: memoryview, row: int) -> None:
    """Make a row of a live table unused."""
    # The other way round, `stop` first: a row that stops before it starts claims nothing and is no row to a reader. With `stop`
    # last it would be (0, stop, 0) in between: a sound row, which says that nothing up to `stop` is written, and so takes away
    # what the rows in that range claim (a byte inside two rows counts only if both claim it).
    at = WORDS * row
    words[at + 1] = 0
    words[at + 2] = 0
    words[at + 3] = 0
    words[at] = 0


def tile(size: int, boundaries: Iterable[int], capacity: int) -> bytearray:
    """The rows of an untouched file of `size` bytes, cut at `boundaries` (offsets in between, ascending)."""
    if size > 0 and not boundaries:  # as every file begins, and most small ones end: one row
        return bytearray(_ROW.pack(0, size, 0, ~0).ljust(ROW_BYTES * capacity, b"\0"))
    return restore(size, (), boundaries, capacity)


def restore(size: int, claims: Iterable[tuple[int, int]], boundaries: Iterable[int], capacity: int) -> bytearray:
    """The rows of a file of which `claims` are already written.

    Parameters: `claims`, half-open ranges, in any order, overlapping or not; `boundaries`, offsets at which unwritten ranges
    are cut as well, as far as `capacity` rows allow.
    Returns ROW_BYTES × capacity bytes. When there are more holes than rows, the smallest claims are given up, so that a
    claim is never larger than the truth.
    """
    written = merge(claims, size)
    while len(written) + (not written or written[0][0] > 0) > capacity:
        written.remove(min(written, key=lambda claim: claim[1] - claim[0]))
    rows: list[tuple[int, int, int]] = []
    starts = [start for start, _ in written] + [size]
    if starts[0] > 0:
        rows.append((0, starts[0], 0))
    for (start, stop), following in zip(written, starts[1:], strict=True):
        rows.append((start, following, stop))
    for at in boundaries:
        for index, (start, stop, position) in enumerate(rows):
            if position < at < stop and len(rows) < capacity:
                rows[index : index + 1] = [(start, at, position), (at, stop, at)]
                break
    table = bytearray(ROW_BYTES * capacity)
    words = memoryview(table).cast("q")
    for index, (start, stop, position) in enumerate(rows):
        at = WORDS * index
        words[at], words[at + 1], words[at + 2], words[at + 3] = start, stop, position, ~position
    return table


def merge(claims: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """`claims` clipped to [0, size), sorted, with those that touch joined and the empty ones dropped."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted((max(a, 0), min(b, size)) for a, b in claims):
        if start >= stop:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def subtract(ranges: Iterable[tuple[int, int]], held: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of `ranges` is in none of `held`; both sorted and disjoint."""
    missing, others = [], iter(held)
    first, last = next(others, (UNKNOWN, UNKNOWN))
    for start, stop in ranges:
        while first < stop:
            if first > start:
                missing.append((start, first))
            start = max(start, last)
            if last > stop:
                break
            first, last = next(others, (UNKNOWN, UNKNOWN))
        if start < stop:
            missing.append((start, stop))
    return missing
