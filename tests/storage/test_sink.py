"""The sink, in C and in Python: every test runs on both.

The body that a server sends is `BODY`; the file holds `BLANK`, which differs from it in every byte, wherever nothing
has been written. So one look at the file tells what a sink has done to it. A map clears the bytes of its row ahead of the
position, so there zeros count as BLANK.
"""

from __future__ import annotations

import errno
import gc
import importlib.util
import mmap
import os
import random
import resource
import subprocess
import sys
import tracemalloc
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastidm.core.segments import ROW_BYTES, WORDS
from fastidm.storage import sink as module
from fastidm.storage.sink import MAP, PAUSE, PWRITE, PureSink

PAGE = mmap.PAGESIZE
SIZE = 5 * PAGE + 1234
BODY = random.Random(7).randbytes(SIZE)
BLANK = bytes(byte ^ 0xFF for byte in BODY)
BUILT = importlib.util.find_spec("fastidm._hotpath") is not None
KINDS = ["c", "pure"] if BUILT else ["pure"]


def sink_type(kind: str) -> Any:
    if kind == "pure":
        return PureSink
    return importlib.import_module("fastidm._hotpath").Sink


def with_zeros_as_blank(held: bytes, ranges: Iterable[tuple[int, int]]) -> bytes:
    """`held`, where each zero byte in one of the `ranges` is as if nothing had been written there."""
    seen = bytearray(held)
    for start, stop in ranges:
        at = seen.find(0, start, stop)
        while at >= 0:
            seen[at] = BLANK[at]
            at = seen.find(0, at + 1, stop)
    return bytes(seen)


class Desk:
    """A part file full of BLANK, a table, and sinks of one kind on them."""

    def __init__(self, kind: str, path: Path, rows: list[tuple[int, int, int]], size: int = SIZE) -> None:
        self.kind, self.path, self.size = kind, path, size
        path.write_bytes(BLANK)
        self.fd = os.open(path, os.O_RDWR)
        self.table = array("q", [word for start, stop, position in rows for word in (start, stop, position, ~position)])
        self.dirty: list[Any] = []
        self.mapped: set[tuple[int, int]] = set()
        for start, _, position in rows:
            os.pwrite(self.fd, BODY[start:position], start)

    def sink(self, **options: Any) -> Any:
        options = {"fd": self.fd, "size": self.size} | options
        return sink_type(self.kind)(options.pop("fd"), self.table, options.pop("size"), self.dirty, **options)

    def armed(self, row: int = 0, cursor: int | None = None, seam: int = 0, **options: Any) -> Any:
        sink = self.sink(**options)
        sink.arm(row, self.position(row) if cursor is None else cursor, seam)
        if sink.mode == MAP:
            self.mapped.add((self.position(row), self.table[WORDS * row + 1]))
        return sink

    def position(self, row: int = 0) -> int:
        return self.table[WORDS * row + 2]

    def lower_stop(self, stop: int, row: int = 0) -> None:
        self.table[WORDS * row + 1] = stop

    def flush(self) -> None:
        for sink in self.dirty:
            sink.flush()
        self.dirty.clear()

    def holds(self, *written: tuple[int, int]) -> bool:
        """Whether the file holds BODY in the ranges `written`, and is as it was everywhere else."""
        expected = bytearray(BLANK)
        for start, stop in written:
            expected[start:stop] = BODY[start:stop]
        held = self.path.read_bytes()
        return with_zeros_as_blank(held, self.mapped) == with_zeros_as_blank(expected, self.mapped)


Sit = Callable[..., Desk]


