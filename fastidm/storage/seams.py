"""Do the parts fit together? What connections brought beyond their segments, until the segments behind have it as well.

Rule of this module: a seam that cannot be compared yet waits; nothing here decides what a difference means.
"""

from __future__ import annotations

from collections.abc import Callable


class Seams:
    """The bytes of one file that came a second time and wait for the first."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def keep(self, start: int, data: bytes) -> None:
        """A connection brought `data`, which belongs at offset `start`, behind its segment."""
        if data:
            self._waiting.append((start, data))

    def clear(self) -> None:
        """The file begins anew."""
        self._waiting.clear()

    def broken(self, read: Callable[[int, int], bytes], holds: Callable[[int, int], bool]) -> int | None:
        """Compare what can be compared; the offset of the first difference, None if all is well so far.

        Parameters: `read(start, count)`, from the part file; `holds(start, stop)`, whether these bytes are written. Raises
        what `read` raises.
        """
        waiting, self._waiting = self._waiting, []
        for start, data in waiting:
            if not holds(start, start + len(data)):
                self._waiting.append((start, data))  # the segment's own connection is still to come
                continue
            held = read(start, len(data))
            if held != data:
                return start + next((i for i, (one, other) in enumerate(zip(held, data, strict=False)) if one != other), 0)
        return None
