"""One task from its URL to its file: the state machine. Events go in, actions come out.

Rules of this module:

* It decides and does nothing: every method is told the time and leaves its wishes in `actions`, which the engine performs in
  order. The engine tells back what came of them. Nothing here reads a clock, a socket or a file.
* `TRANSITIONS` holds every phase change there is, and `_enter` is the only place that makes one. `docs/design.md` shows the
  diagram that is drawn from this table.
* A connection moves bytes only after `head` has placed it in a segment (see `core.response`), and each segment is filled by
  one connection, or by two when its rest is hedged.
* Make before break: a running segment is cut when its new connection has been answered, not when it is asked for.
* Failures count only when nothing else of the task receives, and only while no byte of progress lies between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple

from fastidm.core import health
from fastidm.core.health import Connection, Role, median
from fastidm.core.rate import SpeedAverage, time_left
from fastidm.core.response import (
    Accepted,
    Again,
    Content,
    Head,
    RangeIgnored,
    Redirected,
    Refused,
    WithoutRange,
    changed,
    judge,
)
from fastidm.core.retry import PASSING, RetryPolicy, Trouble
from fastidm.core.scheduler import HEDGE_BYTES, HEDGE_SHARE, Ramp, Runner, first_cut, plan_hedge, plan_split
from fastidm.core.segments import UNKNOWN, SegmentTable, restore
from fastidm.errors import (
    AuthError,
    BusyError,
    ContentChangedError,
    FastidmError,
    LimitError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RedirectError,
    RefusedError,
    TlsError,
)
from fastidm.events import DownloadStatus
from fastidm.options import Options

OVERLAP = 4096
"""Bytes before a resumed segment's position that are fetched again and compared, to prove that the content is the same."""


class Phase(Enum):
    PENDING = "pending"
    PROBING = "probing"
    """The first request is out, or waits to be sent again."""
    OPENING = "opening"
    """The first answer was accepted; part file and journal are being made."""
    RECEIVING = "receiving"
    FINISHING = "finishing"
    """Every byte is written; checksum, sync and rename are under way."""
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"


_RUNNING = (Phase.PROBING, Phase.OPENING, Phase.RECEIVING)
TRANSITIONS: dict[tuple[Phase, str], Phase] = {
    (Phase.PENDING, "start"): Phase.PROBING,
    (Phase.PAUSED, "start"): Phase.PROBING,
    (Phase.PROBING, "accept"): Phase.OPENING,
    (Phase.OPENING, "open"): Phase.RECEIVING,
    (Phase.RECEIVING, "complete"): Phase.FINISHING,
    (Phase.FINISHING, "finish"): Phase.COMPLETED,
    **{(phase, "restart"): Phase.PROBING for phase in _RUNNING},
    **{(phase, "pause"): Phase.PAUSED for phase in (Phase.PENDING, *_RUNNING, Phase.FINISHING)},
    **{(phase, "fail"): Phase.FAILED for phase in (Phase.PENDING, *_RUNNING, Phase.FINISHING)},
}

STATUS = {
    Phase.PENDING: DownloadStatus.PENDING,
    Phase.PAUSED: DownloadStatus.PAUSED,
    Phase.COMPLETED: DownloadStatus.COMPLETED,
    Phase.FAILED: DownloadStatus.FAILED,
}
"""What users see; every other phase is DOWNLOADING."""


class Request(NamedTuple):
    """Open connection `connection` for bytes first..last (inclusive; None: no Range, or to the end)."""

    connection: int
    url: str
    first: int | None
    last: int | None
    fresh: bool
    """Not over a kept-alive connection."""


class Arm(NamedTuple):
    """Let the body of `connection` into segment `row`; its first byte belongs at offset `cursor`."""

    connection: int
    row: int
    cursor: int


class Cancel(NamedTuple):
    """End a connection; nothing of it will be told back."""

    connection: int


class Open(NamedTuple):
    """Make part file and journal for `content`, or go on with `rows` of an earlier run."""

    content: Content
    head: Head
    rows: bytes | None


class Discard(NamedTuple):
    """Drop part file and journal: the task begins anew."""