@pytest.fixture(params=["c", "pure"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param not in KINDS:
        pytest.skip("the C extension fastidm._hotpath is not built")
    return str(request.param)


@pytest.fixture(params=[PWRITE, MAP], ids=["pwrite", "map"])
def mode(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def desk(kind: str, tmp_path: Path) -> Iterator[Sit]:
    desks: list[Desk] = []

    def sit(*rows: tuple[int, int, int], size: int = SIZE) -> Desk:
        desks.append(Desk(kind, tmp_path / f"part{len(desks)}", list(rows or [(0, SIZE, 0)]), size))
        return desks[-1]

    yield sit
    for used in desks:
        os.close(used.fd)


def send(sink: Any, start: int, stop: int, step: int = 1000, body: bytes = BODY) -> int | None:
    """Send body bytes [start, stop) in blocks, as libcurl does, until one is not taken whole."""
    for at in range(start, stop, step):
        answer: int | None = sink(memoryview(body)[at : min(at + step, stop)])
        if answer is not None:
            return answer
    return None


# ---- states ----


def test_on_hold_everything_is_paused_and_nothing_consumed(desk: Sit) -> None:
    d = desk()
    sink = d.sink()
    assert (sink.state, sink.row, sink.mismatch) == (sink.HOLD, -1, -1)
    assert [sink(b"abc"), sink(memoryview(b"")), sink.flush()] == [PAUSE, PAUSE, True]
    sink.arm(0, 0)
    assert send(sink, 0, SIZE) is None
    assert (sink.state, sink.received, sink.written) == (sink.FULL, SIZE, SIZE)
    assert d.holds((0, SIZE))


def test_only_a_sink_on_hold_can_be_armed(desk: Sit) -> None:
    d = desk()
    armed, closed = d.armed(), d.sink()
    closed.close()
    for sink in (armed, closed):
        with pytest.raises(ValueError):
            sink.arm(0, 0)


@pytest.mark.parametrize(("row", "cursor"), [(-1, 0), (3, 0), (0, -1), (0, 101), (1, 5), (2, 0)])
def test_arming_refuses_what_cannot_be(desk: Sit, row: int, cursor: int) -> None:
    d = desk((50, 200, 100), (0, 10, 20), (30, 40, 20))
    sink = d.sink()
    with pytest.raises(ValueError):
        sink.arm(row, cursor)
    assert sink.state == sink.HOLD
    sink.arm(0, 100)
    assert sink.state == sink.ARMED


@pytest.mark.parametrize(
    "options",
    [{"size": -2}, {"mode": 2}, {"mode": -1}, {"gather": 0}, {"gather": 1 << 40}, {"window": 0}, {"window": 1 << 40},
     {"stride": 0}],
)
def test_parameters_out_of_range_are_refused(desk: Sit, options: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        desk().sink(**options)


def test_a_table_must_be_writable_and_of_whole_rows(kind: str) -> None:
    with pytest.raises(BufferError):
        sink_type(kind)(0, bytes(ROW_BYTES), 0, [])
    with pytest.raises(ValueError):
        sink_type(kind)(0, bytearray(25), 0, [])
    with pytest.raises(TypeError):
        sink_type(kind)(0, bytearray(ROW_BYTES), 0, ())
    sink_type(kind)(0, bytearray(0), 0, [])


def test_the_table_may_be_a_structured_numpy_array(desk: Sit) -> None:
    numpy = pytest.importorskip("numpy")
    d = desk()
    table = numpy.zeros(4, dtype=[("start", "q"), ("stop", "q"), ("position", "q"), ("check", "q")])
    table[2] = (100, 300, 100, ~100)
    sink = sink_type(d.kind)(d.fd, table, SIZE, [])
    sink.arm(2, 100)
    assert send(sink, 100, 300) is None
    assert table["position"].tolist() == [0, 0, 300, 0]
    assert table["check"].tolist() == [0, 0, ~300, 0]


def test_misuse_is_a_type_error_and_a_later_block_is_taken(desk: Sit) -> None:
    d = desk()
    sink = d.armed()
    for arguments in ((), (b"a", b"b"), (5,), ("text",)):
        with pytest.raises(TypeError):
            sink(*arguments)
    with pytest.raises(TypeError):
        sink(block=b"a")
    assert send(sink, 0, 100) is None
    assert sink.flush()
    assert d.holds((0, 100))


def test_the_two_sinks_show_the_same_names_and_the_same_words(tmp_path: Path) -> None:
    shown = set()
    for each in KINDS:
        d = Desk(each, tmp_path / each, [(0, 100, 0)])
        sink = d.armed(mode=MAP)
        names = tuple(name for name in dir(sink) if not name.startswith("_"))
        before = repr(sink)
        send(sink, 0, 200)
        shown.add((names, before, repr(sink), sink.errno, sink.cost_bytes))
        os.close(d.fd)
    assert len(shown) == 1
    assert "FULL MAP row=0 cursor=100 received=100 written=100" in shown.pop()[2]


# ---- bounds ----


@pytest.mark.parametrize("step", [1, 7, 4096, 5000, SIZE])
def test_blocks_of_any_size_tile_the_row(desk: Sit, mode: int, step: int) -> None:
    d = desk((333, 9999, 333))
    sink = d.armed(gather=4096, mode=mode)
    assert send(sink, 333, 9999, step) is None
    assert (sink.state, d.position(), d.holds((333, 9999))) == (sink.FULL, 9999, True)
    assert [sink(b""), sink(b"x")] == [None, 0]
    assert d.holds((333, 9999))


@pytest.mark.parametrize("step", [1000, SIZE])
def test_a_block_beyond_the_stop_is_cut_there(desk: Sit, mode: int, step: int) -> None:
    d = desk((100, 2500, 100), (2500, SIZE, 2500))
    sink = d.armed(mode=mode)
    answer = send(sink, 100, SIZE, step)
    assert answer == 2400 % step
    assert (sink.state, sink.cursor, sink.received) == (sink.FULL, 2500, 2400)
    assert d.holds((100, 2500))


def test_nothing_is_written_beyond_the_size_whatever_the_row_says(desk: Sit, mode: int) -> None:
    d = desk((0, SIZE, 0), size=3000)
    sink = d.armed(mode=mode)
    assert send(sink, 0, SIZE, 3500) == 3000
    assert (sink.state, d.position(), d.holds((0, 3000))) == (sink.FULL, 3000, True)


def test_a_stop_that_is_lowered_between_blocks_holds_at_once(desk: Sit, mode: int) -> None:
    d = desk()
    sink = d.armed(mode=mode)
    send(sink, 0, 2000)
    d.lower_stop(2300)
    assert sink(BODY[2000:3000]) == 300
    assert (sink.state, d.position(), d.holds((0, 2300))) == (sink.FULL, 2300, True)


@pytest.mark.parametrize("by_flush", [True, False])
def test_gathered_bytes_beyond_a_lowered_stop_are_dropped(desk: Sit, by_flush: bool) -> None:
    d = desk()
    sink = d.armed()
    send(sink, 0, 5000)
    d.lower_stop(3210)
    assert sink.flush() is True if by_flush else sink(BODY[5000:6000]) == 0
    assert (sink.state, d.position(), sink.written) == (sink.FULL, 3210, 3210)
    assert d.holds((0, 3210))


def test_a_stop_below_the_position_moves_nothing_back(desk: Sit, mode: int) -> None:
    d = desk()
    sink = d.armed(mode=mode)
    send(sink, 0, 2000)
    sink.flush()
    d.lower_stop(500)
    assert sink(BODY[2000:3000]) == 0
    assert (sink.state, d.position(), d.holds((0, 2000))) == (sink.FULL, 2000, True)


@pytest.mark.parametrize("row", [(0, 0, 0), (0, SIZE, 1999), (-5, SIZE, 2000), (3000, SIZE, 2000)])
def test_a_row_that_is_broken_or_was_given_to_somebody_else_is_left_alone(desk: Sit, row: tuple[int, int, int]) -> None:
    d = desk()
    gathering, idle = d.armed(), d.armed(mode=MAP)
    send(idle, 0, 2000)
    send(gathering, 0, 4000)
    d.table[0:3] = array("q", row)
    answers = [gathering(BODY[4000:4100]), idle.flush(), idle(BODY[2000:2100])]
    assert answers == [0, True, 0]
    assert (gathering.errno, idle.errno) == (errno.EINVAL, errno.EINVAL)
    assert d.holds((0, 2000))


# ---- overlap ----


@pytest.mark.parametrize("back", [1, 4096, 5000])
def test_an_equal_overlap_is_compared_and_then_the_row_goes_on(desk: Sit, mode: int, back: int) -> None:
    d = desk((0, SIZE, 6000))
    sink = d.armed(0, 6000 - back, mode=mode, gather=512)
    assert send(sink, 6000 - back, SIZE, 700) is None
    assert (sink.state, sink.received, sink.written) == (sink.FULL, SIZE - 6000 + back, SIZE - 6000)
    assert d.holds((0, SIZE))


@pytest.mark.parametrize("wrong", [2000, 2699, 2700, 4095, 4096, 5999])
@pytest.mark.parametrize("step", [700, SIZE])
def test_a_different_overlap_fails_at_its_first_byte_and_writes_nothing(desk: Sit, mode: int, wrong: int, step: int) -> None:
    d = desk((0, SIZE, 6000))
    sink = d.armed(0, 2000, mode=mode, gather=512)
    body = BODY[:wrong] + BLANK[wrong : wrong + 1] + BODY[wrong + 1 :]
    assert send(sink, 2000, SIZE, step, body) == 0
    assert (sink.state, sink.mismatch, sink.errno) == (sink.FAILED, wrong, 0)
    assert (d.position(), sink.written, d.holds((0, 6000))) == (6000, 0, True)
    assert [sink(b"x"), sink(b""), sink.flush()] == [0, None, False]


@pytest.mark.parametrize("wrong", [None, 16383, 16384, 20_000])
def test_an_overlap_longer_than_one_comparison_is_compared_to_its_end(desk: Sit, wrong: int | None) -> None:
    d = desk((0, SIZE, 21_000))
    sink = d.armed(0, 0)
    body = bytearray(BODY)
    if wrong is not None:
        body[wrong] ^= 0xFF
    assert sink(body) == (None if wrong is None else 0)
    assert sink.mismatch == (-1 if wrong is None else wrong)
    assert d.holds((0, SIZE if wrong is None else 21_000))


def test_an_overlap_longer_than_the_file_is_an_io_error(desk: Sit) -> None:
    d = desk((0, SIZE, 6000))
    os.truncate(d.path, 4000)
    sink = d.armed(0, 3000)
    assert send(sink, 3000, 6000) == 0
    assert (sink.state, sink.errno, sink.mismatch) == (sink.FAILED, errno.EIO, -1)


# ---- two sinks on one row ----


@pytest.mark.parametrize("leader_writes_first", [True, False])
def test_of_two_sinks_on_one_row_whoever_is_ahead_writes(desk: Sit, mode: int, leader_writes_first: bool) -> None:
    d = desk((100, 20000, 100))
    ahead, behind = d.armed(mode=mode), d.armed(mode=mode)
    at = 100
    while d.position() < 20000:
        send(ahead, at, min(at + 3000, 20000))
        send(behind, at, min(at + 2000, 20000))
        for sink in (ahead, behind) if leader_writes_first else (behind, ahead):
            assert sink.flush()
        send(behind, at + 2000, min(at + 3000, 20000))
        at += 3000
        assert d.holds((100, d.position()))
    assert send(behind, min(at, 20000), 20000) is None
    assert (ahead.state, behind.state, d.holds((100, 20000))) == (ahead.FULL, behind.FULL, True)
    assert ahead.written + behind.written == 19900
    assert ahead.received == behind.received == 19900


def test_a_hedge_that_brings_other_bytes_fails_alone(desk: Sit, mode: int) -> None:
    d = desk()
    honest, liar = d.armed(mode=mode), d.armed(mode=mode)
    send(liar, 0, 1000)
    send(liar, 1000, 3000, body=BLANK) if mode == PWRITE else None
    send(honest, 0, 4000)
    assert honest.flush()
    if mode == MAP:
        send(liar, 1000, 3000, body=BLANK)
    assert liar.flush() is False
    assert (liar.state, liar.mismatch) == (liar.FAILED, 1000)
    assert send(honest, 4000, SIZE) is None
    assert d.holds((0, SIZE))


# ---- gathering ----


def test_position_moves_at_a_flush_and_never_before_its_bytes_can_be_read(desk: Sit, mode: int) -> None:
    d = desk()
    sink = d.armed(gather=3000, mode=mode)
    for at in range(0, 9000, 700):
        send(sink, at, at + 700)
        assert os.pread(d.fd, d.position(), 0) == BODY[: d.position()]
        assert d.position() == (at + 700 if mode == MAP else (at + 700) // 3000 * 3000)
        assert d.dirty == ([] if mode == MAP else [sink])
    d.flush()
    assert d.position() == 9100
    assert d.holds((0, 9100))


def test_a_sink_is_listed_as_dirty_once_per_gathering_and_flushing_leaves_the_list_alone(desk: Sit) -> None:
    d = desk((0, 9000, 0), (9000, SIZE, 9000))
    one, two = d.armed(0), d.armed(1)
    send(one, 0, 3000)
    send(two, 9000, 9500)
    assert d.dirty == [one, two]
    assert one.flush()
    assert one.flush()
    assert d.dirty == [one, two]
    d.flush()
    send(one, 3000, 3500)
    assert d.dirty == [one]
    assert d.position(0) == 3000
    one.flush()
    assert d.holds((0, 3500), (9000, 9500))


def test_a_block_as_long_as_the_buffer_is_written_straight(desk: Sit) -> None:
    d = desk()
    sink = d.armed(gather=1000)
    assert sink(BODY[:1000]) is None
    assert (d.position(), d.dirty) == (1000, [])
    sink(BODY[1000:1001])
    sink(BODY[1001:4000])
    assert (d.position(), d.dirty) == (4000, [sink])


def test_without_a_known_size_the_mode_is_pwrite_and_the_file_grows(desk: Sit) -> None:
    d = desk((0, (1 << 63) - 1, 0))
    os.truncate(d.path, 0)
    sink = d.armed(size=-1, mode=MAP)
    assert sink.mode == PWRITE
    sink.mode = MAP
    assert sink.mode == PWRITE
    assert send(sink, 0, SIZE) is None
    assert sink.flush()
    assert (sink.state, d.position(), d.holds((0, SIZE))) == (sink.ARMED, SIZE, True)


# ---- failing disks ----


def test_a_full_disk_fails_the_sink_with_its_errno(desk: Sit, mode: int) -> None:
    d = desk()
    full = os.open("/dev/full", os.O_RDWR)
    sink, other = d.armed(fd=full, mode=mode), d.armed(fd=full, mode=mode, gather=100)
    send(sink, 0, 2000)
    assert sink.flush() is False
    assert other(BODY[:1000]) == 0
    for each in (sink, other):
        assert (each.state, each.errno, each.written, each.mode) == (each.FAILED, errno.ENOSPC, 0, PWRITE)
        assert [each(b"x"), each.flush()] == [0, False]
    assert d.position() == 0
    os.close(full)


def test_a_closed_descriptor_fails_the_sink(desk: Sit, mode: int) -> None:
    d = desk((0, SIZE, 100))
    writing, comparing = d.armed(fd=-1, mode=mode), d.armed(0, 0, fd=-1, mode=mode)
    send(writing, 100, 2000)
    assert [writing.flush(), send(comparing, 0, 200)] == [False, 0]
    assert [writing.errno, comparing.errno] == [errno.EBADF, errno.EBADF]
    assert d.position() == 100


def test_a_short_write_claims_what_it_wrote(desk: Sit) -> None:
    d = desk()
    os.truncate(d.path, 0)
    sink = d.armed()
    assert send(sink, 0, 5000) is None
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3210, before[1]))
    try:
        flushed = sink.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert flushed is False
    assert (sink.state, sink.errno, sink.written) == (sink.FAILED, errno.EFBIG, 3210)
    assert (d.position(), d.path.read_bytes()) == (3210, BODY[:3210])


def test_a_file_that_was_cut_under_the_map_is_an_io_error_and_no_signal(desk: Sit) -> None:
    d = desk()
    sink, late = d.armed(mode=MAP), d.armed(mode=MAP)
    os.truncate(d.path, PAGE)
    answers = [send(sink, 0, SIZE), send(late, 0, SIZE)]
    assert answers == [0, 0]
    assert (sink.state, sink.errno) == (sink.FAILED, errno.EIO)
    assert d.position() <= PAGE


def test_a_file_that_is_cut_ahead_of_a_mapped_window_is_an_io_error_and_no_signal(desk: Sit) -> None:
    size, kept = 1 << 20, 128 << 10
    d = desk((0, size, 0), size=size)
    os.truncate(d.path, size)
    sink = d.armed(mode=MAP)
    zeros = bytes(size)
    assert send(sink, 0, 1000, body=zeros) is None
    os.truncate(d.path, kept)
    assert send(sink, 1000, size, body=zeros) == 0
    assert (sink.state, sink.errno, sink.mode) == (sink.FAILED, errno.EIO, MAP)
    assert kept - 1000 <= d.position() <= kept


# ---- the map ----


def mapped(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


@pytest.mark.parametrize("start", [0, 1, PAGE - 1, PAGE, 3 * PAGE + 17])
@pytest.mark.parametrize("window", [1, 2 * PAGE, 1 << 21])
def test_the_map_writes_the_same_file_at_any_offset_and_up_to_a_broken_page(desk: Sit, start: int, window: int) -> None:
    d = desk((start, SIZE, start))
    sink = d.armed(mode=MAP, window=window)
    assert send(sink, start, SIZE, 777) is None
    assert (sink.state, sink.mode, d.position(), d.holds((start, SIZE))) == (sink.FULL, MAP, SIZE, True)


def test_one_window_is_mapped_at_a_time_and_none_when_the_row_is_full(desk: Sit) -> None:
    stop = 3 * PAGE + 1000
    d = desk((100, stop, 100))
    sink = d.armed(mode=MAP, window=PAGE)
    counts = []
    for at in range(100, stop, 500):
        send(sink, at, min(at + 500, stop))
        counts.append(mapped(d.path))
    assert max(counts) == 1
    assert sink.state == sink.FULL
    assert counts[-1] == 0


@pytest.mark.skipif(not BUILT, reason="the sink in Python cannot choose an address")
def test_windows_lie_at_multiples_of_their_length_in_memory_too(tmp_path: Path) -> None:
    """A folio that lies across two page tables is mapped page by page."""
    d = Desk("c", tmp_path / "part", [(at, SIZE, at) for at in range(0, 4 * PAGE, 1000)])
    sinks = [d.armed(row, mode=MAP, window=4 * PAGE) for row in range(len(d.table) // WORDS)]
    for sink in sinks:
        send(sink, sink.cursor, sink.cursor + 100)
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(d.path) in line]
    addresses = [int(line.partition("-")[0], 16) for line in lines]
    for sink in sinks:
        sink.close()
    os.close(d.fd)
    assert addresses
    assert [at for at in addresses if at % (4 * PAGE)] == []


def test_a_window_that_another_sink_has_overtaken_is_left(desk: Sit) -> None:
    d = desk()
    slow, fast = d.armed(mode=MAP, window=PAGE), d.armed(mode=MAP, window=PAGE)
    send(slow, 0, 100)
    send(fast, 0, 3 * PAGE + 50)
    assert send(slow, 100, SIZE) is None
    assert (slow.state, slow.written, d.holds((0, SIZE))) == (slow.FULL, SIZE - 3 * PAGE + 50, True)


def test_a_sink_that_fails_or_is_closed_unmaps(desk: Sit) -> None:
    d = desk()
    sink, closed = d.armed(mode=MAP), d.armed(mode=MAP)
    send(sink, 0, 100)
    send(closed, 0, 200)
    assert mapped(d.path) == 2
    closed.close()
    assert mapped(d.path) == 1
    d.table[2] = 500
    assert sink(BLANK[100:200]) == 0
    assert (sink.state, mapped(d.path)) == (sink.FAILED, 0)


def test_where_the_file_cannot_be_mapped_it_is_written(desk: Sit) -> None:
    d = desk()
    writable = os.open(d.path, os.O_WRONLY)
    sink = d.armed(fd=writable, mode=MAP)
    assert send(sink, 0, SIZE) is None
    assert (sink.mode, sink.state, d.holds((0, SIZE))) == (PWRITE, sink.FULL, True)
    os.close(writable)


def test_a_mode_takes_effect_at_the_next_boundary_and_pays_for_its_own_bytes_alone(desk: Sit) -> None:
    d = desk()
    sink = d.armed(mode=MAP, window=PAGE, gather=4 * PAGE)
    send(sink, 0, 100)
    assert sink.cost_bytes == 100
    assert sink.cost_ns > 0
    sink.mode = PWRITE
    assert (sink.cost_bytes, sink.cost_ns) == (0, 0)
    send(sink, 100, PAGE)
    assert (d.position(), sink.cost_bytes, mapped(d.path)) == (PAGE, 0, 0)
    send(sink, PAGE, PAGE + 100)
    sink.mode = MAP
    send(sink, PAGE + 100, 2 * PAGE)
    assert (d.position(), mapped(d.path)) == (PAGE, 0)
    sink.flush()
    assert (d.position(), sink.cost_bytes) == (2 * PAGE, 0)
    send(sink, 2 * PAGE, SIZE)
    assert (sink.cost_bytes, d.holds((0, SIZE))) == (SIZE - 2 * PAGE, True)
    with pytest.raises(ValueError):
        sink.mode = 2


# ---- letting go ----


def test_closing_drops_what_is_gathered_lets_go_of_the_table_and_may_be_repeated(desk: Sit, mode: int) -> None:
    d = desk()
    sink = d.armed(mode=mode)
    send(sink, 0, 1000)
    written = d.position()
    with pytest.raises(BufferError):
        d.table.append(0)
    sink.close()
    sink.close()
    d.table.append(0)
    assert sink.state == sink.CLOSED
    assert [sink(b"x"), sink(b""), sink.flush()] == [0, None, True]
    assert "CLOSED" in repr(sink)
    assert d.holds((0, written))


def test_nothing_leaks(desk: Sit) -> None:
    d = desk()

    def live(rounds: int) -> None:
        for number in range(rounds):
            d.table[2] = 0
            os.pwrite(d.fd, BLANK, 0)
            sinks = [d.armed(mode=number % 2, gather=10000) for _ in range(12)]
            for sink in sinks:
                send(sink, 0, 3000)
            if number % 3 == 0:
                d.flush()
            if number % 4 < 2:
                sinks[0].close()
            d.dirty.clear()

    def held() -> tuple[int, int, int, int]:
        files = len(os.listdir("/proc/self/fd"))
        return tracemalloc.get_traced_memory()[0], mapped(d.path), files, sys.getrefcount(sink_type(d.kind))

    tracemalloc.start()
    live(20)
    gc.collect()
    before = held()
    live(50)
    gc.collect()
    after = held()
    tracemalloc.stop()
    assert after[1:] == before[1:]
    assert after[0] - before[0] < 5000


def test_a_sink_in_its_own_dirty_list_is_garbage_collected(kind: str) -> None:
    dirty: list[Any] = []
    sink = sink_type(kind)(-1, array("q", [0, 100, 0, ~0]), 100, dirty)
    sink.arm(0, 0)
    sink(b"x")
    assert dirty == [sink]
    gone = weakref.ref(sink)
    del sink, dirty
    gc.collect()
    assert gone() is None


# ---- to the disk ----


class Disk:
    """The owner's `hand_down`: notes what it is told, and gives the same answer each time."""

    def __init__(self, desk: Desk, answer: int = 0) -> None:
        self.desk, self.answer = desk, answer
        self.told: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> int:
        assert self.desk.position() >= stop, "it was claimed before"
        assert self.desk.path.read_bytes()[start:stop] == BODY[start:stop]
        self.told.append((start, stop))
        return self.answer


@pytest.mark.parametrize(("step", "times"), [(1, 10), (333, 10), (5000, 4), (SIZE, 1)])
def test_the_disk_is_told_of_each_stride_that_is_written_and_of_no_page_twice(desk: Sit, step: int, times: int) -> None:
    d = desk((100, SIZE, 700))
    disk = Disk(d)
    sink = d.armed(cursor=600, gather=512, hand_down=disk, stride=2048)
    send(sink, 600, SIZE, step)
    assert sink.state == sink.FULL
    assert disk.told[0][0] == 700
    assert all(stop == start for (_, stop), (start, _) in zip(disk.told, disk.told[1:], strict=False))
    assert all(stop - start >= 2048 and stop % 512 == 0 for start, stop in disk.told)
    assert SIZE - disk.told[-1][1] < 2048 + 512
    assert len(disk.told) == times


def test_what_a_flush_writes_is_told_of_with_the_rest(desk: Sit) -> None:
    d = desk()
    disk = Disk(d)
    sink = d.armed(gather=512, hand_down=disk, stride=2048)
    for start in range(0, 4000, 1000):
        send(sink, start, start + 1000)
        d.flush()
    assert disk.told == [(0, 2048)]


def test_the_disk_is_not_told_of_what_goes_by_map_or_into_memory(desk: Sit) -> None:
    for options in ({"mode": MAP, "window": PAGE}, {"memory": bytearray(SIZE)}):
        d = desk()
        disk = Disk(d)
        assert send(d.armed(hand_down=disk, stride=512, **options), 0, SIZE) is None
        assert disk.told == []


def test_what_went_by_map_is_not_handed_down_with_what_comes_after_it(desk: Sit) -> None:
    d = desk()
    disk = Disk(d)
    sink = d.armed(gather=512, window=PAGE, hand_down=disk, stride=2048)
    send(sink, 0, PAGE, 512)
    sink.mode = MAP
    d.mapped.add((PAGE, SIZE))
    send(sink, PAGE, 3 * PAGE, 512)
    sink.mode = PWRITE
    send(sink, 3 * PAGE, SIZE, 512)
    assert disk.told == [(0, 2048), (2048, 4096), (12288, 14336), (14336, 16384), (16384, 18432), (18432, 20480)]


def test_a_disk_that_cannot_be_told_is_not_told_again(desk: Sit) -> None:
    d = desk()
    disk = Disk(d, -1)
    sink = d.armed(gather=512, hand_down=disk, stride=2048)
    assert send(sink, 0, SIZE) is None
    assert disk.told == [(0, 2048)]
    assert sink.state == sink.FULL


def test_an_error_of_the_disk_fails_the_sink_and_takes_no_claim_back(desk: Sit) -> None:
    d = desk()
    disk = Disk(d, errno.EIO)
    sink = d.armed(gather=512, hand_down=disk, stride=2048)
    assert send(sink, 0, 3000) == 0
    assert (sink.state, sink.errno, sink.mismatch) == (sink.FAILED, errno.EIO, -1)
    assert send(sink, sink.cursor, SIZE) == 0
    assert disk.told == [(0, 2048)]
    assert d.position() == 2048
    assert d.holds((0, 2048))


def test_the_way_to_the_disk_is_let_go_when_the_sink_is_closed_and_is_garbage_collected_with_it(desk: Sit) -> None:
    d = desk()
    first, second = Disk(d), Disk(d)
    sink = d.sink(hand_down=first)
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is not None
    sink.close()
    gc.collect()
    assert gone() is None
    second.sink = d.sink(hand_down=second)  # type: ignore[attr-defined]
    gone = weakref.ref(second)
    del second
    gc.collect()
    assert gone() is None


# ---- beyond the row ----


@pytest.mark.parametrize("step", [1, 333, 10_000])
def test_what_comes_after_the_stop_is_kept_and_not_written(desk: Sit, mode: int, step: int) -> None:
    d = desk((0, 5000, 0), (5000, SIZE, 9000))
    sink = d.armed(0, 0, 1000, mode=mode)
    assert send(sink, 0, 6000, step) is None
    assert (sink.state, sink.cursor, sink.received, sink.written) == (sink.FULL, 6000, 6000, 5000)
    assert sink.beyond == BODY[5000:6000]
    assert d.holds((0, 9000))
    assert sink(b"more") == 0
    sink.close()
    assert sink.beyond == b""


def test_the_row_is_complete_before_anything_beyond_comes(desk: Sit, mode: int) -> None:
    d = desk((0, 5000, 0), (5000, SIZE, 9000))
    sink = d.armed(0, 0, 1000, mode=mode)
    assert send(sink, 0, 5000) is None
    d.flush()
    assert (sink.state, d.position(0), sink.beyond) == (sink.ARMED, 5000, b"")
    assert send(sink, 5000, 5300) is None
    assert (sink.state, sink.beyond) == (sink.ARMED, BODY[5000:5300])


def test_a_stop_that_is_lowered_below_the_cursor_keeps_what_comes_from_there_on(desk: Sit) -> None:
    d = desk((0, SIZE, 0))
    sink = d.armed(0, 0, 1000)
    assert send(sink, 0, 2000) is None
    d.lower_stop(1500)
    d.flush()
    assert send(sink, 2000, 3000) is None
    assert (sink.state, sink.cursor, sink.beyond) == (sink.FULL, 3000, BODY[2000:3000])
    assert d.holds((0, 1500))


@pytest.mark.parametrize("seam", [-1, (1 << 16) + 1])
def test_a_seam_out_of_range_is_refused(desk: Sit, seam: int) -> None:
    with pytest.raises(ValueError):
        desk().armed(0, 0, seam)


# ---- both at once ----

ROWS = [(100, 5000), (5000, 5001), (6000, 6000 + 2 * PAGE), (SIZE - 3000, SIZE)]
ROW = st.integers(0, len(ROWS) - 1)
STEP = st.one_of(
    st.tuples(st.just("arm"), ROW, st.integers(0, 300), st.sampled_from([PWRITE, MAP])),
    st.tuples(st.just("block"), st.integers(0, 5), st.integers(0, 300) | st.integers(0, 3 * PAGE), st.just(0)),
    st.tuples(st.just("lie"), st.integers(0, 5), st.integers(1, 300), st.integers(0, 299)),
    st.tuples(st.just("lower"), ROW, st.integers(0, 5000), st.just(0)),
    st.tuples(st.just("mode"), st.integers(0, 5), st.sampled_from([PWRITE, MAP]), st.just(0)),
    st.tuples(st.just("flush"), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("close"), st.integers(0, 5), st.just(0), st.just(0)),
)


def play(kind: str, path: Path, heads: list[int], gather: int, steps: list[tuple[str, int, int, int]]) -> list[Any]:
    """What a sink of `kind` answers, and the table and file that it leaves."""
    rows = [(start, stop, min(start + head, stop)) for (start, stop), head in zip(ROWS, heads, strict=True)]
    d = Desk(kind, path, rows)
    sinks: list[Any] = []
    lied = False
    seen: list[Any] = []

    def disk(start: int, stop: int) -> int:
        """Of some ranges it does not want to hear."""
        seen.append((start, stop))
        return -(start % 3 == 0)

    for what, which, one, two in steps:
        if what == "arm":
            cursor, seam = max(0, d.position(which) - one), (0, 40, 3000)[one % 3]
            sinks.append(d.armed(which, cursor, seam, mode=two, gather=gather, window=PAGE, hand_down=disk, stride=500))
        elif what == "lower":
            d.lower_stop(max(d.table[WORDS * which + 1] - one, d.position(which)), which)
        elif what == "flush":
            d.flush()
        elif which < len(sinks):
            sink = sinks[which]
            if what == "block":
                seen.append(sink(memoryview(BODY)[sink.cursor : sink.cursor + one]))
            elif what == "lie":
                block = bytearray(BODY[sink.cursor : sink.cursor + one])
                if sink.cursor + two < d.position(sink.row) and two < len(block):
                    block[two] ^= 0xFF
                    lied = sink.state == sink.ARMED
                seen.append(sink(block))
            elif what == "mode":
                sink.mode = one
                if one == MAP and sink.row >= 0:
                    d.mapped.add((d.position(sink.row), d.table[WORDS * sink.row + 1]))
            else:
                sink.close()
        held = d.path.read_bytes()
        expected = bytearray(BLANK)
        for row, (start, stop) in enumerate(ROWS):
            position = d.position(row)
            assert start <= position <= d.table[WORDS * row + 1] <= stop
            expected[start:position] = BODY[start:position]
        assert with_zeros_as_blank(held, d.mapped) == with_zeros_as_blank(expected, d.mapped)
        seen.append(d.table.tolist())
    seen += [(repr(sink), sink.state, sink.beyond) for sink in sinks] + [lied]
    for sink in sinks:
        sink.close()
    os.close(d.fd)
    return seen


@settings(max_examples=120, deadline=None)
@given(
    heads=st.lists(st.integers(0, 400), min_size=len(ROWS), max_size=len(ROWS)),
    gather=st.sampled_from([1, 50, 700, 1 << 17]),
    steps=st.lists(STEP, max_size=25),
)
def test_after_any_events_the_file_holds_what_the_table_claims_and_is_else_untouched(
    tmp_path_factory: pytest.TempPathFactory, heads: list[int], gather: int, steps: list[tuple[str, int, int, int]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    played = [play(each, folder / f"both-{each}", heads, gather, steps) for each in KINDS]
    assert played[0] == played[-1]


# ---- choosing ----


def chosen(**environment: str) -> list[str]:
    code = "import sys; from fastidm.storage.sink import *; print(SINK_KIND, Sink.__name__, 'mmap' in sys.modules)"
    clean = {name: value for name, value in os.environ.items() if name != "FASTIDM_PURE"}
    root = str(Path(module.__file__).parents[2])
    run = [sys.executable, "-c", code]
    return subprocess.run(run, env=clean | environment, cwd=root, capture_output=True, text=True, check=True).stdout.split()


def test_the_c_sink_is_chosen_when_it_is_built_and_the_pure_one_on_request() -> None:
    assert chosen() == (["c", "Sink", "False"] if BUILT else ["pure", "PureSink", "False"])
    assert chosen(FASTIDM_PURE="1") == ["pure", "PureSink", "False"]
    assert chosen(FASTIDM_PURE="0") == chosen()


# --- memory in the place of the file ---


@pytest.mark.parametrize("step", [1, 7, 4096, SIZE])
def test_memory_takes_what_a_file_would_and_nothing_is_gathered(desk: Sit, step: int) -> None:
    here = desk((0, SIZE, 0))
    memory = bytearray(SIZE)
    sink = here.armed(fd=-1, memory=memory, gather=1000, mode=MAP)
    assert sink.mode == PWRITE
    for at in range(0, SIZE, step):
        assert sink(BODY[at : at + step]) is None
        assert here.position() == min(at + step, SIZE)
    assert here.dirty == []
    assert sink.flush()
    assert sink.written == sink.received == SIZE
    assert memory == BODY
    sink.close()
    memory.append(0)  # nobody holds it any more
    assert here.holds()


def test_memory_is_compared_below_the_position_and_never_left(desk: Sit) -> None:
    here = desk((0, 3000, 1000), (3000, SIZE, 3000))
    memory = bytearray(BODY[:1000].ljust(SIZE, b"\0"))
    sink = here.armed(cursor=500, fd=-1, memory=memory)
    assert sink(BODY[500:9000]) == 2500
    assert sink.state == sink.FULL
    assert memory == BODY[:3000].ljust(SIZE, b"\0")
    other = here.armed(row=1, cursor=2000, fd=-1, memory=memory)
    other(BODY[2000:2500] + BLANK[2500:2600])
    assert (other.state, other.errno, other.mismatch) == (other.FAILED, 0, 2500)


@pytest.mark.parametrize("memory", [bytearray(SIZE - 1), bytearray(), bytes(SIZE)])
def test_memory_that_cannot_hold_the_file_is_refused(desk: Sit, memory: bytes | bytearray) -> None:
    with pytest.raises((ValueError, BufferError, TypeError)):
        desk().sink(fd=-1, memory=memory)
    with pytest.raises(ValueError, match="smaller"):
        desk().sink(fd=-1, memory=bytearray(SIZE), size=-1)
