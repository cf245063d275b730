"""A download that goes into memory instead of a file: the target's twins, and the object that the caller gets.

Rules of this module: nothing survives the process, and nothing is synced. A whole body comes through a descriptor as into a
file, so the sink and all comparisons are the same; the file behind it has no name (`memfd_create`, elsewhere an unlinked
temporary file). A piece of a stream is received into a buffer that is used again and again.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from threading import Condition

from fastidm.core.response import Content
from fastidm.core.segments import ROW_BYTES, SegmentTable
from fastidm.errors import IntegrityError, LimitError
from fastidm.storage.errors import mapped
from fastidm.storage.linux import give_back

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Self

    from fastidm.events import Result

AHEAD = 32 << 20
"""Bytes of a file that flows which may wait for their reader."""
STEP = 1 << 20
"""Bytes that are given back at once."""
PACE_SECONDS = 0.02
"""How soon it is looked again whether the reader has caught up."""
PIECE_ROWS = 16
"""Segments of a piece at most."""
ROWS = 160
"""Segments at most; as many as connections and some that are half done."""
SHARE = 2
"""A body may have this part of the machine's memory, unless the caller says otherwise."""


class Body:
    """What `fetch` returns: the bytes themselves, in memory of their own, with the buffer protocol.

    `memoryview(body)`, `numpy.frombuffer(body, ...)`, `hashlib.sha256(body)` and files read it without a copy; `bytes(body)`
    and `body[:]` copy. The memory is given back when nobody holds it any more, or at `close` or the end of a `with` block;
    that raises BufferError while somebody still looks at it.
    """

    result: Result
    """How it came; `path` is "" there."""

    if TYPE_CHECKING:

        def __buffer__(self, flags: int) -> memoryview: ...
        def __len__(self) -> int: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        raise NotImplementedError


class _Mapped(Body, mmap.mmap):
    """A body of at least one byte."""

    close = mmap.mmap.close

    def __repr__(self) -> str:
        return f"<Body of {len(self)} bytes>" if not self.closed else "<Body, closed>"


class _Empty(Body, bytearray):
    """No byte: that cannot be mapped."""

    def close(self) -> None:
        pass

    def __repr__(self) -> str:
        return "<Body of 0 bytes>"


