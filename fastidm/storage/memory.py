"""A download that goes into memory instead of a file: the target's twin, and the object that the caller gets.

Rules of this module: bytes come through a descriptor as into a file, so the sink and all comparisons are the same. The file
behind it has no name (`memfd_create`, elsewhere an unlinked temporary file): nothing survives the process, nothing is synced.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastidm.core.response import Content
from fastidm.core.segments import ROW_BYTES
from fastidm.errors import IntegrityError, LimitError
from fastidm.storage.errors import mapped

if TYPE_CHECKING:
    from typing import Self

    from fastidm.events import Result

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


class MemoryTarget:
    """The target of a task whose file is to be in memory; methods as those of `Target`.

    Parameter: `most`, bytes that it may have; None: half the memory of the machine.
    """

    path = ""
    memory = None
    map_allowed = False
    has_journal = False
    unclaimed = False

    def __init__(self, most: int | None = None) -> None:
        self.most = most if most is not None else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE
        self.fd = -1
        self.size = -1
        self.table = memoryview(b"")
        self.body: Body | None = None

    def prepare(self) -> None:
        """There is never anything of an earlier run."""

    def disturbed(self) -> bool:
        return False

    def fits_memory(self, total: int | None) -> bool:
        """Whether `begin` takes no time."""
        return True

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

    def close(self, keep: bool = True) -> None:
        """Idempotent. What `body` holds stays."""
        self.discard()

    def discard(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def checkpoint(self, rows: bytes) -> None:
        raise AssertionError("nothing survives")

    def resume(self, rows: bytes) -> None:
        raise AssertionError("nothing survives")

    def claim(self) -> None:
        raise AssertionError("nobody else can see it")


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fastidm", os.MFD_CLOEXEC)
    from tempfile import TemporaryFile

    with TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
