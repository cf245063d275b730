"""Who fills which segment: the connections of one task.

Rules of this module:

* Each segment is filled by one connection, or by up to three when its rest is hedged.
* Make before break: a running segment is cut when its new connection has been answered, not when it is asked for.
* Steal first, kill last: a slow connection loses the back of its segment to others; only one that stands still or crawls is
  ended, and only while others receive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from fastidm.core import health
from fastidm.core.actions import Action, Arm, Cancel, Request
from fastidm.core.health import Connection, Role, median
from fastidm.core.scheduler import (
    CUT_SHARE,
    GAIN,
    HEDGE_BYTES,
    HEDGE_SHARE,
    LOSS,
    PIECE,
    SATURATED,
    Ramp,
    Runner,
    first_cut,
    plan_hedge,
    plan_split,
)
from fastidm.core.segments import UNKNOWN, SegmentTable

OVERLAP = 4096
"""Bytes that are fetched again and compared, to prove that the content is the same: before a resumed segment's position, and at
every seam between two segments, as soon as both sides are there."""
SATURATED_SECONDS = 0.2
"""How long the loop counts as the limit after it was seen to be: one look at which it just happened to wait opens no others."""
SEAM_SECONDS = 1.0
"""How long a connection whose segment is full is left to the comparison of the seam."""


class Connections:
    """The running requests of one task.

    Parameters: `actions`, where wishes are left; `url`, where requests go (may be changed at any time); `ceiling`, connections
    at most; `base`, offset in the remote file of the table's first byte.
    """

    def __init__(self, actions: list[Action], url: str, ceiling: int, base: int = 0) -> None:
        self.url = url
        self._base = base
        self.ranges = False
        """Whether the server can send parts."""
        self.ramp = Ramp(ceiling)
        self.table: SegmentTable | None = None
        self.peak = 0
        """The most connections that filled segments at the same time."""
        self.lost = 0
        """Connections that broke or were too slow, and were made again."""
        self.share = ceiling
        """Connections at most, of those that all tasks have together; see `limit`."""
        self._actions = actions
        self._running: dict[int, Connection] = {}
        self._last_id = 0
        self._cost = 0.0
        self._saturated_at = float("-inf")
        self._past: deque[float] = deque(maxlen=32)
        """Speeds of the connections that ended last: those that are left over are no measure of what a new one brings."""
        self._uncut = False
        """Whether it is a new file, which will be cut when a second connection has been answered."""
        self._plan: list[int] = []
        """Offsets at which it will be."""
        self._unproven: set[int] = set()
        self._earlier: list[tuple[int, int]] = []
        self._relieved: dict[int, float] = {}
        self._hedged = 0
        self._lost_by_cuts = 0
        """Bytes that were sent beyond a cut, as far as can be told."""
        self._raced: set[int] = set()
        """Rows that two connections or more have worked on."""

    def __len__(self) -> int:
        return len(self._running)

    def alive(self, now: float) -> bool:
        """Whether the server serves some of them at this time: an answer without a byte of the body is not enough."""
        return any(c.received and now - c.heard_at < health.STALLED_AFTER for c in self.busy)

    @property
    def busy(self) -> list[Connection]:
        """Those that are filling segments."""
        return [c for c in self._running.values() if c.receiving]

    def get(self, id: int) -> Connection | None:
        return self._running.get(id)

    def pop(self, id: int) -> Connection | None:
        """Forget a connection that has ended by itself."""
        connection = self._running.pop(id, None)
        if connection is not None:
            self._remember(connection)
        return connection

    def _remember(self, connection: Connection) -> None:
        if connection.head_at is not None and connection.received:
            # One that was done in a moment was at least so fast.
            self._past.append(max(connection.average.speed, connection.received / max(connection.average.age, 0.2)))

    def count(self, counts: Mapping[int, int], now: float, throttled: bool) -> bool:
        """Tell how many bytes each has received in all; one that a rate limit holds back is not silent.

        Returns whether anything was heard.
        """
        heard = throttled
        for connection in self._running.values():
            heard |= connection.count(counts.get(connection.id, 0), now)
            self.proved(connection)
            if throttled or connection.queued:
                connection.heard_at = now  # its bytes are here, and it is us who have not taken them yet
        return heard

    def queue(self, queued: Mapping[int, int]) -> None:
        """Tell how many bytes are there for each that it has not taken yet: they need not be asked for a second time."""
        for id, count in queued.items():
            connection = self._running.get(id)
            if connection is not None:
                connection.queued, connection.backlog = count, max(count, connection.backlog // 2)

    def note_load(self, load: float, per_round: float, now: float) -> None:
        """Tell how busy the loop is with this task, among others, and how many bytes it brought in an average round.

        Where it is the limit, and bytes of these connections wait for it, others would bring no more. They were there when they
        were looked for, though a look just afterwards finds none; or they were left, and waited of late.
        """
        found = per_round >= PIECE * max(1, len(self.busy))
        if load >= SATURATED and (found or any(c.backlog >= PIECE for c in self._running.values())):
            self._saturated_at = now

    def _saturated(self, now: float) -> bool:
        return now - self._saturated_at < SATURATED_SECONDS

    def take_after(self, before: Connections) -> None:
        """Go on counting where those of an earlier attempt stopped."""
        self.peak, self.lost, self.share, self._last_id = before.peak, before.lost, before.share, before._last_id

    def outdated(self, connection: Connection, at: int) -> bool:
        """Whether byte `at`, which differs from what a connection brought, shows that the remote file changed since an earlier
        run. Otherwise bytes of this run contradict each other: the connection was past the overlap and has written some.
        """
        row = connection.row
        if row is None or at >= self._table().stop(row):
            return False
        return (row in self._unproven or at < self._table().start(row)) and any(a <= at < b for a, b in self._earlier)

    def proved(self, connection: Connection) -> bool:
        """Whether its overlap was compared to the end; then the segment need not be proved again."""
        if connection.row is None or connection.received < connection.overlap:
            return False
        self._unproven.discard(connection.row)
        return True

    # ------------------------------------------------------------------ begin and end

    def request(
        self, role: Role, first: int | None, last: int | None, target: int | None, now: float, fresh: bool = False
    ) -> None:
        """Open one more connection; parameters as of `Connection` and `Request`."""
        self._last_id += 1
        self._running[self._last_id] = Connection(self._last_id, role, first, last, target, now, self.url)
        self._actions.append(Request(self._last_id, self.url, *self.there(first, last), fresh))

    def there(self, first: int | None, last: int | None) -> tuple[int | None, int | None]:
        """A range of the table, as the server counts."""
        return None if first is None else first + self._base, None if last is None else last + self._base

    def cancel(self, connection: Connection) -> None:
        if self._running.pop(connection.id, None) is not None:
            self._remember(connection)
            self._actions.append(Cancel(connection.id))

    def cancel_all(self) -> None:
        for connection in list(self._running.values()):
            self.cancel(connection)

    def opened(self, table: SegmentTable, resumed: bool, now: float, anew: bool = False) -> None:
        """The segments are known: place those that were answered before.

        Parameters: `resumed`, an earlier run wrote some of it; `anew`, it is a new file, of one segment that may be cut.
        """
        self.table = table
        self._saturated_at = float("-inf")
        self._uncut = anew
        if resumed:
            self._unproven = {row for row in table.order if table.position(row) > table.start(row)}
            self._earlier = [(table.start(row), table.position(row)) for row in self._unproven]
        for connection in list(self._running.values()):
            if connection.head_at is not None:
                connection.answered(now)  # its body has waited for this, and not because anybody was slow
                connection.backlog = 0
            arm = self.place(connection, now)
            if arm is not None:
                self._actions.append(arm)

    def answered(self, connection: Connection, now: float) -> None:
        """Its answer was accepted."""
        took = now - connection.born
        self._cost = took if self._cost == 0 else 0.75 * self._cost + 0.25 * took
        connection.answered(now)

    def place(self, connection: Connection, now: float) -> Arm | None:
        """Where the body of an accepted connection goes; one for which nothing is left is ended."""
        row = self._row_for(connection, now)
        if row is None:
            self.cancel(connection)
            return None
        if any(other.row == row for other in self._running.values()):
            self._raced.add(row)
        else:
            self._raced.discard(row)
        connection.row = row
        connection.overlap = self._table().position(row) - (connection.first or 0)
        busy = len(self.busy)
        self.peak = max(self.peak, busy)
        self.ramp.answered(busy, now, sum(1 for c in self._running.values() if c.head_at is None))
        return Arm(connection.id, row, connection.first or 0, OVERLAP if self.ranges else 0)

    def _row_for(self, connection: Connection, now: float) -> int | None:
        """The segment that a connection may fill, cut from its victim if need be; None: there is none any more."""
        if connection.role is Role.PROBE:
            return self._row_for_probe(connection.first or 0)
        table, row = self._table(), connection.target
        if row is None or table.remaining(row) == 0:
            return None
        if connection.role is not Role.SPLIT:
            return row
        late = table.position(row) > (connection.first or 0)  # what it brings first is there: the other one may run on
        new = None if late else self._cut(row, connection.first or 0)
        if self._uncut and not self._saturated(now):
            self._carry_out()
        self._uncut = False
        return new

    def _row_at(self, at: int) -> int | None:
        """The segment in which byte `at` lies."""
        table = self._table()
        return next((row for row in table.order if table.start(row) <= at < table.stop(row)), None)

    def _row_for_probe(self, first: int) -> int | None:
        table = self._table()
        near = OVERLAP if self.ranges else UNKNOWN
        for row in table.order:
            start, stop, position = table[row]
            if start <= first <= position <= first + near and first < stop:
                return row
        return None

    def _cut(self, victim: int, at: int) -> int | None:
        table = self._table()
        _, stop, position = table[victim]
        at = max(at, position)
        if at >= stop or not table.room():
            return None
        new = table.split(victim, at)
        if at == position:
            # Nothing is left to the victim, so its sink would never notice.
            for other in [c for c in self._running.values() if c.row == victim]:
                self.cancel(other)
        return new

    def run_on(self, now: float) -> bool:
        """The server sends no parts any more: if one connection has asked for all that is missing, it shall have it."""
        table = self._table()
        if len(self.busy) != 1 or self.busy[0].last is not None or self.busy[0].row is None:
            return False
        row = self.busy[0].row
        at = table.order.index(row)
        touched = any(table.remaining(other) for other in table.order[:at]) or any(
            table.position(other) > table.start(other) for other in table.order[at + 1 :]
        )
        if touched or table.remaining(row) == 0:
            return False
        for other in [c for c in self._running.values() if c is not self.busy[0]]:
            self.cancel(other)
        table.absorb(row)
        self._no_parts(now)
        return True

    def in_one_piece(self, now: float) -> None:
        """The server sends no parts any more: one connection, from the first byte on, which compares what is there."""
        self._table().collapse()
        self._no_parts(now)
        self._unproven = set(self._table().order)

    def _no_parts(self, now: float) -> None:
        self.ranges = False
        self.ramp.ceiling = 1
        self.ramp.restarted(now)

    def limit(self, share: int) -> None:
        """Have so many connections at most from now on, at least one. Those that brought least are ended."""
        self.share = max(1, share)
        surplus = len(self._running) - self.share
        for connection in sorted(self._running.values(), key=lambda c: (c.receiving, c.received))[: max(0, surplus)]:
            self.cancel(connection)

    # ------------------------------------------------------------------ give everybody something to do

    def assign(self, now: float) -> None:
        """Open as many connections as may be and as are of use."""
        while len(self._running) < min(self.share, self.ramp.allowed(now)):
            if not (self._fill(now) or self._assist(now)):
                break

    def _assist(self, now: float) -> bool:
        """Open a connection that helps another one with what it fills or has asked for, unless only work would come of it."""
        if self._saturated(now):
            return False
        return self._try_parts(now) or self._split(now) or self._hedge(now) or self._take_over(now)

    def _fill(self, now: float) -> bool:
        """Open a connection for a segment that nobody fills."""
        table = self._table()
        taken = {c.row for c in self._running.values()}
        taken |= {c.target for c in self._running.values() if c.role is Role.FILL}
        row = next((r for r in table.order if r not in taken and table.remaining(r)), None)
        if row is None:
            return False
        if not self.ranges:
            self.request(Role.FILL, None, None, row, now)
            return True
        start, _, position = table[row]
        if row in self._unproven:
            first = max(start, position - OVERLAP)
        else:
            first = position if position > start else self._across_the_seam(row)
        self.request(Role.FILL, first, self._last(row), row, now, fresh=row in self._relieved)
        return True

    def _across_the_seam(self, row: int) -> int:
        """Where a request for an untouched segment begins: within the segment before it, if that one is written."""
        table, start = self._table(), self._table().start(row)
        before = table.order.index(row) - 1
        if before < 0 or table.remaining(table.order[before]):
            return start  # its own connection will come here, and compare
        return max(table.start(table.order[before]), start - OVERLAP)

    def _last(self, row: int) -> int:
        """The last byte to ask for: a little of the next segment, to compare the seam."""
        table = self._table()
        return min(table.stop(row) + OVERLAP, table.size) - 1

    def _crossing(self, connection: Connection, now: float) -> bool:
        """Whether it has filled its segment and is now bringing the seam to the next one; notes when that began."""
        table, row = self._table(), connection.row
        if row is None or table.remaining(row) or not self.ranges or table.stop(row) == table.size:
            return False
        # What it has received is known as of the last tick, so that alone may not say that it is behind.
        if row in self._raced and (connection.first or 0) + connection.received < table.stop(row):
            return False  # another one was faster
        if connection.full_at is None:
            connection.full_at = now
        return now - connection.full_at < SEAM_SECONDS

    def crossing(self, now: float) -> bool:
        """Whether a seam is being compared; all other connections have nothing left to do once the table is complete."""
        return any(self._crossing(c, now) for c in self._running.values())

    def _try_parts(self, now: float) -> bool:
        """Open a second connection to a new file: its answer shows whether there are parts, and then the file is cut.

        Until then the first one may run on, so that a server without parts for others costs nothing.
        """
        if not (self._uncut and self.ranges) or any(c.role is Role.SPLIT for c in self._running.values()):
            return False
        if not self._worth_parts(now):
            return False
        table = self._table()
        row = table.order[0]  # it is the only one
        self._plan = first_cut(table.size, self.ramp.ceiling, self._reach(row))
        if not self._plan:
            self._uncut = False
            return False
        stop = self._plan[1] if len(self._plan) > 1 else table.size
        self.request(Role.SPLIT, self._plan[0], min(stop + OVERLAP, table.size) - 1, row, now)
        return True

    def _worth_parts(self, now: float) -> bool:
        """Whether a first connection that is all alone would take so long that others are of use.

        How fast it is shows in its first bytes; what another one is sent of a file that is almost there is sent in vain.
        """
        if len(self._running) != 1:
            return True
        (first,) = self._running.values()
        if first.head_at is None or not first.receiving:
            return False
        age, brought = now - first.head_at, first.received + first.queued
        if brought == 0:
            return age > GAIN
        left = self._table().size - self._table().received() - first.queued
        return left * age > GAIN * brought and left > LOSS * first.backlog

    def _carry_out(self) -> None:
        """There are parts: cut the file as planned."""
        table = self._table()
        for at in self._plan:
            row = self._row_at(at)
            if row is not None and max(table.start(row) + 1, self._reach(row)) <= at:
                table.split(row, at)

    def _split(self, now: float) -> bool:
        """Open a connection for the back of a running segment."""
        if not self.ranges:
            return False
        table = self._table()
        pending = sum(1 for c in self._running.values() if c.role is Role.SPLIT and not c.receiving)
        if table.room() <= pending:
            table.melt({c.row for c in self._running.values()} | {c.target for c in self._running.values()})
        speed = self._expected(now)
        runners = self._runners(now, speed)
        cut = plan_split(runners, speed, self._cost)
        if cut is None or table.room() <= pending:
            return False
        # As much as waits here is on its way to here.
        loss = 2 * next(runner.backlog for runner in runners if runner.row == cut.row)
        if loss and self._lost_by_cuts + loss > CUT_SHARE * table.size:
            return False
        self._lost_by_cuts += loss
        self.request(Role.SPLIT, cut.at, self._last(cut.row), cut.row, now)
        return True

    def _hedge(self, now: float) -> bool:
        """Ask for the rest of a running segment a second time."""
        if not self.ranges:
            return False
        speed = self._expected(now)
        budget = int(max(HEDGE_SHARE * self._table().size, HEDGE_BYTES)) - self._hedged
        slowest = plan_hedge(self._runners(now, speed, latest=True), speed, self._cost, budget)
        if slowest is None:
            return False
        first = self._table().position(slowest.row)  # not what is queued: nobody may write beyond a hole
        self._hedged += slowest.stop - first
        self.request(Role.HEDGE, first, self._last(slowest.row), slowest.row, now)
        return True

    def _take_over(self, now: float) -> bool:
        """Nothing else is left to do: free the segments whose requests the server does not answer."""
        silent = [
            c for c in self._running.values() if c.role is Role.FILL and health.ignored(c, self._cost, now, idle=True)
        ]
        for connection in silent:
            self.cancel(connection)
        if silent:
            self.ramp.refused(max(len(self._running), self.peak), now)
        return bool(silent)

    def _runners(self, now: float, typical: float, latest: bool = False) -> list[Runner]:
        """The segments that are being filled and that no new connection is about to share; `latest`: as fast as they are just
        now, if that is slower."""
        table = self._table()
        shared = {c.target for c in self._running.values() if c.role in (Role.SPLIT, Role.HEDGE) and not c.receiving}
        by_row: dict[int, list[Connection]] = {}
        for connection in self._running.values():
            if connection.row is not None and connection.row not in shared:
                by_row.setdefault(connection.row, []).append(connection)
        runners = []
        for row, racing in by_row.items():
            if len(racing) < 3:  # more would not help
                speeds = [c.latest_speed(now) if latest else c.speed(now) for c in racing]
                # Two that race for the same bytes are as fast as the faster one.
                speed = max(typical if speed is None else speed for speed in speeds)
                backlog = max(c.backlog for c in racing)
                runners.append(Runner(row, self._reach(row), table.stop(row), speed, backlog))
        return runners

    def _reach(self, row: int) -> int:
        """Where a segment's position will be when everything is taken that is on this machine already."""
        queued = max((c.queued for c in self._running.values() if c.row == row), default=0)
        return min(self._table().position(row) + queued, self._table().stop(row))

    def _typical(self, now: float) -> float:
        """Bytes per second of the connections as they are."""
        return median(speed for c in self._running.values() if (speed := c.speed(now)) is not None)

    def _expected(self, now: float) -> float:
        """Bytes per second that a new connection is expected to bring."""
        past = sorted(self._past)
        return max(self._typical(now), past[3 * len(past) // 4] if past else 0.0)

    # ------------------------------------------------------------------ look after them

    def silent(self, now: float) -> bool:
        """Whether all that should receive have been silent for so long that they had better be made anew."""
        busy = self.busy
        return bool(busy) and all(now - c.heard_at > health.OUTAGE_AFTER for c in busy)

    def unanswered(self, patience: float, was_good: bool, now: float) -> list[Connection]:
        """Those that the server has left without an answer for too long.

        Parameters: `patience`, seconds that any answer may take; `was_good`, the server has answered before, so that its
        usual time is known.
        """
        return [
            c
            for c in self._running.values()
            if c.head_at is None
            and (now - c.born > patience or (was_good and health.ignored(c, self._cost, now)))
        ]

    def relieve(self, task_speed: float, now: float) -> None:
        """End those that stand still or crawl while others receive; their segments are given to fresh connections."""
        table, busy = self._table(), self.busy
        if len(busy) < 2:
            return
        expected = self._expected(now)
        eta = (table.size - table.received()) / task_speed if task_speed > 0 else float("inf")
        for connection in busy:
            row = connection.row
            assert row is not None
            left = table.remaining(row)
            if left == 0:
                if not self._crossing(connection, now):
                    self.cancel(connection)
            elif connection.backlog:
                pass  # a fresh connection would not be taken from sooner
            elif now - self._relieved.get(row, float("-inf")) > health.RELIEF_PAUSE and (
                health.stalled(connection, now) or health.crawling(connection, expected, eta, left, now)
            ):
                self._relieved[row] = now
                self.lost += 1
                self.cancel(connection)

    def _table(self) -> SegmentTable:
        assert self.table is not None, "storage is not open yet"
        return self.table
