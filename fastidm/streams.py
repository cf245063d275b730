"""A remote file that is read while it is downloaded: its bytes in order, or wherever somebody looks.

Rules of this module:

* The file comes in pieces: each is a small download of its own, into memory, with the retries and checks of any other. As many
  are under way as there are connections, and no more are kept than `MEMORY` has room for: who reads slowly slows down the
  server.
* A piece is handed over when it is complete. Pieces begin small and grow to what one connection brings in `PIECE_SECONDS`. One
  for which the reader waits much longer than for others is asked for a second time, and whichever comes first is taken.
* All pieces have the validators of the first, and each has the first bytes of the next as well, which are compared: bytes of
  two versions of the file are not mixed.
* What ends a run takes no lock, and is done in the manager's thread: the garbage collector ends runs that nobody has closed, in
  any thread at any moment, also while that thread has a lock.
* A server that sends no parts has one connection: a stream takes the bytes as they come, a file that is to be seekable is
  fetched as a whole.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from threading import Condition
from time import monotonic

from fastidm.core.response import Content
from fastidm.core.span import Span
from fastidm.errors import (
    AuthError,
    BusyError,
    FastidmError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    RefusedError,
    redact,
)
from fastidm.events import Event, Failed, Finished, Paused, Retrying, Started
from fastidm.manager import DownloadManager, DownloadTask
from fastidm.options import Options
from fastidm.records import replace
from fastidm.running import Limit
from fastidm.storage.memory import Piece

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Any

    from _typeshed import WriteableBuffer

    from fastidm.storage.memory import Body

KIB, MIB = 1 << 10, 1 << 20
MEMORY = 48 * MIB
"""Bytes of pieces that are under way or wait for their reader."""
LARGEST = 4 * MIB
"""Bytes of a piece at most."""
PIECE_SECONDS = 0.5
FIRST = 256 * KIB
"""Bytes of the first piece of a stream."""
LOOK = 64 * KIB
"""Bytes of the first piece where somebody looks into a file."""
SEEN = 16 * MIB
"""Bytes that a seekable file keeps of what was read."""
PATIENCE = 0.5
"""Seconds that a piece may take in any case before it is asked for a second time."""
UNKNOWING = 2.0
"""The same while no piece has come that could be a measure."""
SLOW = 3.0
"""How many times as long as others a piece must take for that."""
BUFFER = 128 * KIB
"""Bytes that a stream reads ahead of lines and small reads."""
FLOW = MIB
"""Bytes that are taken at once from a server without parts."""
SEAM = 4 * KIB
"""Bytes of the next piece that a piece has as well."""
RECOVERY = 8
"""Pieces that must come without trouble before there may be one more at a time."""


REFUSALS = (BusyError, NetworkError, RefusedError, AuthError, NotFoundError)
"""What a server may say of one piece too many. If it says so of all, it is meant."""


class Part(DownloadTask):
    """The download of one piece."""

    def __init__(self, run: Run, start: int, stop: int) -> None:
        super().__init__(run.manager, run.url, run.options)
        self.start, self.stop = start, stop
        self.run = run
        self.span = Span(start, stop + SEAM if run.size is None else min(stop + SEAM, run.size), run.content)
        self.target = self.piece = Piece(run.room, run.spare)
        self.limit = run.limit
        self.twin: Part | None = None
        """The second request for the same bytes."""
        self.alone = False
        """There was one, and the server would not."""
        self.begun = monotonic()
        self.answered = self.complete = False
        self.refused: FastidmError | None = None
        """Why it did not come, while others still may: it is asked for again when one of those is complete."""
        self.failure: FastidmError | None = None

    @property
    def running(self) -> bool:
        """Whether something is still to be heard of it."""
        return not (self.complete or self.refused or self.failure)

    @property
    def seam(self) -> bytes:
        """The first bytes of the next piece; of one that is complete."""
        memory, size = self.piece.memory, self.run.size
        return b"" if memory is None else bytes(memory[self.stop - self.start : min(self.span.stop, size or 0) - self.start])

    def heard(self, event: Event) -> None:
        super().heard(event)
        self.run.heard(self, event)


class Run:
    """The pieces of a file from `start` on, in order. Methods may be called from any thread.

    Parameters: `url`, `options`, as of a download; `content`, the file if it is known; `first`, bytes of the first piece;
    `eager`, False: no further ahead than has been read so far, as nobody knows whether more will be.
    """

    def __init__(
        self,
        manager: DownloadManager,
        url: str,
        options: Options,
        *,
        start: int = 0,
        content: Content | None = None,
        first: int = FIRST,
        eager: bool = True,
    ) -> None:
        self.manager, self.url = manager, url
        self.content = content
        self.ranges = content is not None
        self.final_url = url
        self.wanted = options.connections
        # What is about files, or about the whole of one, means nothing for a piece.
        self.options = replace(
            options, output=None, checksum=None, on_change="fail", sync=False, overwrite=False, rename=False,
            connections=1,
        )  # fmt: skip
        self.limit = Limit(options.limit_rate)
        self.room = max(FIRST, min(LARGEST, MEMORY * 2 // (3 * options.connections) // FIRST * FIRST)) + SEAM
        self.spare: list[bytearray] = []
        self.parts: deque[Part] = deque()
        """Those that have begun and were not taken yet, in the order of the file."""
        self._next = start
        self._largest = self.room - SEAM
        self._length = min(first, self._largest)
        self._window = MEMORY // self.room
        self._start = start
        self._reach: float = float("inf") if eager else start + self._length
        """Where the last piece begins at the latest."""
        self._allowed = self.wanted
        self._smooth = 0
        self._usual = 0.0
        """Seconds that pieces take."""
        self._changed = Condition()
        self._ended = False
        self._taken: Part | None = None
        """The one that is being read."""
        self._seam = (-1, b"")
        """Where the one that is being read ends, and what comes there."""
        self.peak = 0
        """The most pieces that were under way at the same time."""
        self.retries = 0
        with self._changed:
            self._begin_more()

    def segments(self, read: int) -> tuple[tuple[int, int, int], ...]:
        """(start, stop, position) of what was read, of each piece, and of the rest; for whoever shows it."""
        with self._changed:
            size, parts, begun = self.size, list(self.parts), self._next
        if size is None:
            return ()
        rows, at = [], read
        for part in parts:
            if part.start > at:
                rows.append((at, part.start, part.start))  # the one that is being read
            running = part._running
            came = part.stop if part.complete else part.start + (running.received if running else 0)
            rows.append((part.start, part.stop, min(came, part.stop)))
            at = part.stop
        if begun > at:
            rows.append((at, begun, begun))
        return tuple(row for row in ((0, read, read), *rows, (begun, size, begun)) if row[0] < row[1])

    @property
    def size(self) -> int | None:
        """Length of the whole file; None while nobody knows."""
        return self.content.total if self.content is not None else None

    @property
    def validator(self) -> str | None:
        """ETag or Last-Modified of the file."""
        return None if self.content is None else self.content.etag or self.content.last_modified

    def opened(self) -> None:
        """Wait until the file is known. Raises what ends the first piece."""
        self.check_process()
        with self._changed:
            while self.content is None:
                self._check()
                self._changed.wait()

    def take(self) -> Part | None:
        """The next piece, complete, or flowing; waits for it. None: that was all. It is to be given back with `done`.

        Raises the error that ended it; `IntegrityError` if it does not fit to the one before; RuntimeError once the manager is
        closed.
        """
        self.check_process()
        with self._changed:
            while True:
                self._check()
                if not self.parts:
                    self._begin_more()  # a manager that is being closed is no end of the file: then this raises
                if not self.parts:
                    return None
                part = self.parts[0]
                if part.complete or part.piece.paced:
                    self._compare(part)
                    self._taken = self.parts.popleft()
                    return part
                self._changed.wait(self._help(part))

    def done(self, part: Part) -> None:
        """A piece was read."""
        part.piece.release()
        with self._changed:
            self._taken = None
            # Who has read so much in order will perhaps read twice as much again.
            self._reach = max(self._reach, part.stop + 2 * (part.stop - self._start))
            self._begin_more()

    def skip(self, position: int) -> list[Part] | None:
        """The pieces before the one that byte `position` is in, which are the caller's then; None: it is in none."""
        self.check_process()
        with self._changed:
            if self._ended or not any(part.start <= position < part.stop for part in self.parts):
                return None
            passed = []
            while self.parts[0].stop <= position:
                part = self.parts.popleft()
                if part.complete:
                    self._compare(part)
                passed.append(part)
            self._begin_more()
            return passed

    def skip_all(self) -> list[Part]:
        """All pieces that were not taken; they are the caller's then."""
        with self._changed:
            parts = list(self.parts)
            self.parts.clear()
            return parts

    def close(self) -> None:
        """Stop all, soon. Idempotent, and takes no lock."""
        if not self._ended:
            self._ended = True
            self.manager.call(self._stop_all)

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child: what is waited for there never comes. Before any lock, as nobody may be left
        to release it."""
        self.manager.check_process()

    def stop(self, part: Part) -> None:
        """Nobody will read this piece."""
        if part.twin is not None:
            self.stop(part.twin)
        try:
            part.cancel()
        except RuntimeError:
            pass  # the manager is closed, and its tasks with it
        part.when_settled(part.piece.release)

    # ------------------------------------------------------------------ in the manager's thread

    def _stop_all(self) -> None:
        with self._changed:
            parts = [*self.parts, *([self._taken] if self._taken is not None else ())]
            self.parts.clear()
            self._changed.notify_all()
        for part in parts:
            self.stop(part)

    def heard(self, part: Part, event: Event) -> None:
        """Something has happened to a piece."""
        with self._changed:
            if self._ended:
                return
            try:
                if isinstance(event, Started):
                    self._answered(part, event)
                elif isinstance(event, Finished):
                    self._completed(part)
                elif isinstance(event, Retrying):
                    self._troubled()
                elif isinstance(event, Failed | Paused):
                    self._failed(part)
                self._begin_more()
            except RuntimeError:
                pass  # the manager is being closed; `take` says so
            self._give_up()
            self._changed.notify_all()

    def _answered(self, part: Part, event: Started) -> None:
        part.answered = True
        running = part._running
        assert running is not None, "it tells so itself"
        if self.content is not None:
            return
        self.content, self.ranges = running.machine.pinned, event.ranges
        self.final_url = running.machine.connections.url
        total = self.size
        if total is not None:  # the first piece was asked for before anybody knew how long the file is
            part.stop = min(part.stop, total) if event.ranges else total
        self._next = part.stop

    def _completed(self, part: Part) -> None:
        part.complete = True
        for other in self.parts:
            if other.twin is part:
                self._replace(other, part)
                other.twin = None
                self.stop(other)
                break
        if part.twin is not None:
            self.stop(part.twin)
            part.twin = None
        seconds = monotonic() - part.begun
        self._usual = seconds if self._usual == 0 else 0.75 * self._usual + 0.25 * seconds
        fits = int((part.stop - part.start) * PIECE_SECONDS / seconds) if seconds > 0 else self._largest
        self._length = min(self._largest, max(self._length, min(2 * self._length, fits)))
        self._smooth += 1
        if self._smooth >= RECOVERY and self._allowed < self.wanted:
            self._allowed, self._smooth = self._allowed + 1, 0
        for refused in [other for other in self.parts if other.refused]:
            if self._running() < self._allowed:
                again = Part(self, refused.start, refused.stop)
                again.begin()
                self._replace(refused, again)
                refused.piece.release()

    def _troubled(self) -> None:
        """The server refuses one, or a connection broke: no more at a time than it serves now."""
        self.retries += 1
        served = sum(1 for part in self.parts if part.answered and part.running)
        self._allowed, self._smooth = max(1, min(self._allowed, served)), 0

    def _failed(self, part: Part) -> None:
        error = part.error
        if part not in self.parts and not part.piece.paced:
            for other in self.parts:
                if other.twin is part:  # the other one may still come
                    other.twin, other.alone = None, True
                    self.stop(part)
            return
        if part.twin is not None:
            self._replace(part, part.twin)
            part.twin = None
            self.stop(part)
            return
        if isinstance(error, REFUSALS) and part in self.parts:
            part.refused = error
            self._troubled()
        else:
            part.failure = error

    def _give_up(self) -> None:
        """Nothing is under way that could be complete one day: what was refused has failed. So each round of asking again has
        cost a complete piece, and a server of which the rest of a file cannot be had is left alone."""
        if self._running() == 0:
            for part in self.parts:
                part.failure = part.failure or part.refused

    # ------------------------------------------------------------------ with the lock

    def _begin_more(self) -> None:
        if self._ended:
            return
        if self.content is None:
            if not self.parts:
                self._begin(Part(self, self._next, self._next + self._length))
            return
        end = self.size
        if not self.ranges or end is None:
            return
        if any(part.refused for part in self.parts):
            return
        running = self._running()
        while self._next < min(end, self._reach) and running < self._allowed and len(self.parts) < self._window:
            part = Part(self, self._next, min(self._next + self._length, end))
            self._begin(part)
            self._next = part.stop
            running += 1

    def _running(self) -> int:
        return sum(1 for part in self.parts if part.running)

    def _replace(self, part: Part, other: Part) -> None:
        self.parts[self.parts.index(part)] = other

    def _help(self, head: Part) -> float | None:
        """The reader waits for `head`: ask for it a second time if that takes too long. Seconds until it does; None: never."""
        if head.twin is not None or head.alone or head.refused or self.content is None or self.wanted == 1 or self.limit:
            return None
        left = head.begun + (max(PATIENCE, SLOW * self._usual) if self._usual else UNKNOWING) - monotonic()
        if left > 0:
            return left
        head.twin = Part(self, head.start, head.stop)
        head.twin.begin()
        return None

    def _begin(self, part: Part) -> None:
        part.begin()  # raises RuntimeError once the manager is closed: there is no such part then
        self.parts.append(part)
        self.peak = max(self.peak, self._running())

    def _compare(self, part: Part) -> None:
        """That a piece begins with what the one before it has said."""
        at, seam = self._seam
        memory = part.piece.memory
        if memory is not None and at == part.start and seam != memory[: len(seam)]:
            raise IntegrityError("the parts do not fit together", "the remote file has changed: try again")
        self._seam = part.stop, part.seam

    def _check(self) -> None:
        if self._ended:
            raise ValueError("I/O operation on closed file")
        if self.parts and self.parts[0].failure is not None:
            raise self.parts[0].failure


class InOrder(io.RawIOBase):
    """The bytes of a run, one after the other."""

    def __init__(self, run: Run, checksum: tuple[str, str] | None) -> None:
        self.run = run
        self._part: Part | None = None
        self._view = memoryview(b"")
        """Of the present piece, what was not read yet."""
        self._flow = memoryview(b"")
        self._checksum = checksum
        self._failure: IntegrityError | None = None
        self._digest: Any = None
        self._came = 0
        if checksum is not None:
            from hashlib import new

            self._digest = new(checksum[0])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        wanted = memoryview(buffer).cast("B")
        if not wanted or not self._fill():
            return 0
        count = min(len(wanted), len(self._view))
        wanted[:count] = self._view[:count]
        self._view = self._view[count:]
        return count

    def readall(self) -> bytes:
        parts = []
        self.write_to(lambda data: parts.append(bytes(data)) or len(data))  # type: ignore[func-returns-value]
        return b"".join(parts)

    def write_to(self, write: Callable[[memoryview], int]) -> int:
        """Give all that is left to `write`, which says how much it took. Returns how many bytes those were."""
        total = 0
        while self._fill():
            count = write(self._view)
            self._view = self._view[count:]
            total += count
        return total

    def close(self) -> None:
        if not self.closed:
            self._part, self._view = None, memoryview(b"")
            self.run.close()
        super().close()

    def _fill(self) -> bool:
        """Have something in `_view`; waits for it. False: that was all."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._failure is not None:
            raise self._failure
        self.run.check_process()
        while not self._view:
            part = self._part
            if part is None:
                self._part = part = self.run.take()
                if part is None:
                    self._verify()
                    return False
                memory = part.piece.memory
                if memory is not None:
                    self._view = memoryview(memory)[: part.stop - part.start]
            elif part.piece.paced and (count := self._take_flow(part)):
                self._view = self._flow[:count]
            else:
                if part.piece.paced:
                    part.wait()  # raises what has ended it
                self._part = None
                self.run.done(part)
            self._came += len(self._view)
            if self._view and self._digest is not None:
                self._digest.update(self._view)
                if self._came == self.run.size:
                    self._verify()  # before the last bytes are given out: nobody need look whether there are more
        return True

    def _take_flow(self, part: Part) -> int:
        if not self._flow:
            self._flow = memoryview(bytearray(FLOW))
        return part.piece.take(self._flow)

    def _verify(self) -> None:
        digest, self._digest = self._digest, None
        if self._checksum is None or digest is None:
            return
        algorithm, expected = self._checksum
        if (got := digest.hexdigest()) != expected.lower():
            what = f"the stream has the {algorithm} checksum {got}, expected was {expected}"
            self._failure = IntegrityError(what, "what was read is not to be used")
            raise self._failure


