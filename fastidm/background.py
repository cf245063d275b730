"""Work that may block (allocating, syncing, hashing, renaming), off the loop.

Rules of this module: a job runs in a helper thread; what it returned or raised comes back as a call in the loop's thread, from
`deliver`. Threads are daemons, so a disk that hangs cannot hold the process at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Thread
from time import monotonic

try:
    from _queue import Empty, SimpleQueue
except ImportError:  # where it is not in C; else `queue` would load two modules more
    from queue import Empty, SimpleQueue

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Any

    Job = Callable[[], Any]
    Done = Callable[[Any, BaseException | None], None]

MOST = 32
"""Helper threads at most. A task has one job at a time, so there are as many as tasks wait for their disks: with fewer, tasks
on a disk that is stuck would hold up those on another."""
PATIENCE = 0.02
"""Seconds that a brief job may wait before there is one more thread for it. Threads compete with the loop for the interpreter:
with sixteen, two thousand small files took five times as long as with one (measured)."""
IDLE = 5.0
"""Seconds without a job after which a thread ends."""


class Background:
    """Helper threads and the way back. Parameter: `wake`, makes the loop come round and call `deliver`."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._results: deque[tuple[Done, Any, BaseException | None]] = deque()
        self._threads = 0
        self._pending = 0
        self._submitted: deque[float] = deque()
        """When the jobs that nobody has begun were submitted, and perhaps some more."""
        self._begun: deque[None] = deque()
        """One entry for each job that was begun since they were last compared."""
        self._retired: deque[None] = deque()
        """One entry for each thread that has ended and still counts."""

    def submit(self, job: Job, done: Done, brief: bool = False) -> None:
        """Run `job` soon; then `done(result, None)` or `done(None, error)` is called by `deliver`.

        `brief`: it takes less than a millisecond, unless the disk is stuck.
        """
        self._pending += 1
        self._submitted.append(monotonic())
        self._jobs.put((job, done))
        self._count()
        if not brief or self._threads == 0 or self._late():
            self._one_more()

    def deliver(self) -> None:
        """Hand over what has been done since the last call. To be called now and then while jobs are pending."""
        while self._results:
            done, result, error = self._results.popleft()
            self._pending -= 1
            done(result, error)
        if self._submitted and self._late():
            self._one_more()

    def _late(self) -> bool:
        """Whether a job has waited for too long."""
        while self._begun:
            self._begun.popleft()
            self._submitted.popleft()
        return bool(self._submitted) and monotonic() - self._submitted[0] > PATIENCE

    def _one_more(self) -> None:
        self._count()
        if self._threads < min(self._pending, MOST):
            try:
                Thread(target=self._work, name="fastidm-disk", daemon=True).start()
            except RuntimeError:
                return  # the process may have no more threads now: `deliver` tries again
            self._threads += 1

    def _count(self) -> None:
        while self._retired:
            self._retired.popleft()
            self._threads -= 1

    @property
    def pending(self) -> int:
        """Jobs that were not delivered yet."""
        return self._pending

    def close(self) -> None:
        """Let the idle threads end; busy ones end after their job."""
        self._count()
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _work(self) -> None:
        while True:
            try:
                entry = self._jobs.get(timeout=IDLE)
            except Empty:
                # A job that comes just now waits until it is late, and gets a new thread then.
                self._retired.append(None)
                return
            if entry is None:
                return
            job, done = entry
            self._begun.append(None)
            try:
                self._results.append((done, job(), None))
            except BaseException as error:
                self._results.append((done, None, error))
            del entry, job, done
            self._wake()
