"""How one connection is doing, and whether it should be left alone.

Rules of this module: verdicts come from the bytes that arrived and from the clock, relative to the other connections of the
task. One silent connection is stalled; all of them silent is an outage, and an outage is nobody's fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from fastidm.core.rate import SpeedAverage

LATEST = 0.25
"""Seconds over which a connection's latest speed is taken."""
STALLED_AFTER = 3.0
"""Seconds without a byte, while others receive, until a connection counts as stalled."""
HEADLESS_AFTER = 5.0
"""Seconds without the head of an answer, while others receive, until the server is taken to ignore this connection."""
OUTAGE_AFTER = 10.0
"""Seconds without a byte from anywhere until the connections are made anew: after a suspend the old ones never wake up."""
CRAWL_FACTOR = 0.25
"""A connection slower than this share of the median is crawling."""
CRAWL_AGE = 1.0
"""Seconds before a connection is judged: the start of a TCP connection is slow."""

RELIEF_PAUSE = 10.0
"""Seconds before the same segment's connection may be ended again for being slow."""


class Role(Enum):
    """Why a connection was opened."""

    PROBE = "probe"
    """The first request; it learns what the file is and fills the first segment."""
    FILL = "fill"
    """Fills a segment that nobody fills."""
    SPLIT = "split"
    """Will take the back of a running segment over, once its answer is valid."""
    HEDGE = "hedge"
    """Asks for the rest of a running segment a second time; the first to come wins."""


class Connection:
    """One running request of a task.

    `url` is where it went; `first` and `last`, the range asked for (inclusive; None: from the start without Range, or to the
    end); `target`, the segment it was opened for; `row`, the segment that it fills, None before its answer was accepted;
    `overlap`, bytes at the start of the body that are only compared; `full_at`, when its segment was seen to be full; `queued`,
    bytes of the body that are on this machine already and were not taken yet, when last looked at; `backlog`, the most of them
    of late.
    """

    __slots__ = (
        "average", "backlog", "born", "first", "full_at", "head_at", "heard_at", "id", "last", "latest", "overlap", "queued",
        "received", "role", "row", "target", "url",
    )  # fmt: skip

    def __init__(
        self, id: int, role: Role, first: int | None, last: int | None, target: int | None, now: float, url: str = ""
    ) -> None:
        self.id = id
        self.url = url
        self.role = role
        self.first = first
        self.last = last
        self.target = target
        self.row: int | None = None
        self.born = self.heard_at = now
        self.head_at: float | None = None
        self.full_at: float | None = None
        self.received = 0
        self.queued = self.backlog = 0
        self.overlap = 0
        self._measure(now)

    def __repr__(self) -> str:
        return f"<connection {self.id}: {self.role.value} {self.first}-{self.last} row {self.row}, {self.received} bytes>"

    @property
    def receiving(self) -> bool:
        """Its answer was accepted: bytes go into a segment."""
        return self.row is not None

    def answered(self, now: float) -> None:
        """The head was accepted."""
        self.head_at = self.heard_at = now
        self._measure(now)

    def _measure(self, now: float) -> None:
        self.average, self.latest = SpeedAverage(now, memory=1.0), SpeedAverage(now, memory=LATEST)

    def count(self, received: int, now: float) -> bool:
        """Tell how many bytes it has received in all; returns whether there are new ones."""
        heard = received > self.received
        if heard:
            self.received = received
            self.heard_at = now
        self.average.update(received, now)
        self.latest.update(received, now)
        return heard

    def speed(self, now: float) -> float | None:
        """Bytes per second; None while too young to be judged."""
        if self.head_at is None or now - self.head_at < 0.2:
            return None
        return 0.0 if now - self.heard_at > STALLED_AFTER else self.average.speed

    def latest_speed(self, now: float) -> float | None:
        """The same, but one that has just become slow is believed at once.

        The average of what collapses falls no faster than what it has left, so that its end would always seem to be near.
        """
        speed = self.speed(now)
        return None if speed is None else min(speed, self.latest.speed)


def median(values: Iterable[float]) -> float:
    """The middle value, the upper one of two; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0


def ignored(connection: Connection, cost: float, now: float, idle: bool = False) -> bool:
    """Whether the server keeps silent to this request, judged by how soon it answered others.

    Parameters: `cost`, seconds until an answer, typically; `idle`, another connection has nothing to do, so that giving this
    one up early costs nothing.
    """
    patience = max(1.0, 5 * cost) if idle else max(HEADLESS_AFTER, 10 * cost)
    return connection.head_at is None and now - connection.born > patience


def stalled(connection: Connection, now: float) -> bool:
    return connection.receiving and now - connection.heard_at > STALLED_AFTER


def crawling(connection: Connection, typical: float, task_eta: float, remaining: int, now: float) -> bool:
    """Whether a fresh connection is likely to be far better.

    Parameters: `typical`, what a fresh connection is expected to bring; `task_eta`, seconds until the whole task would be done
    at its present speed; `remaining`, bytes that this connection still has to bring.
    """
    if connection.head_at is None or now - connection.head_at < CRAWL_AGE:
        return False
    speed = connection.average.speed
    if speed >= CRAWL_FACTOR * typical:
        return False
    return remaining > 1.5 * max(task_eta, 0.5) * speed
