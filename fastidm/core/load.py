"""How busy the loop's thread is.

Rules of this module: clocks are arguments. Each task measures from one look at it to the next, so that what happened before it
received anything says nothing about it.
"""

from __future__ import annotations

SHORTEST = 0.002
"""Seconds between two looks that say something: what is done for a look is work as well."""


class Load:
    """The share of the time that a thread has worked, between two looks."""

    def __init__(self) -> None:
        self._looked = self._worked = self._load = 0.0

    def begin(self, now: float, worked: float) -> None:
        """Measure from here on. `worked`: processor time of the thread, in seconds."""
        self._looked, self._worked, self._load = now, worked, 0.0

    def measure(self, now: float, worked: float) -> float:
        """The share since the last look, in [0, 1]. Two looks in a row see the same."""
        if now - self._looked >= SHORTEST:
            self._load = min(1.0, (worked - self._worked) / (now - self._looked))
            self._looked, self._worked = now, worked
        return self._load
