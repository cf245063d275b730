"""When is a checkpoint due, and is the disk so far behind that the network has to wait?

Rule of this module: it counts bytes of the file that are written, synced and on their way to the disk; who writes and syncs is
not its business.
"""

from __future__ import annotations

SECONDS = 1.0
BYTES = 64 << 20
PAUSE = 0.05
"""A checkpoint is due after so many seconds, or after so many bytes but not sooner than this pause. A disk that begins at once
is done sooner: 1 GiB that comes in half a second was safe after 0.8 s with 50 ms, after 1.0 s with 250 ms (measured)."""
UNSYNCED_MOST = 1 << 30
"""Bytes that may be written and not yet synced, or a sixteenth of the memory: a slower disk holds the network back before the
kernel makes writers wait, at a tenth to a fifth of the memory. With 256 MiB 1 GiB took half as long again (measured)."""


class Checkpoints:
    """The bytes of one file on their way to the disk. Parameters: `memory`, bytes that the machine has; `now`."""

    def __init__(self, memory: int, now: float) -> None:
        self.behind = False
        """Whether too much is written that is not synced."""
        self._most = min(UNSYNCED_MOST, memory // 16)
        self._begun_at = now
        self._begun = self._synced = 0

    def start(self, written: int) -> None:
        """So many bytes were there before."""
        self._begun = self._synced = written

    def due(self, written: int, now: float) -> bool:
        """Whether one should begin, now that so many bytes are written; sets `behind`."""
        self._begun = min(self._begun, written)  # claims may have been given up
        self.behind = written - self._synced > self._most
        fresh, passed = written - self._begun, now - self._begun_at
        return fresh > 0 and (self.behind or passed >= SECONDS or (fresh >= BYTES and passed >= PAUSE))

    def begun(self, written: int, now: float) -> None:
        """One has begun, with so many bytes written."""
        self._begun, self._begun_at = written, now

    def done(self, written: int) -> None:
        """The one that began with so many bytes is on disk."""
        self._synced = written
