"""The sink in C when memory runs out: each allocation of a whole session fails once, and each is the first of many that fail.

A session that met a failure has ended in MemoryError, or with a sink that is FAILED with ENOMEM; nothing else is allowed.
Afterwards the file holds what the table claims and nothing more, and another sink goes on from there. The number of
allocations is nowhere written down: each test goes on until a session ends as if nothing could fail.
"""

from __future__ import annotations

import errno
import gc
import importlib.util
import os
import random
import resource
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("fastidm._hotpath") is None:
    pytest.skip("the C extension fastidm._hotpath is not built", allow_module_level=True)
testing = pytest.importorskip("_testcapi", reason="this Python was built without the module that makes allocations fail")

import _imp  # noqa: E402  # what the import system itself uses, without its caches

from fastidm._hotpath import Sink  # noqa: E402
from fastidm.storage.sink import MAP, PWRITE  # noqa: E402

SIZE = 60_000
BODY = random.Random(3).randbytes(SIZE)
BLANK = bytes(byte ^ 0xFF for byte in BODY)
BLOCKS = [memoryview(BODY)[at : at + 7000] for at in range(0, SIZE, 7000)]
LARGEST_SESSION = 2000


class Desk:
    """A part file full of BLANK with one row, and what a session needs, made beforehand.

    Parameter: `gather`, of a length that no earlier session had, so that no buffer of an earlier one is used again.
    """

    def __init__(self, fd: int, gather: int) -> None:
        os.pwrite(fd, BLANK, 0)
        self.fd, self.gather = fd, gather
        self.table = array("q", [0, SIZE, 0, ~0])
        self.dirty: list[Any] = []
        self.sink: Any = None

    def make(self, mode: int) -> Any:
        self.sink = sink = Sink(self.fd, self.table, SIZE, self.dirty, gather=self.gather, mode=mode, window=1)
        return sink

    def check(self) -> str:
        """Whether all is as it must be, after whatever happened; returns how the sink ended."""
        position = self.table[2]
        held = os.pread(self.fd, SIZE, 0)
        assert held[:position] == BODY[:position]
        assert all(byte in (0, was) for byte, was in zip(held[position:], BLANK[position:], strict=True))  # 0: cleared by a map
        ended = "none" if self.sink is None else ("HOLD", "ARMED", "FULL", "FAILED", "CLOSED")[self.sink.state]
        if ended == "FAILED":
            assert (self.sink.errno, self.sink.mismatch) == (errno.ENOMEM, -1)
            assert [self.sink(BLOCKS[0]), self.sink.flush()] == [0, False]
        if ended == "ARMED":
            self._finish(self.sink)
        if self.sink is not None:
            self.sink.close()
        other = Sink(self.fd, self.table, SIZE, [], gather=self.gather)
        other.arm(0, self.table[2])
        self._finish(other)
        assert os.pread(self.fd, SIZE, 0) == BODY
        return ended

    def _finish(self, sink: Any) -> None:
        if sink.cursor < SIZE:
            assert sink(memoryview(BODY)[sink.cursor :]) is None
            assert sink.state == sink.FULL


Session = Callable[[Desk], Any]


def receive(mode: int) -> Session:
    def session(desk: Desk) -> Any:
        sink = desk.make(mode)
        sink.arm(0, 0)
        for block in BLOCKS:
            if sink(block) is not None:
                return None
            if sink.received == 14_000:
                sink.flush()
            if sink.received == 28_000:
                sink.mode = PWRITE + MAP - mode
        return sink.state

    return session


def refused(attempt: Callable[[Desk, Any], object]) -> Session:
    """A session in which `attempt` raises because of what it asks for, if it does not because of memory."""
    return lambda desk: attempt(desk, desk.make(PWRITE))


def tell(desk: Desk) -> Any:
    """All that can be read of a sink. The numbers are too large for those that Python keeps at hand."""
    sink = desk.make(PWRITE)
    sink.arm(0, 0)
    if sink(BLOCKS[0]) is not None or not sink.flush():
        return None
    told = (sink.cursor, sink.received, sink.written, sink.cost_bytes, sink.mode, sink.state, repr(sink))
    return told if sink.cost_ns > 0 else None


