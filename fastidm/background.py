"""Work that may block (allocating, syncing, hashing, renaming), off the loop.

Rules of this module: a job runs in a helper thread; what it returned or raised comes back as a call in the loop's thread, from
`deliver`. Threads are daemons, so a disk that hangs cannot hold the process at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

MOST = 32
"""Helper threads at most. A task has one job at a time, so there are as many as tasks wait for their disks: with fewer, tasks
on a disk that is stuck would hold up those on another."""

Job = Callable[[], Any]
Done = Callable[[Any, BaseException | None], None]


class Background:
    """Helper threads and the way back. Parameter: `wake`, makes the loop come round and call `deliver`."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._results: deque[tuple[Done, Any, BaseException | None]] = deque()
        self._threads = 0
        self._pending = 0

    def submit(self, job: Job, done: Done) -> None:
        """Run `job` soon; then `done(result, None)` or `done(None, error)` is called by `deliver`."""
        self._pending += 1
        self._jobs.put((job, done))
        if self._threads < min(self._pending, MOST):
            self._threads += 1
            Thread(target=self._work, name="fastidm-disk", daemon=True).start()

    def deliver(self) -> None:
        """Hand over what has been done since the last call."""
        while self._results:
            done, result, error = self._results.popleft()
            self._pending -= 1
            done(result, error)

    @property
    def pending(self) -> int:
        """Jobs that were not delivered yet."""
        return self._pending

    def close(self) -> None:
        """Let the idle threads end; busy ones end after their job."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, done = entry
            try:
                self._results.append((done, job(), None))
            except BaseException as error:
                self._results.append((done, None, error))
            del entry, job, done
            self._wake()
