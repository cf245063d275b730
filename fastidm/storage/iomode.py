"""Map or pwrite: which way bytes get into the file, when the user leaves it open.

Rules of this module: measure, do not guess. With `auto` a large file begins with pwrite, and one connection in `TRIAL` in the
map; when both ways have written enough, one stays for all. The map has to be cheaper by a fifth for that: a measurement of a
few megabytes is not exact, and of the two only the map has ever been found to cost many times as much as it did a moment ago.
Small files use pwrite: nothing could be learnt.

Which is cheaper depends on the file system and on the machine: the map saves system calls and pays with page faults, and with
pages that are cleared first. On a virtual machine, 512 MiB took 0.31 s by pwrite and 0.38 s by map on ext4, 0.48 s and 0.59 s
in tmpfs.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastidm.storage.sink import MAP, PWRITE

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import TypedDict

    from fastidm.storage.sink import PureSink

    class SinkSettings(TypedDict):
        mode: int
        window: int

LARGE = 64 << 20
"""Bytes: below this the choice costs more than it saves."""
ENOUGH = 4 << 20
"""Bytes that each way must have written before it is judged."""
TRIAL = 8
"""Of so many connections one tries the map, the second first: the trial is paid for, whatever comes of it."""
WINDOW = 512 << 10
"""Bytes of the file that one connection keeps mapped."""
MANY = 24
"""Connections from which on `auto` leaves the map alone: mapped windows count as resident memory."""


class IoMode:
    """The choice for one task.

    Parameters: `wish`, "auto", "mmap" or "pwrite"; `size`, of the file in bytes, -1 unknown; `connections`, at most.
    """

    def __init__(self, wish: str, size: int, connections: int) -> None:
        self._open = wish == "auto" and size >= LARGE and connections <= MANY
        self._mode = MAP if wish == "mmap" and size > 0 else PWRITE
        self._turn = 0
        self._cost, self._count = {MAP: 0, PWRITE: 0}, {MAP: 0, PWRITE: 0}  # of sinks that have ended

    def sink_settings(self) -> SinkSettings:
        """What the next sink is made with."""
        self._turn += 1
        trial = self._open and self._turn % TRIAL == 2
        return {"mode": MAP if trial else self._mode, "window": WINDOW}

    def ended(self, sink: PureSink) -> None:
        """`sink` will write no more, and is not among those that `choose` gets: what it measured still counts."""
        self._cost[sink.mode] += sink.cost_ns
        self._count[sink.mode] += sink.cost_bytes

    def choose(self, sinks: Iterable[PureSink]) -> None:
        """Look at what the sinks measured, those that run and those that have ended, and settle when it suffices."""
        if not self._open:
            return
        cost, count = self._cost.copy(), self._count.copy()
        sinks = list(sinks)
        for sink in sinks:
            cost[sink.mode] += sink.cost_ns
            count[sink.mode] += sink.cost_bytes
        if min(count.values()) >= ENOUGH:
            self._open = False
            self._mode = MAP if 5 * cost[MAP] * count[PWRITE] < 4 * cost[PWRITE] * count[MAP] else PWRITE
            for sink in sinks:
                if sink.mode != self._mode:
                    sink.mode = self._mode