class Finish(NamedTuple):
    """Verify, sync and rename the file of `size` bytes."""

    size: int


class Notify(NamedTuple):
    """Tell the user that something will be tried again after `delay` seconds."""

    reason: str
    delay: float
    failures: int


class Close(NamedTuple):
    """The task has ended or pauses: let go of part file and journal; what is worth keeping stays."""


Action = Request | Arm | Cancel | Open | Discard | Finish | Notify | Close


class Place(Enum):
    """What the engine does with a body that is not armed at once."""

    HOLD = "hold"
    DROP = "drop"


class Ended(NamedTuple):
    """How a connection ended: `trouble` None means that the whole body came, or that its segment was cut."""

    trouble: Trouble | None = None
    detail: str = ""
    error: FastidmError | None = None
    """The sink could not write: the task fails."""
    mismatch: int | None = None
    """Offset at which an overlap differed."""


class Resumed(NamedTuple):
    """What an earlier run left, if it proved to be ours."""

    content: Content
    claims: tuple[tuple[int, int], ...]
    same_url: bool
    capacity: int
    """Rows that the segment table has room for."""


class TaskMachine:
    """The decisions of one task. Parameters: `url`, where to begin; `options`; `chance`, gives a number in [0, 1)."""

    def __init__(self, url: str, options: Options, chance: Callable[[], float]) -> None:
        self.url = self.location = url
        self.options = options
        self.phase = Phase.PENDING
        self.actions: list[Action] = []
        self.connections: dict[int, Connection] = {}
        self.table: SegmentTable | None = None
        self.content = Content()
        self.ranges = False
        self.error: FastidmError | None = None
        self.retries = 0
        self.peak = 0
        self.speed = 0.0
        self._chance = chance
        self._last_id = 0
        self._restarts = 0
        self._forget(0.0)

    def _forget(self, now: float) -> None:
        """Everything that belongs to one attempt at the content."""
        self._ramp = Ramp(self.options.connections)
        self._policy = RetryPolicy(self.options.retries)
        self._pinned: Content | None = None
        self._resumed: Resumed | None = None
        self._rows: bytes | None = None
        self._plain = False
        self._hops = 0
        self._not_before = now
        self._heard_at = now
        self._marked = 0
        self._unproven: set[int] = set()
        self._relieved: dict[int, float] = {}
        self._hedged = 0
        self._cost = 0.0
        self._verifying = False
        self._average: SpeedAverage | None = None
        self._was_good = False

    # ------------------------------------------------------------------ what may be asked at any time

    @property
    def status(self) -> DownloadStatus:
        return STATUS.get(self.phase, DownloadStatus.DOWNLOADING)

    @property
    def ended_for_good(self) -> bool:
        return self.phase in (Phase.PAUSED, Phase.COMPLETED, Phase.FAILED)

    @property
    def receiving(self) -> int:
        """Connections that are filling segments."""
        return sum(1 for c in self.connections.values() if c.receiving)

    @property
    def eta(self) -> float | None:
        """Seconds that are left at the present speed."""
        if self.table is None or self.content.total is None:
            return None
        return time_left(self.table.size - self.table.received(), self.speed)

    @property
    def server_limit(self) -> int | None:
        """Connections that the server was found to allow, or None."""
        return self._ramp.limit

    # ------------------------------------------------------------------ events

    def start(self, now: float, resumed: Resumed | None = None) -> None:
        """Begin, with what an earlier run left."""
        self._enter("start")
        self._forget(now)
        if resumed is not None:
            self._adopt(resumed)
        self._probe(now)

    def head(self, id: int, head: Head, now: float, now_utc: float) -> Arm | Place:
        """The head of an answer is complete; returns where its body goes."""
        connection = self.connections.get(id)
        if connection is None:
            return Place.DROP
        verdict = judge(head, connection.first, connection.last, self._pinned, now_utc)
        if isinstance(verdict, Accepted):
            return self._accepted(connection, verdict, head, now)
        self._drop(connection)
        if isinstance(verdict, Redirected):
            self._redirected(connection, head.get("location") or "", now)
        elif isinstance(verdict, WithoutRange) and not self._plain and connection.role is Role.PROBE:
            self._plain = True
            self._probe(now)
        elif isinstance(verdict, RangeIgnored):
            self._range_ignored(connection, verdict.content, now)
        elif isinstance(verdict, Again):
            self._failed(verdict.error, now, asked=verdict.delay)
        elif isinstance(verdict, Refused | WithoutRange):
            self._refused(verdict.error, now)
        return Place.DROP

    def opened(self, table: SegmentTable, now: float) -> None:
        """Part file and journal are there; `table` lies in the journal."""
        self._enter("open")
        self.table = table
        self._marked = table.received()
        self._average = SpeedAverage(now, self._marked)
        self._heard_at = now
        if self._rows is not None:
            self._unproven = {row for row in table.order if table.position(row) > table.start(row)}
        for connection in list(self.connections.values()):
            row = self._row_for(connection)
            if row is None:
                self._cancel(connection)
            else:
                self._arm(connection, row, now)
        self._verifying = table.complete() and bool(self.connections)
        self._assign(now)

    def open_failed(self, error: FastidmError) -> None:
        self._fail(error)

    def ended(self, id: int, end: Ended, now: float) -> None:
        """A connection has ended by itself."""
        connection = self.connections.pop(id, None)
        if connection is None or self.phase not in _RUNNING:
            return
        self._verifying = False
        if end.error is not None:
            self._fail(end.error)
        elif end.mismatch is not None:
            self._content_changed(ContentChangedError(f"the remote file differs from what was received, at byte {end.mismatch}"), now)
        elif end.trouble is not None and end.trouble not in PASSING:
            self._fail(_error(end.trouble, end.detail))
        elif self.phase is Phase.RECEIVING and connection.receiving:
            self._emptied(connection, end, now)
        elif self.phase is not Phase.OPENING:
            self._failed(_error(end.trouble or Trouble.MALFORMED, end.detail), now)
        self._assign(now)

    def tick(self, now: float, counts: Mapping[int, int], throttled: bool = False) -> None:
        """Time has passed. `counts`: bytes that each connection has received; `throttled`: a rate limit holds them back."""
        for connection in self.connections.values():
            connection.count(counts.get(connection.id, 0), now)
            if throttled:
                connection.heard_at = now
        self._head_timeouts(now)
        if self.phase is Phase.PROBING and not self.connections and now >= self._not_before:
            self._probe(now)
        if self.phase is not Phase.RECEIVING or self.table is None or self._average is None:
            return
        received = self.table.received()
        self.speed = self._average.update(received, now)
        self._ramp.measure(received, self.receiving, now)
        if received > self._marked or throttled:
            self._marked, self._heard_at = received, now
            self._policy = self._policy.progressed()
        if not throttled:
            self._look_after(now)
        self._assign(now)

    def finished(self) -> None:
        self._enter("finish")
        self.actions.append(Close())

    def finish_failed(self, error: FastidmError) -> None:
        self._fail(error)

    def pause(self) -> None:
        """Stop; everything received is kept."""
        if (self.phase, "pause") in TRANSITIONS:
            self._cancel_all()
            self._enter("pause")
            self.actions.append(Close())

    def fail(self, error: FastidmError) -> None:
        """Something outside (the disk, a defect) ends the task."""
        self._fail(error)

    # ------------------------------------------------------------------ answers

    def _accepted(self, connection: Connection, verdict: Accepted, head: Head, now: float) -> Arm | Place:
        took = now - connection.born
        self._cost = took if self._cost == 0 else 0.75 * self._cost + 0.25 * took
        connection.answered(now)
        self._heard_at = now
        self._hops = 0
        if self.phase is Phase.PROBING:
            return self._first_answer(connection, verdict, head, now)
        if self.phase is not Phase.RECEIVING or self.table is None:
            return Place.HOLD
        row = self._row_for(connection)
        if row is None:
            self._cancel(connection)
            self._assign(now)
            return Place.DROP
        arm = self._arm(connection, row, now, armed_by_engine=False)
        self._assign(now)
        return arm

    def _first_answer(self, connection: Connection, verdict: Accepted, head: Head, now: float) -> Place:
        if self._resumed is not None and not self._resumed.same_url and not _vouched(self._pinned, verdict.content):
            self._drop(connection)
            self._content_changed(
                ContentChangedError("the part file belongs to another URL, and nothing proves that this is the same file"), now
            )
            return Place.DROP
        self.content = self._pinned = verdict.content
        self.ranges = verdict.ranges
        self._was_good = True
        if not verdict.ranges:
            self._ramp.ceiling = 1
            self._rows = self._single(self._rows) if self._rows is not None else None
        self._enter("accept")
        self.actions.append(Open(verdict.content, head, self._rows))
        return Place.HOLD

    def resume_after_probe(self, resumed: Resumed) -> bytes | None:
        """The name became known with the first answer, and an earlier run's journal with it: the rows to go on with.

        Raises `ContentChangedError` when the remote file is another one now; None: begin anew (as the options say).
        """
        change = changed(resumed.content, self.content)
        if change is None and not (resumed.same_url or _vouched(resumed.content, self.content)):
            change = ContentChangedError("the part file belongs to another URL, and nothing proves that this is the same file")
        if change is not None:
            if self.options.on_change == "restart":
                return None
            raise _with_way_out(change)
        self._rows = self._rows_of(resumed)
        if not self.ranges:
            self._rows = self._single(self._rows)
        return self._rows

    def _redirected(self, connection: Connection, location: str, now: float) -> None:
        self._hops += 1
        if self._hops > self.options.max_redirects:
            self._fail(RedirectError(f"more than {self.options.max_redirects} redirects", "raise --max-redirects if that is meant"))
            return
        from urllib.parse import urljoin, urlsplit

        try:
            there = urljoin(self.location, location.strip())
            scheme, host = urlsplit(there).scheme, urlsplit(there).hostname
        except ValueError:
            scheme, host, there = "", None, ""
        if scheme not in ("http", "https") or not host or not there.isprintable() or " " in there:
            self._fail(RedirectError("a redirect to something that is not http or https"))
        elif scheme == "http" and self.location.lower().startswith("https:"):
            self._fail(RedirectError("a redirect from https to http", "fetch the http URL itself if that is meant"))
        else:
            self.location = there
            if connection.role is Role.PROBE:
                self._probe(now)
            else:
                self._assign(now)

    def _range_ignored(self, connection: Connection, content: Content, now: float) -> None:
        if connection.role is Role.PROBE:
            # An earlier run had parts of a file that the server no longer sends in parts. From 0 on then; what we have of
            # the front is compared on the way.
            self._plain = True
            self._probe(now)
        elif self.receiving:
            self._ramp.refused(len(self.connections), now)
        else:
            self._failed(ProtocolError("the server sent the whole file where a part was asked for"), now)

    def _refused(self, error: FastidmError, now: float) -> None:
        stale = isinstance(error, AuthError | NotFoundError | RefusedError) and self._was_good
        if isinstance(error, ContentChangedError):
            self._content_changed(error, now)
        elif stale and self.location != self.url and not any(c.receiving for c in self.connections.values()):
            self.location = self.url
            self._failed(error, now, quiet=True)
        elif stale and isinstance(error, RefusedError) and self.receiving:
            self._limited(error, now)
        elif stale and not isinstance(error, AuthError):
            self._fail(AuthError(f"{error.message}, although it gave parts of this file before: has the link expired?",
                                 "run it again with a new URL and the same -o"))  # fmt: skip
        elif isinstance(error, ProtocolError) and self.receiving:
            self._limited(error, now)
        else:
            self._fail(error)

    # ------------------------------------------------------------------ failures

    def _failed(self, error: FastidmError, now: float, asked: float | None = None, quiet: bool = False) -> None:
        """One connection could not be had, or broke before it brought anything."""
        if self.connections:
            self._limited(error, now, asked)
            return
        self._policy = self._policy.failed()
        hopeless = self._policy.spent or (isinstance(error, NetworkError) and not self._was_good and _no_such_host(error, self._policy))
        if hopeless and (not self._was_good or now - self._heard_at > self.options.timeout or isinstance(error, BusyError | ProtocolError)):
            self._fail(error)
            return
        self.retries += 1
        delay = self._policy.delay(self._chance, asked)
        self._not_before = now + delay
        self._ramp.restarted()
        if not quiet:
            self.actions.append(Notify(error.message, delay, self._policy.failures))

    def _limited(self, error: FastidmError, now: float, asked: float | None = None) -> None:
        """Refused while others receive: the server's own limit. Not a failure."""
        self.retries += 1
        self._ramp.refused(len(self.connections), now)
        if asked is not None:
            self._not_before = max(self._not_before, now + self._policy.delay(self._chance, asked))

    def _emptied(self, connection: Connection, end: Ended, now: float) -> None:
        """A connection that was receiving has ended."""
        assert self.table is not None and connection.row is not None
        if self.table.remaining(connection.row) == 0:
            return
        if self.content.total is None and end.trouble is None:
            self.table.finish_stream(connection.row)
            return
        received = self.table.received()
        if received > self._marked or connection.received > 0 and self.ranges:
            self._marked = max(received, self._marked)
            self._policy = self._policy.progressed()
            self._heard_at = now
            self.retries += end.trouble is not None
            return
        self._failed(_error(end.trouble or Trouble.BROKEN, end.detail), now)

    def _content_changed(self, error: ContentChangedError, now: float) -> None:
        if self.options.on_change != "restart" or self._restarts:
            self._fail(_with_way_out(error))
            return
        self._restarts += 1
        self._cancel_all()
        self._enter("restart")
        self.table = None
        self.location = self.url
        self._forget(now)
        self.actions += [Discard(), Notify(error.message + "; beginning anew", 0.0, 0)]
        self._probe(now)

    def _fail(self, error: FastidmError) -> None:
        if (self.phase, "fail") not in TRANSITIONS:
            return
        self.error = error
        self._cancel_all()
        self._enter("fail")
        self.actions.append(Close())

    # ------------------------------------------------------------------ connections

    def _probe(self, now: float) -> None:
        """The first request: it finds out what the file is, and its body is the first segment's."""
        first: int | None = None if self._plain else 0
        last: int | None = None
        if self._rows is not None and not self._plain:
            table = SegmentTable(bytearray(self._rows))
            row = next((r for r in table.order if table.remaining(r)), table.order[-1])
            start, stop, position = table[row]
            first, last = max(start, position - OVERLAP), stop - 1
        self._request(Role.PROBE, first, last, None, now)

    def _request(self, role: Role, first: int | None, last: int | None, target: int | None, now: float, fresh: bool = False) -> None:
        self._last_id += 1
        self.connections[self._last_id] = Connection(self._last_id, role, first, last, target, now)
        self.actions.append(Request(self._last_id, self.location, first, last, fresh))

    def _row_for(self, connection: Connection) -> int | None:
        """The segment that an accepted connection may fill, cut from its victim if need be; None: there is none any more."""
        table = self.table
        assert table is not None
        first = connection.first or 0
        if connection.role is Role.PROBE:
            near = OVERLAP if self.ranges else UNKNOWN
            for row in table.order:
                start, stop, position = table[row]
                if start <= first <= position <= first + near and first < stop:
                    return row
            return table.order[0] if table.order and table.size == 0 else None
        row_, at = connection.target, first
        if row_ is None or table.remaining(row_) == 0:
            return None
        if connection.role is not Role.SPLIT:
            return row_
        start, stop, position = table[row_]
        at = max(at, position)
        if at >= stop or not table.room():
            return None
        new = table.split(row_, at)
        for other in [c for c in self.connections.values() if c.row == row_]:
            if at == position:
                self._cancel(other)
        return new

    def _arm(self, connection: Connection, row: int, now: float, armed_by_engine: bool = True) -> Arm:
        connection.row = row
        connection.answered(now)
        self._unproven.discard(row)
        self.peak = max(self.peak, self.receiving)
        self._ramp.answered(self.receiving, now)
        arm = Arm(connection.id, row, connection.first or 0)
        if armed_by_engine:
            self.actions.append(arm)
        return arm

    def _assign(self, now: float) -> None:
        """Give every connection that may be open something to do, or end the task when nothing is left."""
        table = self.table
        if self.phase is not Phase.RECEIVING or table is None:
            return
        if table.complete() and not self._verifying:
            self._cancel_all()
            self._enter("complete")
            self.actions.append(Finish(table.size))
            return
        if now < self._not_before:
            return
        while len(self.connections) < self._ramp.allowed(now):
            if not (self._fill(now) or self._split(now) or self._hedge(now) or self._take_over(now)):
                break

    def _fill(self, now: float) -> bool:
        """Open a connection for a segment that nobody fills."""
        table = self.table
        assert table is not None
        taken = {c.row for c in self.connections.values()}
        taken |= {c.target for c in self.connections.values() if c.role is Role.FILL}
        row = next((r for r in table.order if r not in taken and table.remaining(r)), None)
        if row is None:
            return False
        if not self.ranges:
            self._request(Role.FILL, None, None, row, now)
            return True
        start, stop, position = table[row]
        first = max(start, position - OVERLAP) if row in self._unproven else position
        self._request(Role.FILL, first, stop - 1, row, now, fresh=row in self._relieved)
        return True

    def _split(self, now: float) -> bool:
        if not self.ranges:
            return False
        table = self.table
        assert table is not None
        pending = sum(1 for c in self.connections.values() if c.role is Role.SPLIT and not c.receiving)
        if table.room() <= pending:
            table.melt(c.row for c in self.connections.values() if c.row is not None)
            table.melt(c.target for c in self.connections.values() if c.target is not None)
        speed, cost = self._typical(now)
        cut = plan_split(self._runners(now, speed), speed, cost)
        if cut is None or table.room() <= pending:
            return False
        self._request(Role.SPLIT, cut.at, table.stop(cut.row) - 1, cut.row, now)
        return True

    def _hedge(self, now: float) -> bool:
        if not self.ranges:
            return False
        table = self.table
        assert table is not None
        speed, cost = self._typical(now)
        budget = int(max(HEDGE_SHARE * table.size, HEDGE_BYTES)) - self._hedged
        slowest = plan_hedge(self._runners(now, speed), speed, cost, budget)
        if slowest is None:
            return False
        self._hedged += slowest.stop - slowest.position
        self._request(Role.HEDGE, slowest.position, slowest.stop - 1, slowest.row, now)
        return True

    def _take_over(self, now: float) -> bool:
        """Nothing else is left to do: free the segments whose requests the server does not answer."""
        silent = [c for c in self.connections.values() if c.role is Role.FILL and health.ignored(c, self._cost, now, idle=True)]
        for connection in silent:
            self._cancel(connection)
            self.retries += 1
        if silent:
            self._ramp.refused(max(len(self.connections), self.peak), now)
        return bool(silent)

    def _runners(self, now: float, typical: float) -> list[Runner]:
        """The segments that one connection fills and that no other is about to share."""
        table = self.table
        assert table is not None
        shared = {c.target for c in self.connections.values() if c.role in (Role.SPLIT, Role.HEDGE) and not c.receiving}
        shared |= {c.row for c in self.connections.values() if c.role is Role.HEDGE}
        runners = []
        for connection in self.connections.values():
            row = connection.row
            if row is None or row in shared:
                continue
            speed = connection.speed(now)
            runners.append(Runner(row, table.position(row), table.stop(row), typical if speed is None else speed))
        return runners

    def _typical(self, now: float) -> tuple[float, float]:
        """(bytes per second, seconds until its first byte) that a new connection is expected to show."""
        speeds = [speed for c in self.connections.values() if (speed := c.speed(now)) is not None]
        return median(speeds), self._cost

    def _look_after(self, now: float) -> None:
        """Stalled, crawling and silent connections."""
        table = self.table
        assert table is not None
        silent = now - self._heard_at
        if silent > self.options.timeout:
            self._fail(NetworkError(f"not a byte came for {self.options.timeout:g} seconds", "the same command goes on where it stopped"))
            return
        busy = [c for c in self.connections.values() if c.receiving]
        if busy and all(now - c.heard_at > health.OUTAGE_AFTER for c in busy):
            self._cancel_all()
            self._ramp.restarted()
            self.retries += 1
            self.actions.append(Notify("no connection receives anything", 0.0, 0))
            return
        if len(busy) < 2:
            return
        typical, _ = self._typical(now)
        eta = (table.size - table.received()) / self.speed if self.speed > 0 else float("inf")
        for connection in busy:
            row = connection.row
            assert row is not None
            left = table.remaining(row)
            if left == 0:
                self._cancel(connection)
                continue
            if now - self._relieved.get(row, -1e9) < health.OUTAGE_AFTER:
                continue
            if health.stalled(connection, now) or health.crawling(connection, typical, eta, left, now):
                self._relieved[row] = now
                self.retries += 1
                self._cancel(connection)

    def _head_timeouts(self, now: float) -> None:
        for connection in list(self.connections.values()):
            if connection.head_at is not None:
                continue
            late = now - connection.born > self.options.connect_timeout
            if late or (self._was_good and health.ignored(connection, self._cost, now)):
                self._cancel(connection)
                if self.phase in (Phase.PROBING, Phase.RECEIVING):
                    self._failed(_error(Trouble.TIMEOUT, ""), now)

    def _cancel(self, connection: Connection) -> None:
        if self.connections.pop(connection.id, None) is not None:
            self.actions.append(Cancel(connection.id))

    _drop = _cancel

    def _cancel_all(self) -> None:
        for connection in list(self.connections.values()):
            self._cancel(connection)

    # ------------------------------------------------------------------ an earlier run

    def _adopt(self, resumed: Resumed) -> None:
        self._resumed = resumed
        self._pinned = resumed.content
        self._rows = self._rows_of(resumed)

    def _rows_of(self, resumed: Resumed) -> bytes:
        size = resumed.content.total or 0
        return bytes(restore(size, resumed.claims, first_cut(size, self.options.connections), resumed.capacity))

    def _single(self, rows: bytes) -> bytes:
        """The rows of a server that sends no parts: one segment, of which the front may be written."""
        table = SegmentTable(bytearray(rows))
        front = [(s.start, s.position) for s in table.snapshot() if s.start == 0]
        return bytes(restore(table.size, front, (), table.capacity))

    def _enter(self, event: str) -> None:
        """The only place that changes the phase."""
        self.phase = TRANSITIONS[self.phase, event]


