"""Where to cut, when to split, when to hedge, how many connections.

Rules of this module: pure arithmetic on sizes, speeds and times. A running request's range cannot be changed, so cutting a
segment costs its connection: split late, seldom, by time left, and so that both ends finish together.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastidm.records import record

FIRST_CUT = 1 << 20
"""Bytes: the first cut makes no more segments than a file has of these; small files of a slow server are split later."""
PIECE = 64 << 10
"""Bytes: a split takes no less than this, unless its victim stands still."""
ALIGN = 64 << 10
"""Bytes: segments begin at multiples of this where they can, so that two connections never share a page of the cache."""
GAIN = 0.2
"""Seconds that a split must save at the least."""
LOSS = 8
"""A cut must give the new connection so many times the bytes that wait for the old one: at least as many are on their way to
it, beyond the cut, and are lost. Where bytes wait it is not the network that is slow, so little is to be gained."""
CUT_SHARE = 0.01
"""A task loses at most this share of its size by cuts. Without it 8 GiB over loopback lost 2.5 to 7.7 % (measured): sixteen
fast connections end one after the other, and each time another one is cut."""
HEDGE_SHARE = 0.005
HEDGE_BYTES = 8 << 20
"""A task asks for at most this share of its size, or this many bytes, a second time."""

SATURATED = 0.7
"""Share of its time in which the loop does not wait, from which on it is the limit. With one connection over TLS that was
always ahead of it, it did not for 0.8 to 1 (measured)."""
SLOW = 0.25
"""A task that brings less than this share of what the tasks bring on average is slow for another reason."""


def first_cut(size: int, connections: int, position: int = 0) -> list[int]:
    """Offsets at which a file of `size` bytes is cut for `connections` connections, none at its end.

    All of them then have as much left, also the first one, which has brought the bytes up to `position` already.
    """
    left = size - position
    parts = max(1, min(connections, size // FIRST_CUT, 2 * left // FIRST_CUT))
    return [(position + left * part // parts) // ALIGN * ALIGN for part in range(1, parts)]


@record(frozen=True)
class Runner:
    """A segment that a connection fills, as the scheduler sees it: `speed` is its bytes per second, 0 if it stands still;
    `backlog`, bytes that had come for it and waited here."""

    row: int
    position: int
    stop: int
    speed: float
    backlog: int = 0

    @property
    def eta(self) -> float:
        left = self.stop - self.position
        return left / self.speed if self.speed > 0 else (float("inf") if left else 0.0)


@record(frozen=True)
class Cut:
    """Cut segment `row` at offset `at`: the back goes to another connection."""

    row: int
    at: int


def plan_split(runners: Iterable[Runner], speed: float, cost: float) -> Cut | None:
    """The split that helps most, or None if none is worth a connection.

    Parameters: `runners`, the segments that may be cut; `speed`, what the new connection is expected to bring; `cost`,
    seconds until its first byte.
    The victim is the segment with the longest time left r/v. Both ends finish together after T = (r + speed·cost)/(v + speed),
    so the victim keeps v·T bytes.
    """
    victim = max(runners, key=lambda runner: runner.eta, default=None)
    if victim is None or speed <= 0:
        return None
    left = victim.stop - victim.position
    if left == 0 or victim.speed <= 0:
        return Cut(victim.row, victim.position) if left and not victim.backlog else None
    together = (left + speed * cost) / (victim.speed + speed)
    if not victim.eta - together > max(GAIN, 2 * cost):
        return None
    keep = int(victim.speed * together)
    # Rounded up to a good place, unless that would leave a crawling victim with more than it can bring in time.
    aligned = -(-(victim.position + keep) // ALIGN) * ALIGN
    late = (aligned - victim.position - keep) / victim.speed
    at = aligned if late <= GAIN else victim.position + keep
    return Cut(victim.row, at) if victim.stop - at >= max(PIECE, LOSS * victim.backlog) else None


def plan_hedge(runners: Iterable[Runner], speed: float, cost: float, budget: int) -> Runner | None:
    """The segment whose rest should be asked for a second time, or None.

    Parameters as in `plan_split`; `budget`, bytes that may still be asked for twice.
    """
    slowest = max(runners, key=lambda runner: runner.eta, default=None)
    if slowest is None or speed <= 0:
        return None
    left = slowest.stop - slowest.position
    worth = slowest.eta > 2 * (cost + left / speed) + GAIN / 2
    return slowest if worth and 0 < left <= budget and not slowest.backlog else None


class Ramp:
    """How many connections a task may have now.

    It begins with one; a second one is the test whether there are parts. Then it grows by `GROWTH` whenever as many as were
    added have been answered, so the ceiling is reached after a few round trips; it stops early when a measured window shows
    that more connections did not bring more bytes. A refusal (503, 429, a reset, silence) while others receive is the server's
    own limit: it is kept, and tried again by one every half minute.
    """

    GROWTH = 4
    """Each step takes two round trips, and a large one meets more refusals where a server allows only a few. 256 MiB from 60 ms
    away took 2.01 s with 2, 1.82 s with 4 and 1.71 s with 8; a server that allows four refuses 4, 4 and 12 of 16 at first."""
    WINDOW = 0.5
    """Seconds over which goodput is measured at a constant number of connections."""
    WORTH = 1.1
    """Twice the connections must bring at least this much more."""
    FAREWELL = 5.0
    """Seconds before the loss of all connections in which a refusal is no sign of a limit."""
    PATIENCE = 30.0
    """Seconds after which a limit or a flat ramp is put to the test again."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self._allowed = 1
        self._needed = 1  # answers until it grows
        self._limit: int | None = None
        self._limited_at = 0.0
        self._flat_at: float | None = None
        self._goodput: dict[int, float] = {}
        self._window: tuple[int, float, int] | None = None

    def allowed(self, now: float) -> int:
        """Connections that may be open now."""
        if self._limit is None:
            return self._allowed
        curious = 1 if now - self._limited_at > self.PATIENCE else 0
        return min(self._allowed, self._limit + curious)

    @property
    def limit(self) -> int | None:
        """What the server was found to allow, or None."""
        return self._limit

    def answered(self, receiving: int, now: float, waiting: int = 0) -> None:
        """Another connection was accepted; `receiving` are now, and `waiting` have no answer yet."""
        if self._limit is not None and receiving > self._limit:
            self._limit, self._limited_at = receiving, now
        if self._flat_at is not None and now - self._flat_at > self.PATIENCE:
            self._flat_at = None
            self._goodput.clear()
        self._needed -= 1
        if self._needed <= 0 and self._flat_at is None and 4 * waiting <= self._allowed:
            before, self._allowed = self._allowed, min(self._allowed * (2 if self._allowed == 1 else self.GROWTH), self.ceiling)
            self._needed = self._allowed - before

    def refused(self, others: int, now: float, patience: float | None = None) -> None:
        """The server refused one connection while it serves `others`; `patience`: seconds until more may be tried."""
        self._limit = max(1, others if self._limit is None else min(self._limit, others))
        self._limited_at = now + max(0.0, (patience or 0.0) - self.PATIENCE)

    def restarted(self, now: float) -> None:
        """All connections were lost: begin with one again. A limit that was found just before was the loss itself."""
        if now - self._limited_at < self.FAREWELL:
            self._limit = None
        self._allowed = self._needed = 1
        self._window = None

    def measure(self, received: int, receiving: int, now: float) -> None:
        """Tell the task's byte counter and how many connections feed it; call it at every tick."""
        if self._window is None or self._window[0] != receiving:
            self._window = (receiving, now, received)
            return
        _, since, before = self._window
        if now - since < self.WINDOW or receiving == 0:
            return
        self._goodput[receiving] = (received - before) / (now - since)
        self._window = (receiving, now, received)
        fewer = [n for n in self._goodput if 2 * n <= receiving]
        if fewer and receiving < self.ceiling:
            if self._goodput[receiving] < self.WORTH * self._goodput[max(fewer)]:
                self._flat_at = now
