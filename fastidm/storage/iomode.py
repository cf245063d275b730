"""Map or pwrite: which way bytes get into the file, when the user leaves it open.

Rules of this module: measure, do not guess. With `auto` a large file begins half its connections in the map and half with
pwrite; when both ways have written enough, the cheaper one per byte stays. Small files use pwrite: nothing could be learnt.

Which is cheaper depends on the file system and on the machine: a page fault into a map clears the page first, a pwrite copies
once more. On a virtual machine with ext4, pwrite took 0.5 s per GiB and the map between 0.8 and 2.2 s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypedDict

from fastidm.storage.sink import MAP, PWRITE

if TYPE_CHECKING:
    from fastidm.storage.sink import PureSink

LARGE = 64 << 20
"""Bytes: below this the choice costs more than it saves."""
ENOUGH = 4 << 20
"""Bytes that each way must have written before it is judged."""
WINDOW = 512 << 10
"""Bytes of the file that one connection keeps mapped. A shorter window was measured to cost ten times as much: the CPU maps
2 MiB in one piece."""
MANY = 24
"""Connections from which on `auto` leaves the map alone: mapped windows count as resident memory."""


class SinkSettings(TypedDict):
    mode: int
    window: int


class IoMode:
    """The choice for one task.

    Parameters: `wish`, "auto", "mmap" or "pwrite"; `size`, of the file in bytes, -1 unknown; `connections`, at most.
    """

    def __init__(self, wish: str, size: int, connections: int) -> None:
        self._open = wish == "auto" and size >= LARGE and connections <= MANY
        self._mode = MAP if wish == "mmap" and size > 0 else PWRITE
        self._turn = 0

    def sink_settings(self) -> SinkSettings:
        """What the next sink is made with."""
        self._turn += 1
        mode = (MAP, PWRITE)[self._turn % 2] if self._open else self._mode
        return {"mode": mode, "window": WINDOW}

    def choose(self, sinks: Iterable[PureSink]) -> None:
        """Look at what the sinks measured, and settle when it suffices."""
        if not self._open:
            return
        cost = {MAP: 0, PWRITE: 0}
        count = {MAP: 0, PWRITE: 0}
        sinks = list(sinks)
        for sink in sinks:
            cost[sink.mode] += sink.cost_ns
            count[sink.mode] += sink.cost_bytes
        if min(count.values()) >= ENOUGH:
            self._open = False
            self._mode = MAP if cost[MAP] * count[PWRITE] < cost[PWRITE] * count[MAP] else PWRITE
            for sink in sinks:
                if sink.mode != self._mode:
                    sink.mode = self._mode