def _vouched(pinned: Content | None, seen: Content) -> bool:
    """Whether a validator says that both are the same file, not merely that nothing speaks against it."""
    if pinned is None or pinned.total is None or pinned.total != seen.total or changed(pinned, seen):
        return False
    return any(a is not None and a == b for a, b in ((pinned.etag, seen.etag), (pinned.last_modified, seen.last_modified)))


def _with_way_out(error: ContentChangedError) -> ContentChangedError:
    return ContentChangedError(error.message, "--restart begins anew, --on-change restart does so by itself")


def _no_such_host(error: NetworkError, policy: RetryPolicy) -> bool:
    # A name that does not resolve twice, before anything ever worked, is a typing error and not an outage.
    return error.message.startswith(Trouble.RESOLVE.value) and policy.failures > 1


def _error(trouble: Trouble, detail: str) -> FastidmError:
    """The error that a trouble becomes when it is final."""
    text = f"{trouble.value} ({detail})" if detail else trouble.value
    if trouble in (Trouble.TLS, Trouble.CERTIFICATE):
        hint = "--cacert FILE trusts a private CA, --insecure trusts anybody" if trouble is Trouble.CERTIFICATE else ""
        return TlsError(text, hint)
    if trouble is Trouble.PROXY_AUTH:
        return AuthError(text, "give name and password in the URL of --proxy")
    if trouble is Trouble.TOO_LARGE:
        return LimitError(text)
    if trouble is Trouble.MALFORMED:
        return ProtocolError(text)
    return NetworkError(text, "check the address and the network; the same command tries again")
