"""A file's way down to the disk while it comes: the disk begins with what is written, and checkpoints are made when asked for.

Rules of this module:

* The sinks hand down what they have just written themselves, by `now` in the loop's thread: that is cheapest. But the loop
  is not to wait for a disk: when it did so three times, `now` does nothing any more.
* `run` is a helper thread's, and does the rest: what sinks write by map, what they have not handed down, and checkpoints. While
  data comes as fast as it can be taken, libcurl gives control back to the loop some times a second only, so that it could not.
* What is handed down is no more durable than before. A checkpoint has a copy of the table that was made before its sync begins.
* `run` ends by itself when nothing more comes, so that it takes no thread from other tasks, and soon after `hurry`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Event
from time import monotonic

from fastidm.core.checkpoints import HeadStart
from fastidm.storage.target import Target

ROUND = 0.02
"""Seconds between two looks at what can be handed down."""
LONG, PATIENCE = 0.01, 3
"""Seconds after which `now` has waited for the disk, and how often it may: as a rule 2 MiB take 0.1 ms, and 4 were the most in
8,000 (measured); but another thread of the program may have the interpreter, or another program the processor."""
IDLE_ROUNDS = 12
"""So many looks without anything are the end."""


class WayDown:
    """Of one target, which nobody else may use while `run` does, but for `now`.

    Parameter: `done`, called in the helper thread for each checkpoint that is on disk, with the bytes that were written when it
    was asked for.
    """

    def __init__(self, target: Target, done: Callable[[int], None]) -> None:
        self._target = target
        self._done = done
        self._head_start = HeadStart()
        self._patience = PATIENCE
        self._hurry = Event()
        self._asked: deque[tuple[bytes, int]] = deque()

    def now(self, start: int, stop: int) -> int:
        """For the sinks, see `PureSink`. The loop's thread."""
        if not self._patience:
            return -1
        begun = monotonic()
        error = self._target.hand_down_now(start, stop)
        if monotonic() - begun > LONG:
            self._patience -= 1
        return error

    @property
    def asked(self) -> bool:
        """Whether a checkpoint was asked for that nobody has begun."""
        return bool(self._asked)

    def checkpoint(self, rows: bytes, written: int) -> None:
        """Have the next round begin with a checkpoint. `rows`: a copy of the table, of so many bytes that are written."""
        self._asked.append((rows, written))

    def hurry(self) -> None:
        """Have `run` end: somebody waits for what it holds."""
        self._hurry.set()

    def run(self) -> bool:
        """Returns whether the disk can be told to begin.

        Raises `StorageError` if the data could not be written or the part file is no longer ours.
        """
        told, idle = True, 0
        try:
            while told and idle < IDLE_ROUNDS and not self._hurry.is_set():
                if self._asked:
                    rows, written = self._asked.popleft()
                    self._target.checkpoint(rows)
                    self._done(written)
                ranges = self._head_start.take(bytes(self._target.table))
                told = self._target.hand_down(ranges)
                idle = 0 if ranges else idle + 1
                self._hurry.wait(ROUND)
        finally:
            self._hurry.clear()
        return told