class Nameless:
    """The target of a task that makes no file; methods as those of `Target`."""

    path = ""
    map_allowed = False
    has_journal = False
    unclaimed = False
    dropped = 0

    def __init__(self) -> None:
        self.fd = -1
        self.size = -1
        self.table = memoryview(b"")
        self.memory: bytearray | None = None

    def prepare(self) -> None:
        """There is never anything of an earlier run."""

    def disturbed(self) -> bool:
        return False

    def fits_memory(self, total: int | None) -> bool:
        """Whether `begin` takes no time."""
        return True

    def begin(self, content: Content, rows: bytes = b"") -> None:
        """Make room."""
        raise NotImplementedError

    def finish(self, size: int, checksum: tuple[str, str] | None, stop: Callable[[], bool]) -> None:
        """All of it is there."""
        raise NotImplementedError

    def read(self, start: int, count: int) -> bytes:
        return os.pread(self.fd, count, start)

    @property
    def paced(self) -> bool:
        return False

    def pace(self, received: int) -> float:
        return 0.0

    def check_size(self, size: int) -> None:
        pass

    def close(self, keep: bool = True) -> None:
        """Idempotent."""
        self.discard()

    def discard(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.discard()

    def checkpoint(self, rows: bytes) -> None:
        raise AssertionError("nothing survives")

    def resume(self, rows: bytes) -> None:
        raise AssertionError("nothing survives")

    def claim(self) -> None:
        raise AssertionError("nobody else can see it")


class MemoryTarget(Nameless):
    """A whole body. Parameter: `most`, bytes that it may have; None: half the memory of the machine."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.most = most if most is not None else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE
        self.body: Body | None = None

    def begin(self, content: Content, rows: bytes = b"") -> None:
        """Make room, which the kernel gives when bytes come. Raises `LimitError`, `StorageError`."""
        self.discard()
        self.check_size(content.total or 0)
        with mapped("the memory"):
            self.fd = _nameless()
            self.size = -1 if content.total is None else content.total
            if content.total:
                os.ftruncate(self.fd, content.total)
        self.table = memoryview(bytearray(rows.ljust(ROWS * ROW_BYTES, b"\0")))

    def check_size(self, size: int) -> None:
        """Raises `LimitError` if `size` bytes are more than it may have: the server need not have said how many will come."""
        if size > self.most:
            raise LimitError(f"the body has {size} bytes or more, and {self.most} are allowed", "download it to a file")

    def finish(self, size: int, checksum: tuple[str, str] | None, stop: Callable[[], bool]) -> None:
        """Verify what came, and make it `body`. Helper thread.

        Raises `LimitError`, `IntegrityError`, `InterruptedDownload`, `StorageError`.
        """
        self.check_size(size)
        with mapped("the memory"):
            if checksum:
                from fastidm.storage.checksum import file_digest

                algorithm, expected = checksum
                if (got := file_digest(self.fd, algorithm, stop)) != expected.lower():
                    raise IntegrityError(f"the body has the {algorithm} checksum {got}, expected was {expected}")
            if size:
                populate = getattr(mmap, "MAP_POPULATE", 0)
                self.body = _Mapped(self.fd, size, mmap.MAP_SHARED | populate)
            else:
                self.body = _Empty()
        self.discard()

    def taken(self, result: Result) -> Body:
        """The body, which is then the caller's; `result` says how it came."""
        body, self.body = self.body, None
        assert body is not None, "it is complete"
        body.result = result
        return body



class Piece(Nameless):
    """A part of a file, for somebody who reads it in order; or all of a file from a server that sends no parts.

    A part is read when it is complete, from `memory`. A whole file that does not fit there flows: it is read with `take` while
    it comes, at most `AHEAD` bytes of it wait, and what was read is given back.

    Parameters: `room`, bytes of a part at most; `spare`, buffers of that many bytes to be used again.
    """

    def __init__(self, room: int, spare: list[bytearray]) -> None:
        super().__init__()
        self._room, self._spare = room, spare
        self._changed = Condition()
        self._there = 0
        """Bytes that have come, of one that flows."""
        self._over = False

    @property
    def paced(self) -> bool:
        """Whether it flows."""
        return self.fd >= 0

    def begin(self, content: Content, rows: bytes = b"") -> None:
        """Take a buffer, or let it flow. Raises `StorageError`."""
        total = content.total
        self.table = memoryview(bytearray(rows.ljust(PIECE_ROWS * ROW_BYTES, b"\0")))
        self.size = -1 if total is None else total
        if total is not None and total <= self._room:
            try:
                self.memory = self._spare.pop()
            except IndexError:
                self.memory = bytearray(self._room)
            return
        with mapped("the memory"):
            self.fd = _nameless()
            if total:
                os.ftruncate(self.fd, total)

    def read(self, start: int, count: int) -> bytes:
        assert self.memory is not None, "what flows has no seams"
        return bytes(memoryview(self.memory)[start : start + count])

    def finish(self, size: int, checksum: tuple[str, str] | None, stop: Callable[[], bool]) -> None:
        self.size = size

    def pace(self, received: int) -> float:
        """In the engine's thread: so many bytes have come."""
        with self._changed:
            if received > self._there:
                self._there = received
                self._changed.notify()
            return PACE_SECONDS if received - self.dropped >= AHEAD else 0.0

    def close(self, keep: bool = True) -> None:
        """Nothing more will come. What came can be read until `release`."""
        with self._changed:
            if self.paced:
                self._there = SegmentTable(self.table).received()
            self._over = True
            self._changed.notify()

    def take(self, buffer: memoryview) -> int:
        """Of one that flows: read what comes next; waits for it. 0: nothing more will come."""
        with self._changed:
            while self._there <= self.dropped and not self._over:
                self._changed.wait()
            count = min(len(buffer), self._there - self.dropped)
            count = os.preadv(self.fd, [buffer[:count]], self.dropped) if count > 0 else 0
            before = self.dropped
            self.dropped += count
        if before // STEP != self.dropped // STEP:
            give_back(self.fd, before // STEP * STEP, self.dropped // STEP * STEP)
        return count

    def release(self) -> None:
        """It was read, and nothing writes into it any more: its memory is free. Idempotent."""
        with self._changed:  # two threads may do so, and a buffer that is there twice would be given to two pieces
            memory, self.memory = self.memory, None
            if memory is not None:
                self._spare.append(memory)
            self.discard()


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fastidm", os.MFD_CLOEXEC)
    from tempfile import TemporaryFile

    with TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
