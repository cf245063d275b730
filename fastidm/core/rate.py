"""How fast, how long still, and how much may be received now. Rates are bytes per second."""

from __future__ import annotations

from math import exp


class SpeedAverage:
    """An exponential moving average of a byte counter, honest from its first second on.

    Parameter: `memory`, seconds after which an old speed counts 1/e. While the average is younger than that, it is the plain
    mean, so that a fast start is not hidden by a zero that nobody measured.
    """

    def __init__(self, now: float, count: int = 0, memory: float = 3.0) -> None:
        self.speed = 0.0
        self._memory = memory
        self._born = self._at = now
        self._count = count

    @property
    def age(self) -> float:
        """Seconds over which it has been told the counter."""
        return self._at - self._born

    def update(self, count: int, now: float) -> float:
        """Tell the counter's value at `now`; returns the speed."""
        passed = now - self._at
        if passed <= 0:
            return self.speed
        latest = (count - self._count) / passed
        age = now - self._born
        weight = max(1 - exp(-passed / self._memory), passed / age)
        self.speed += weight * (latest - self.speed)
        self._at, self._count = now, count
        return self.speed


def time_left(remaining: int, speed: float) -> float | None:
    """Seconds until `remaining` bytes have come at `speed`; None when nobody can say."""
    return remaining / speed if speed > 0 else (0.0 if remaining == 0 else None)


class TokenBucket:
    """A limit of `rate` bytes per second that allows bursts of a quarter second at most.

    Bytes are taken after they arrived (they cannot be refused then), so the level may go below zero: `wait` says for how
    long nothing more may be received.
    """

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._level = 0.0
        self._at = now

    def take(self, count: int, now: float) -> None:
        """`count` bytes have arrived."""
        self._level = min(self._level + (now - self._at) * self.rate, self.rate / 4) - count
        self._at = now

    def wait(self, now: float) -> float:
        """Seconds until receiving may go on; 0.0 when it may at once."""
        return max(0.0, -self._level / self.rate - (now - self._at))
