"""How busy the loop is.

Rules of this module: clocks are arguments. Each task measures from one look at it to the next, so that what happened before it
received anything says nothing about it. Busy is who does not wait for the network: one that waits for the disk is no freer than
one that computes, and more connections help neither.
"""

from __future__ import annotations

SHORTEST = 0.002
"""Seconds between two looks that say something: what is done for a look is work as well."""
GLANCE = 0.02
"""Seconds after a look from which on what has been since says more than it did, though the loop is in the midst of its work."""


class Load:
    """The share of the time in which the loop did not wait, between two looks."""

    def __init__(self) -> None:
        self._looked, self._waited, self._load = float("inf"), 0.0, 0.0

    def begin(self, now: float, waited: float) -> None:
        """Measure from here on. `waited`: seconds that the loop has waited in all."""
        self._looked, self._waited, self._load = now, waited, 0.0

    def measure(self, now: float, waited: float) -> float:
        """The share since the last look, in [0, 1]. Two looks in a row see the same."""
        if now - self._looked >= SHORTEST:
            self._load = self._share(now, waited)
            self._looked, self._waited = now, waited
        return self._load

    def glance(self, now: float, waited: float) -> float:
        """The share until now, for who cannot wait for the next look; not a look."""
        return self._share(now, waited) if now - self._looked >= GLANCE else self._load

    def _share(self, now: float, waited: float) -> float:
        return max(0.0, 1 - (waited - self._waited) / (now - self._looked))