class Anywhere(io.RawIOBase):
    """The bytes of a file, wherever somebody looks.

    Parameters: `start(position, content)`, makes a run; `fetch`, gets the whole file, from a server that sends no parts.
    """

    def __init__(self, start: Callable[[int, Content | None], Run], fetch: Callable[[], Body]) -> None:
        self._start = start
        self._at = 0
        self._seen: OrderedDict[int, bytes] = OrderedDict()
        """Offset -> what is there, of what was read before; the latest comes last."""
        self._body: Body | None = None
        self._run = start(0, None)
        try:
            self._run.opened()
            if not self._run.ranges:
                self._run.close()
                self._body = fetch()
        except BaseException:
            self._run.close()
            raise
        self.content = self._run.content
        self.size = len(self._body) if self._body is not None else self._run.size or 0
        self.final_url = self._run.final_url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readall(self) -> bytes:
        with memoryview(bytearray(max(0, self.size - self._at))) as rest:
            count = 0
            while got := self.readinto(rest[count:]):
                count += got
            return bytes(rest[:count])

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}.get(whence)
        if base is None or base + offset < 0:
            raise ValueError(f"cannot seek to {offset} from {whence}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        wanted = memoryview(buffer).cast("B")
        count = min(len(wanted), self.size - self._at)
        if count <= 0:
            return 0
        if self._body is not None:
            wanted[:count] = memoryview(self._body)[self._at : self._at + count]
        else:
            start, data = self._find(self._at)
            count = min(count, start + len(data) - self._at)
            wanted[:count] = memoryview(data)[self._at - start : self._at - start + count]
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._run.close()
            self._seen.clear()
            self._body = None
        super().close()

    def _find(self, position: int) -> tuple[int, bytes]:
        """(offset, bytes) of which one is the byte at `position`; waits for it."""
        for start, data in self._seen.items():
            if start <= position < start + len(data):
                self._seen.move_to_end(start)
                return start, data
        try:
            passed = self._run.skip(position)
            if passed is None:
                self._leave()
                self._run = self._start(position // LOOK * LOOK, self.content)
            for part in passed or ():
                self._pass(part)
            here = self._run.take()
        except FastidmError:
            self._run.close()  # the next look begins anew
            raise
        assert here is not None and here.start <= position < here.stop
        return here.start, self._keep(here)

    def _leave(self) -> None:
        """The run is not where somebody looks."""
        for part in self._run.skip_all():
            self._pass(part)
        self._run.close()

    def _pass(self, part: Part) -> None:
        """Nobody waits for this piece; what is there may be of use later."""
        if part.complete:
            self._keep(part)
        else:
            self._run.stop(part)

    def _keep(self, part: Part) -> bytes:
        assert part.piece.memory is not None, "parts do not flow"
        data = self._seen[part.start] = bytes(memoryview(part.piece.memory)[: part.stop - part.start])
        held = sum(map(len, self._seen.values()))
        while held > SEEN and len(self._seen) > 1:
            held -= len(self._seen.popitem(last=False)[1])
        self._run.done(part)
        return data


class Stream(io.BufferedReader):
    """What `fastidm.stream` returns: a binary file that is read from its first byte to its last, while it is downloaded.

    It reads like any file: `read`, `readinto`, lines, `tarfile.open(fileobj=..., mode="r|*")`, `hashlib.file_digest`; `blocks`
    is the quickest way through it. At most some fifty MiB of it are in memory, however slowly it is read. `close`, or the end
    of a `with` block, stops the download.

    Reading raises a leaf of `FastidmError` where the download has failed, and `IntegrityError` at the end if the checksum that
    was asked for is not the stream's.
    """

    raw: InOrder

    def __init__(self, raw: InOrder) -> None:
        super().__init__(raw, BUFFER)

    def close(self) -> None:
        """Stop the download; who waits in a read of another thread gets ValueError."""
        self.raw.run.close()  # before the lock that such a read has
        super().close()

    @property
    def size(self) -> int | None:
        """Bytes of the whole file; None: the server does not say."""
        return self.raw.run.size

    @property
    def final_url(self) -> str:
        """Where redirects led, as it may be shown."""
        return redact(self.raw.run.final_url)

    @property
    def validator(self) -> str | None:
        """What the server names this version of the file by: its ETag, else its Last-Modified."""
        return self.raw.run.validator

    def blocks(self, most: int = 1 << 20) -> Iterator[bytes]:
        """All that is left, in blocks of at most `most` bytes."""
        while block := self.read1(most):
            yield block


class RemoteFile(io.BufferedReader):
    """What `fastidm.open` returns: a binary file that is somewhere else, and that may be read anywhere.

    Only what is looked at is fetched, in pieces that grow while it is read in order; some of what was read is kept.
    `zipfile.ZipFile(file)`, `tarfile.open(fileobj=file)`, `pyarrow` and others read it as any file.

    Reading raises a leaf of `FastidmError`: `ContentChangedError` if the file has become another one.
    """

    raw: Anywhere

    def __init__(self, raw: Anywhere) -> None:
        super().__init__(raw, LOOK)

    def close(self) -> None:
        """Stop what is under way; who waits in a read of another thread gets ValueError."""
        self.raw._run.close()
        super().close()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.raw.size

    @property
    def final_url(self) -> str:
        """Where redirects led, as it may be shown."""
        return redact(self.raw.final_url)