def load(desk: Desk) -> Any:
    """The module itself, once more."""
    module = _imp.create_dynamic(SPEC)
    _imp.exec_dynamic(module)
    return module.Sink.FAILED


SPEC = importlib.util.find_spec("fastidm._hotpath")
SESSIONS: dict[str, Session] = {
    "gathering": receive(PWRITE),
    "mapping": receive(MAP),
    "telling": tell,
    "loading": load,
    "no such row": refused(lambda desk, sink: sink.arm(5, 0)),
    "no such cursor": refused(lambda desk, sink: sink.arm(0, 9)),
    "no number": refused(lambda desk, sink: sink.arm(0, "x")),
    "armed twice": refused(lambda desk, sink: sink.arm(0, 0) or sink.arm(0, 0)),
    "no block": refused(lambda desk, sink: sink()),
    "a wrong block": refused(lambda desk, sink: sink(5)),
    "no such mode": refused(lambda desk, sink: setattr(sink, "mode", 7)),
    "no such size": refused(lambda desk, sink: Sink(0, desk.table, -9, desk.dirty)),
    "a constant table": refused(lambda desk, sink: Sink(0, b"x", 0, desk.dirty)),
    "half a table": refused(lambda desk, sink: Sink(0, bytearray(7), 0, desk.dirty)),
}
gathers = iter(range(20_001, 1_000_000))


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def under(session: Session, desk: Desk, first: int, end: int) -> Any:
    """What `session` returns or raises when the allocations from number `first` on, up to `end` or (0) all, fail."""
    allow = testing.remove_mem_hooks
    try:
        testing.set_nomemory(first, end)
        try:
            return session(desk)
        finally:
            allow()
    except MemoryError:
        return None
    except SystemError as error:
        # Python 3.11 forgets an exception when there is no memory for its traceback. Of a function in C that returns NULL
        # without one it says "... returned NULL without setting an exception".
        if str(error) != "error return without exception set":
            raise
        return None
    except (ValueError, TypeError, BufferError) as error:
        return type(error)


def torture(session: Session, fd: int) -> list[str]:
    """How the sink ended each time that an allocation failed."""
    expected = under(session, Desk(fd, next(gathers)), LARGEST_SESSION, LARGEST_SESSION + 1)
    assert expected is not None
    seen: list[str] = []
    for number in range(1, LARGEST_SESSION):
        for end in (number + 1, 0):
            desk = Desk(fd, next(gathers))
            result = under(session, desk, number, end)
            assert result is None or result == expected
            ended = desk.check()
            if end == 0 and result is not None:
                return seen
            if result is None:
                seen.append(ended)
    raise AssertionError(f"{LARGEST_SESSION} allocations, and it still goes on")


def sinks_and_classes() -> list[Any]:
    """All sinks and classes of sinks that were made since `gc.freeze`."""
    gc.collect()
    return [each for each in gc.get_objects() if "Sink" in (type(each).__name__, getattr(each, "__name__", ""))]


@pytest.mark.parametrize("name", SESSIONS)
def test_each_allocation_may_fail_and_nothing_leaks_or_is_claimed_wrongly(name: str, fd: int) -> None:
    gc.disable()  # no finaliser of something else may meet the failure
    gc.freeze()
    tracemalloc.start()
    try:
        held = []
        for _ in range(3):
            seen = torture(SESSIONS[name], fd)
            assert sinks_and_classes() == []
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        gc.unfreeze()
        gc.enable()
    assert ("FAILED" in seen) == (name in ("gathering", "mapping", "telling"))
    assert seen.count("none") > 1
    if name != "loading":  # Python itself keeps something of each class
        assert held[2] - held[1] < 5000


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer itself does not survive this")
def test_where_no_more_memory_can_be_mapped_the_file_is_written_and_a_missing_buffer_is_no_memory(fd: int) -> None:
    desk = Desk(fd, gather=1 << 30)
    sink = desk.make(MAP)
    sink.arm(0, 0)
    before = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use, before[1]))
    try:
        first, second = sink(BLOCKS[0]), sink(BLOCKS[1])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert (first, sink.mode, second, sink.state, sink.errno) == (None, PWRITE, 0, sink.FAILED, errno.ENOMEM)
    assert desk.table[2] == 7000
    assert desk.check() == "FAILED"
