"""When is a checkpoint due, with what may the disk begin before, and is it so far behind that the network has to wait?

Rule of this module: it counts bytes of the file that are written, handed down, synced and on their way to the disk; who writes
and syncs is not its business. What is handed down is no more durable than before: only `Checkpoints.done` tells of that.
"""

from __future__ import annotations

from fastidm.core.segments import UNKNOWN, merge, rows_in, subtract

SECONDS = 1.0
BYTES = 256 << 20
PAUSE = 0.05
"""A checkpoint is due after so many seconds, or after so many bytes but not sooner than this pause."""
BYTES_UNTOLD = 64 << 20
"""The same where nothing can be handed down, so that the disk begins with a checkpoint or not at all: 1 GiB that comes in half
a second was safe after 0.8 s with 64 MiB and 50 ms, after 1.0 s with 250 ms (measured)."""
HEAD_START = 32 << 20
"""So many bytes are handed down at once. With 16 connections that is 2 MiB in one place, as a disk with heads likes it."""
WHOLE = 1 << 20
"""Up to a multiple of so many bytes: what a connection adds in the next moment is not to be written twice, and pages that the
map still looks at are not to be taken from it."""
UNSYNCED_MOST = 1 << 30
"""Bytes that may be written and not yet synced, or a sixteenth of the memory: a slower disk holds the network back before the
kernel makes writers wait, at a tenth to a fifth of the memory. With 256 MiB 1 GiB took half as long again (measured)."""


class Checkpoints:
    """The bytes of one file on their way to the disk. Parameters: `memory`, bytes that the machine has; `now`."""

    def __init__(self, memory: int, now: float) -> None:
        self.behind = False
        """Whether too much is written that is not synced."""
        self.told = True
        """Whether the disk begins with what it is handed down, as far as is known."""
        self._most = min(UNSYNCED_MOST, memory // 16)
        self._begun_at = now
        self._begun = self._synced = self._handed = 0

    def start(self, written: int) -> None:
        """So many bytes were there before."""
        self._begun = self._synced = self._handed = written

    def due(self, written: int, now: float) -> bool:
        """Whether one should begin, now that so many bytes are written; sets `behind`."""
        self._begun = min(self._begun, written)  # claims may have been given up
        self.behind = written - self._synced > self._most
        fresh, passed = written - self._begun, now - self._begun_at
        many = min(BYTES, self._most // 2) if self.told else BYTES_UNTOLD
        return fresh > 0 and (self.behind or passed >= SECONDS or (fresh >= many and passed >= PAUSE))

    def head_start_due(self, written: int) -> bool:
        """Whether so much is written that the disk should begin with it."""
        self._handed = min(self._handed, written)
        return self.told and written - self._handed >= HEAD_START

    def handed(self, written: int, told: bool) -> None:
        """Of so many bytes most were handed down; `told`: the disk can be told to begin."""
        self._handed, self.told = written, told

    def begun(self, written: int, now: float) -> None:
        """One has begun, with so many bytes written."""
        self._begun, self._begun_at = written, now

    def done(self, written: int) -> None:
        """The one that began with so many bytes is on disk. Any thread."""
        self._synced = written


class HeadStart:
    """What the disk may begin with, long before it is waited for. Any thread, one call at a time."""

    def __init__(self) -> None:
        self._handed: list[tuple[int, int]] = []

    def take(self, rows: bytes) -> list[tuple[int, int]]:
        """The ranges to be handed down now, by place: what is written, is to stay as it is, and was not returned before. None
        as long as it is little. `rows`: a copy of the table.
        """
        ready = merge(((start, _whole(position, stop)) for start, stop, position in rows_in(rows)), UNKNOWN)
        fresh = subtract(ready, self._handed)
        if sum(stop - start for start, stop in fresh) < HEAD_START:
            return []
        self._handed = ready
        return fresh


def _whole(position: int, stop: int) -> int:
    return position if position == stop else position - position % WHOLE
