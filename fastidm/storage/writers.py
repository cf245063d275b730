"""Many small files: threads that write each in one go (see `storage.whole`) while the loop goes on.

Rules of this module: a thread that has begun to serve stays out of the interpreter, so that the loop never waits for it. A
helper thread of `fastidm.background` comes back to it for every file: that took a quarter of the time of two thousand files.
Errors come back as numbers, and nothing is raised in a thread.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from time import monotonic

from fastidm.storage import whole
from fastidm.storage.sink import SINK_KIND

MOST = 32
"""Threads at most; there are more than one only while a disk is stuck, so that files on another one need not wait for it."""
PATIENCE = 0.02
"""Seconds without a finished file after which those that wait get one more thread."""


class PureWriter:
    """Files to be written, and those that are. Every method may be called from any thread.

    Parameter: `fd`, a pipe that does not block: a byte is written to it when there is something for `done` to return. Whoever
    owns it must call `close` before closing it.
    """

    def __init__(self, fd: int, /) -> None:
        self._fd = fd
        self._more = Condition()
        self._waiting: deque[tuple[int, bytes, bytes, bytearray]] = deque()
        self._done: list[tuple[int, int]] = []
        self._last = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Files that no thread has begun to write."""
        return len(self._waiting)

    def put(self, folder: bytes, path: bytes, data: bytearray, /) -> int:
        """Have `data` written to a new file at `path`, which is in `folder`; returns a number that `done` will name.

        A thread that has nothing to do begins when `go` is called. `data` must keep its length until then.
        """
        with self._more:
            self._last += 1
            self._waiting.append((self._last, folder, path, data))
            return self._last

    def go(self) -> None:
        """Wake a thread for what was put."""
        with self._more:
            self._more.notify()

    def serve(self) -> None:
        """Write files until `close`."""
        while True:
            with self._more:
                self._more.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                number, folder, path, data = self._waiting.popleft()
            error = whole.write_whole(folder, path, data, False)
            with self._more:
                self._done.append((number, error))
                if len(self._done) == 1 and not self._closed:
                    try:
                        os.write(self._fd, b"\0")
                    except BlockingIOError:
                        pass  # it is full of others: they wake as well

    def done(self) -> list[tuple[int, int]]:
        """(number, what `whole.write_whole` has answered) of each file that was written since the last call."""
        with self._more:
            done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Let the threads end, each after its file; what nobody has begun is not written. Idempotent."""
        with self._more:
            self._closed = True
            self._more.notify_all()


Writer: type[PureWriter] = PureWriter
if SINK_KIND == "c":
    from fastidm import _hotpath

    Writer = _hotpath.Writer  # type: ignore[assignment]


class Writers:
    """The threads, and the way back. Parameter: `fd` as of `PureWriter`. Everything belongs to one thread, the loop's."""

    def __init__(self, fd: int) -> None:
        self._writer = Writer(fd)
        self._threads = 0
        self._jobs: dict[int, Callable[[int], None]] = {}
        self._put = False
        """Whether something was put since the threads were told to go."""
        self._moved_at = 0.0
        """When a file was last written, or there was none to be written."""

    @property
    def pending(self) -> int:
        """Files that were not delivered yet."""
        return len(self._jobs)

    def write(self, path: str, data: bytearray, done: Callable[[int], None]) -> None:
        """Write `data` to a new file; then `deliver` calls `done(0)`, or with what `whole.write_whole` has answered instead.

        The name is there then, and nothing is synced. `data` must keep its length until then. A thread that has nothing to do
        begins when `go` is called.
        """
        if not self._jobs:
            self._moved_at = monotonic()
        self._jobs[self._writer.put(os.fsencode(os.path.dirname(path)), os.fsencode(path), data)] = done
        self._put = True
        if self._threads == 0:
            self._one_more()

    def go(self) -> None:
        """Have what `write` was given begun. Not for each file: waking a thread costs as much as the loop's work for one."""
        if self._put:
            self._put = False
            self._writer.go()

    def deliver(self) -> None:
        """Hand over what has been written since the last call. To be called now and then while files are pending."""
        if not self._jobs:
            return
        written = self._writer.done()
        if written:
            self._moved_at = monotonic()
        elif self._writer.waiting and monotonic() - self._moved_at > PATIENCE:
            self._one_more()
        for number, error in written:
            self._jobs.pop(number)(error)

    def close(self) -> None:
        """Let the threads end. Idempotent."""
        self._writer.close()

    def _one_more(self) -> None:
        if self._threads < MOST:
            try:
                Thread(target=self._writer.serve, name="fastidm-write", daemon=True).start()
            except RuntimeError:
                return  # the process may have no more threads now: `deliver` tries again
            self._threads += 1
            self._moved_at = monotonic()
