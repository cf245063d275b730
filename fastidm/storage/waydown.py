"""A file's way down to the disk while it comes: the disk begins with what is written, and checkpoints are made when asked for.

Rules of this module:

* `run` is a helper thread's. While data comes as fast as it can be taken, libcurl gives control back to the loop some times a
  second only: so the disk is told from here what to begin with, and does not wait for the loop.
* What is handed down is no more durable than before. A checkpoint has a copy of the table that was made before its sync begins.
* `run` ends by itself when nothing more comes, so that it takes no thread from other tasks, and soon after `hurry`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Event

from fastidm.core.checkpoints import HeadStart
from fastidm.storage.target import Target

ROUND = 0.02
"""Seconds between two looks at what can be handed down."""
IDLE_ROUNDS = 12
"""So many looks without anything are the end."""


class WayDown:
    """Of one target, which nobody else may use while `run` does.

    Parameter: `done`, called in the helper thread for each checkpoint that is on disk, with the bytes that were written when it
    was asked for.
    """

    def __init__(self, target: Target, done: Callable[[int], None]) -> None:
        self._target = target
        self._done = done
        self._head_start = HeadStart()
        self._hurry = Event()
        self._asked: deque[tuple[bytes, int]] = deque()

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
