"""How long a task goes on trying: its failures in a row, its waits, and the silence that it bears.

Rules of this module:

* A failure counts against `retries`; a byte of progress clears the count. While a network that did work is away, the budget is
  frozen: then only the silence counts, against `timeout`.
* Silence is counted from the last byte, or from the end of a wait that the server asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from fastidm.core.retry import RetryPolicy, Trouble
from fastidm.errors import FastidmError, NetworkError

OUTAGE_PAUSE = 5.0
"""Seconds between two tries at the most while a network that did work is away: it may come back at any time."""


class Patience:
    """The clocks of one attempt at a content.

    Parameters: `retries`, failures in a row that are borne; `timeout`, seconds of silence that are borne; `chance`, gives a
    number in [0, 1); `now`.
    """

    def __init__(self, retries: int, timeout: float, chance: Callable[[], float], now: float) -> None:
        self.timeout = timeout
        self.not_before = now
        """No request is sent before this time."""
        self.served = False
        """Whether the server has given some of this content."""
        self._policy = RetryPolicy(retries)
        self._chance = chance
        self._heard_at = self._answered_at = self._failed_at = now
        self._received = 0  # when the last progress was seen

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._policy.failures

    def heard(self, now: float) -> None:
        """A byte came, or silence is nobody's fault."""
        self._heard_at = max(self._heard_at, now)

    def answered(self, now: float) -> None:
        """An answer was accepted."""
        self._answered_at = now

    def begin(self, received: int, now: float) -> None:
        """`received` bytes of the file are there by now, whoever brought them."""
        self._received = received
        self.heard(now)

    def progressed(self, received: int) -> bool:
        """Whether `received`, bytes of the file that are there, is more than before; then no failure is in a row any more."""
        progress = received > self._received
        if progress:
            self._received = received
            self.forgive()
        return progress

    def forgive(self) -> None:
        """No failure is in a row any more."""
        self._policy = self._policy.progressed()

    def wait(self, until: float) -> None:
        """The server has asked not to be asked before `until`."""
        self.not_before = until
        self.heard(until)

    def failed(self, error: FastidmError, now: float, asked: float | None) -> float | None:
        """One more failure in a row. Returns the seconds until the next try, None to give up.

        `asked`: the server's Retry-After in seconds, if it sent one.
        """
        self._policy = self._policy.failed()
        hopeless = self._hopeless(error, now)
        self._failed_at = now
        if hopeless:
            return None
        delay = self._policy.delay(self._chance, asked)
        if asked is not None:
            self.wait(now + delay)
        else:
            delay = min(delay, OUTAGE_PAUSE) if self.served else delay
            self.not_before = now + delay
        return delay

    def _hopeless(self, error: FastidmError, now: float) -> bool:
        if isinstance(error, NetworkError) and self.served and max(self._heard_at, self._answered_at) <= self._failed_at:
            return self.too_silent(now)  # neither answer nor byte since the last failure: the network is away
        # A name that does not resolve twice, before anything ever worked, is a typing error and no outage.
        nowhere = error.message.startswith(Trouble.RESOLVE.value) and self._policy.failures > 1
        return self._policy.spent or nowhere

    def too_silent(self, now: float) -> bool:
        """Whether the silence has lasted longer than may be."""
        return now - self._heard_at > self.timeout
