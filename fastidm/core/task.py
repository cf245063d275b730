"""One task from its URL to its file: the state machine. Events go in, actions come out.

Rules of this module:

* It decides and does nothing: every method is told the time and leaves its wishes in `actions`, which the engine performs in
  order. The engine tells back what came of them. Nothing here reads a clock, a socket or a file.
* `_enter` is the only place that changes the phase, along `core.phase.TRANSITIONS`.
* A connection moves bytes only after `head` has placed it in a segment (see `core.response`).
* Failures count only when nothing else of the task is connected, and only while no byte of progress lies between them.
  Refusals while other connections receive are the server's limit, not failures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastidm.core.actions import (
    Action,
    Arm,
    Close,
    Compare,
    Discard,
    Ended,
    Finish,
    Notify,
    Open,
    Place,
    Resumed,
    Withdraw,
)
from fastidm.core.connections import OVERLAP, Connections
from fastidm.core.health import Connection, Role
from fastidm.core.hosts import Hosts
from fastidm.core.patience import Patience
from fastidm.core.phase import ONLINE, STATUS, TRANSITIONS, Phase
from fastidm.core.rate import SpeedAverage, time_left
from fastidm.core.redirect import follow
from fastidm.core.response import (
    Accepted,
    Again,
    Content,
    Head,
    RangeIgnored,
    Redirected,
    WithoutRange,
    changed,
    judge,
    vouched,
)
from fastidm.core.retry import PASSING, Trouble, final_error
from fastidm.core.scheduler import SLOW, first_cut
from fastidm.core.segments import UNKNOWN, SegmentTable, restore, tile
from fastidm.core.span import WHOLE, Span
from fastidm.errors import (
    AuthError,
    ContentChangedError,
    FastidmError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RefusedError,
)
from fastidm.events import DownloadStatus
from fastidm.options import Options

LINK_ERRORS = (AuthError, NotFoundError, RefusedError)
"""What a server says of a link that has expired."""


class TaskMachine:
    """The decisions of one task.

    Parameters: `url`, where to begin; `options`; `chance`, gives a number in [0, 1); `hosts`, what all tasks know of servers;
    `span`, the part of the file that is wanted.
    """

    def __init__(
        self, url: str, options: Options, chance: Callable[[], float], hosts: Hosts | None = None, span: Span = WHOLE
    ) -> None:
        self.url = url
        self.options = options
        self.phase = Phase.PENDING
        self.actions: list[Action] = []
        self.span = span
        self.content = Content()
        """What is downloaded: the file, or the part of it that is wanted."""
        self.error: FastidmError | None = None
        self.speed = 0.0
        """Bytes per second, over the last seconds."""
        self._usual = self._per_round = 0.0
        self.received = 0
        """Bytes of the file that were written when last looked at."""
        self._chance = chance
        self._hosts = hosts or Hosts()
        self._restarted = False
        self._ceiling = options.connections
        self.connections = Connections(self.actions, url, self._ceiling, span.start)
        self._forget(0.0)

    def _forget(self, now: float) -> None:
        """Everything that belongs to one attempt at the content."""
        self.table: SegmentTable | None = None
        self._patience = Patience(self.options.retries, self.options.timeout, self._chance, now)
        self.pinned = self.span.content
        """What the remote file is, once that is known."""
        self._resumed: Resumed | None = None
        self._rows: bytes | None = None
        self._plain = False  # ask without a Range header
        self._hops = 0
        self._resolved_again = False
        self._regrouping = False  # connections fail, and nothing is received: wait for the last of them
        self._unplaced_in_a_row = 0  # answers that could not be placed, without one that could between them
        self._comparing = False  # the file is complete, and its last seams are being compared
        self._verifying = False  # an earlier run wrote everything; its end is compared once
        self._average = SpeedAverage(now)

    # ------------------------------------------------------------------ what may be asked at any time

    @property
    def status(self) -> DownloadStatus:
        """What users see of the phase."""
        return STATUS[self.phase]

    @property
    def ended_for_good(self) -> bool:
        """Paused, completed or failed."""
        return self.phase in (Phase.PAUSED, Phase.COMPLETED, Phase.FAILED)

    @property
    def eta(self) -> float | None:
        """Seconds that are left at the present speed; None when nobody can say."""
        if self.table is None or self.content.total is None:
            return None
        return time_left(max(0, self.content.total - self.received), self.speed)

    # ------------------------------------------------------------------ events

    def start(self, now: float, resumed: Resumed | None = None, sent: bool = False) -> None:
        """Begin, with what an earlier run left. `sent`: at `now` the first request was sent, whatever was learnt since."""
        begin = self._forget if self.phase is Phase.PENDING else self._begin
        self._enter("start")
        begin(now)
        if resumed is not None:
            self._resumed, self.pinned, self._rows = resumed, resumed.content, self._rows_of(resumed)
        self._probe(now, sent)

    def head(self, id: int, head: Head, now: float, now_utc: float) -> Arm | Place:
        """The head of an answer is complete; returns where its body goes.

        Parameters: `id`, the connection's; `now_utc`, seconds since the epoch.
        """
        connection = self.connections.get(id)
        if connection is None:
            return Place.DROP
        # Without ranges there is no part of a file that begins somewhere else.
        probe = self.phase is Phase.PROBING and not self._plain and self.span.content is None
        first, last = self.connections.there(connection.first, connection.last)
        verdict = judge(head, first, last, self.pinned, now_utc, probe=probe)
        if isinstance(verdict, Accepted):
            return self._accepted(connection, verdict, head, now)
        self.connections.cancel(connection)
        if isinstance(verdict, Redirected):
            self._redirected(connection, head.get("location") or "", now)
        elif isinstance(verdict, RangeIgnored):
            self._range_ignored(connection, now)
        elif isinstance(verdict, WithoutRange) and probe:
            self._plain = True
            self._probe(now)
        elif isinstance(verdict, Again):
            self._failed(verdict.error, now, asked=verdict.delay)
        else:
            self._refused(connection, verdict.error, head.status, now)
        self._assign(now)
        return Place.DROP

    def opened(self, table: SegmentTable, now: float, queued: Mapping[int, int] | None = None) -> None:
        """Part file and journal are there; `table` lies in the journal. `queued`: see `tick`."""
        self._enter("open")
        self.connections.queue(queued or {})
        self.table = table
        self.received = table.received()
        self._patience.begin(self.received, now)
        self._average = SpeedAverage(now, self.received)
        anew = self._rows is None and self.connections.ranges
        self.connections.opened(table, self._rows is not None, now, anew)
        self._verifying = table.complete() and table.size > 0 and self._rows is not None
        # A new file has one connection until its first tick: how fast that one is shows whether others are of use.
        if not anew or table.complete():
            self._assign(now)

    def ended(self, id: int, end: Ended, now: float) -> None:
        """A connection has ended by itself."""
        connection = self.connections.get(id)
        if connection is None or self.phase not in ONLINE:
            return
        if connection.count(end.received, now):
            self._patience.heard(now)
        self.connections.pop(id)
        if end.mismatch is None and self.connections.proved(connection):
            self._verifying = False
        if end.error is not None:
            self.fail(end.error)
        elif end.mismatch is not None:
            if self.connections.outdated(connection, end.mismatch):
                what = f"the remote file differs from what was received, at byte {end.mismatch}"
                assert self._rows is not None, "there was an earlier run"
                self.actions.append(Withdraw(self._rows))
                self._content_changed(ContentChangedError(what), now)
            else:
                self._parts_disagree(end.mismatch, now)
        elif end.trouble is not None and end.trouble not in PASSING:
            self.fail(final_error(end.trouble, end.detail))
        elif self.phase is Phase.RECEIVING and connection.receiving and not self._verifying:
            self._emptied(connection, end, now)
        elif self.phase is not Phase.OPENING:
            self._failed(final_error(end.trouble or Trouble.BROKEN, end.detail), now)
        self._assign(now)

    def tick(
        self,
        now: float,
        counts: Mapping[int, int],
        throttled: bool = False,
        queued: Mapping[int, int] | None = None,
        load: float = 0.0,
        rounds: int = 1,
        usual: float = 0.0,
    ) -> None:
        """Time has passed.

        Parameters: `counts`, bytes that each connection has received; `throttled`, a rate limit holds them back, so that
        slowness says nothing about them; `queued`, bytes that are there for each and that it has not taken yet; `load`, share
        of the time since the last look in which the loop did not wait; `rounds`, how often it has looked for bytes since;
        `usual`, bytes per second of an average task.
        """
        self.connections.queue(queued or {})
        if self.connections.count(counts, now, throttled):
            self._patience.heard(now)
            self._regrouping = False
        self._give_up_unanswered(now)
        if self.phase is Phase.PROBING and not self.connections and now >= self._patience.not_before:
            self._probe(now)
        if self.phase is not Phase.RECEIVING or self.table is None:
            return
        before, received = self.received, self.table.received()
        self.received = received
        self._per_round = (received - before) / max(1, rounds)
        self.speed = self._average.update(received, now)
        self._usual = usual
        if throttled:
            self.connections.note_load(1.0, self._per_round, now)  # held back by a limit or the disk it is as good as busy
        else:
            self.note_load(load, now)
        self.connections.ramp.measure(received, len(self.connections.busy), now)
        self._patience.progressed(received)
        if not throttled:
            self._look_for_outage(now)
            self.connections.relieve(self.speed, now)
        self._assign(now)

    def note_load(self, load: float, now: float) -> None:
        """Tell in which share of the time of late the loop did not wait: with each tick, and before an answer."""
        slower_than_others = self.speed < SLOW * self._usual  # then the loop is not why
        self.connections.note_load(0.0 if slower_than_others else load, self._per_round, now)

    def woke(self, now: float) -> None:
        """The machine was suspended. Its connections are dead and will not say so; nobody is to blame."""
        self._patience.heard(now)
        if self.phase in ONLINE and self.connections:
            self.connections.cancel_all()
            self.connections.ramp.restarted(now)
            self.connections.lost += 1
            self.actions.append(Notify("the machine was asleep: connecting again", 0.0, 0))
            self._assign(now)

    def compared(self, mismatch: int | None, now: float) -> None:
        """What was brought beyond segments was compared; `mismatch`: the offset at which the parts do not fit together."""
        if self.phase is not Phase.RECEIVING or self.table is None:
            return
        if mismatch is not None:
            self._parts_disagree(mismatch, now)
        elif self._comparing:
            self._enter("complete")
            self.actions.append(Finish(self.table.size))

    def finished(self) -> None:
        """The file is under its final name."""
        self._enter("finish")
        self.actions.append(Close())

    def pause(self) -> None:
        """Stop; everything received is kept."""
        if (self.phase, "pause") in TRANSITIONS:
            self.connections.cancel_all()
            self._enter("pause")
            self.actions.append(Close())

    def fail(self, error: FastidmError) -> None:
        """End with `error`; everything received is kept."""
        if (self.phase, "fail") in TRANSITIONS:
            self.error = error
            self.connections.cancel_all()
            self._enter("fail")
            self.actions.append(Close())

    def resume_after_probe(self, resumed: Resumed) -> bytes | None:
        """The name became known with the first answer, and an earlier run's journal with it: the rows to go on with.

        Returns None to begin anew. Raises `ContentChangedError` when the remote file is another one now.
        """
        change = self._not_ours(resumed, self.content)
        if change is not None:
            if self.options.on_change == "restart":
                return None
            raise _with_way_out(change)
        self._rows = self._rows_of(resumed)
        if not self.connections.ranges:
            self._rows = _single(self._rows)
        return self._rows

    def rows_anew(self) -> bytes:
        """The rows of a file of which nothing is written yet: one, which is cut when a second connection was answered."""
        return bytes(tile(UNKNOWN if self.content.total is None else self.content.total, (), 1))

    # ------------------------------------------------------------------ answers

    def _accepted(self, connection: Connection, verdict: Accepted, head: Head, now: float) -> Arm | Place:
        self.connections.answered(connection, now)
        self._unplaced_in_a_row = 0
        self._patience.answered(now)
        self._hops = 0
        self._resolved_again = False
        if self.phase is Phase.PROBING:
            return self._first_answer(connection, verdict, head, now)
        if self.phase is not Phase.RECEIVING:
            return Place.HOLD
        arm = self.connections.place(connection, now)
        if arm is None and connection.role is Role.PROBE:
            self._failed(ProtocolError("the server gave another part than the one that was asked for"), now)
        self._assign(now)
        return arm or Place.DROP

    def _first_answer(self, connection: Connection, verdict: Accepted, head: Head, now: float) -> Place:
        change = self._not_ours(self._resumed, verdict.content)
        if change is not None:
            self.connections.cancel(connection)
            self._content_changed(change, now)
            return Place.DROP
        self.pinned = verdict.content
        self.content = self.span.within(verdict.content, verdict.ranges)
        self.connections.ranges = verdict.ranges
        self._patience.served = True
        if not verdict.ranges:
            self.connections.ramp.ceiling = 1
            self._rows = _single(self._rows) if self._rows is not None else None
        self._enter("accept")
        self.actions.append(Open(self.content, head, self._rows))
        return Place.HOLD

    def _redirected(self, connection: Connection, location: str, now: float) -> None:
        if connection.url != self.connections.url:
            return  # another one was redirected before, and led the way
        self._hops += 1
        there = follow(
            connection.url, location, self._hops, self.options.max_redirects, downgrade=self.options.allow_downgrade
        )
        if isinstance(there, FastidmError):
            self.fail(there)
            return
        self.connections.url = there
        if connection.role is Role.PROBE:
            self._probe(now)

    def _range_ignored(self, connection: Connection, now: float) -> None:
        """The whole file came where a part was asked for."""
        if self.phase is Phase.PROBING and self.span.content is None:
            # An earlier run had parts of a file that the server no longer sends in parts. From 0 on then; what we have of
            # the front is compared on the way.
            self._plain = True
            self._probe(now)
        else:
            self._unplaced(ProtocolError("the server sent the whole file where a part was asked for"), now)

    def _unplaced(self, error: ProtocolError, now: float) -> None:
        """An answer that cannot be placed, from a server that did send parts. If it does so again, it can have its way."""
        self._unplaced_in_a_row += 1
        if self._unplaced_in_a_row == 1 and self.connections.alive(now):
            return  # asked once more at once
        if self._plain or self.table is None or self._unplaced_in_a_row == 1 or self.span is not WHOLE:
            self._failed(error, now)
            return
        if not self.connections.run_on(now):
            if self.connections:
                self._failed(error, now)
                return
            self.connections.in_one_piece(now)
            self._rows = _single(self._rows) if self._rows is not None else None
            self._patience.begin(self.table.received(), now)
            self._average = SpeedAverage(now, self.table.received())
        self._plain = True
        self.connections.lost += 1
        self.actions.append(Notify("the server sends no parts any more: the file is fetched in one piece", 0.0, 0))

    def _refused(self, connection: Connection, error: FastidmError, status: int, now: float) -> None:
        """No, and asking the same again will not help."""
        if isinstance(error, ContentChangedError):
            self._content_changed(error, now)
        elif not self._patience.served:
            self.fail(error)
        elif isinstance(error, ProtocolError):
            self._unplaced(error, now)
        elif isinstance(error, LINK_ERRORS) and self._resolve_again(connection):
            pass
        elif self.connections.alive(now):
            self._limited(now)
        elif status == 404:
            what = "the server has no such file any more, although parts of it came before"
            self._content_changed(ContentChangedError(what), now)
        elif isinstance(error, LINK_ERRORS):
            what = f"{error.message}, although parts of the file came before: has the link expired?"
            self.fail(AuthError(what, "give a new URL and the same -o to go on"))
        else:
            self.fail(error)

    def _resolve_again(self, connection: Connection) -> bool:
        """A link that gave parts of the file gives no more: ask where the file is, once. Returns whether that is worth it."""
        if connection.url != self.connections.url:
            return True  # another one has found out before
        if self.connections.url == self.url or self._resolved_again:
            return False
        self.connections.url = self.url
        self._resolved_again = True
        return True

    # ------------------------------------------------------------------ failures

    def _failed(self, error: FastidmError, now: float, asked: float | None = None) -> None:
        """One connection could not be had, or broke before it brought anything. `asked`: the server's Retry-After."""
        if self.connections.alive(now):
            self._limited(now, asked)
            return
        if self.connections:
            # The others may fare better: the last of them decides, and until then there are no new ones.
            self._regrouping = True
            return
        self._regrouping = False
        delay = self._patience.failed(error, now, asked)
        if delay is None:
            self.fail(error)
            return
        if asked is not None:
            self._hosts.hold(self.connections.url, now + delay, now)
        self.connections.lost += 1
        self.connections.ramp.restarted(now)
        self.actions.append(Notify(error.message, delay, self._patience.failures))

    def _limited(self, now: float, asked: float | None = None) -> None:
        """Refused while others receive: the server's own limit. Not a failure."""
        self.connections.ramp.refused(len(self.connections), now, asked)

    def _emptied(self, connection: Connection, end: Ended, now: float) -> None:
        """A connection that was filling a segment has ended."""
        assert self.table is not None
        assert connection.row is not None
        if self.table.remaining(connection.row) == 0:
            return
        if self.content.total is None and end.trouble is None and self.connections.proved(connection):
            self.table.finish_stream(connection.row)
            return
        received = self.table.received()
        if self._patience.progressed(received) or (connection.received > connection.overlap and self.connections.ranges):
            self._patience.forgive()
            self.connections.lost += end.trouble is not None
        else:
            self._failed(final_error(end.trouble or Trouble.BROKEN, end.detail), now)

    def _give_up_unanswered(self, now: float) -> None:
        for connection in self.connections.unanswered(self.options.connect_timeout, self._patience.served, now):
            self.connections.cancel(connection)
            if self.phase in (Phase.PROBING, Phase.RECEIVING):
                self._failed(final_error(Trouble.TIMEOUT), now)

    def _look_for_outage(self, now: float) -> None:
        if self._patience.too_silent(now):
            what = f"not a byte came for {self.options.timeout:g} seconds"
            self.fail(NetworkError(what, "the same command goes on where it stopped"))
        elif self.connections.silent(now):
            # After a suspend, or a change of network, the old connections never wake up. Not a failure: nobody is to blame.
            self.connections.cancel_all()
            self.connections.ramp.restarted(now)
            self.connections.lost += 1
            self.actions.append(Notify("no connection receives anything", 0.0, 0))

    def _content_changed(self, error: ContentChangedError, now: float) -> None:
        if self.options.on_change != "restart" or self._restarted:
            self.fail(_with_way_out(error))
            return
        self._begin_anew(error, now)

    def _parts_disagree(self, at: int, now: float) -> None:
        """Two answers of this run differ where they overlap, and nobody can say which is right: all of it is worthless."""
        what = f"the parts that the server sent do not fit together, at byte {at}"
        if self.options.on_change != "restart" or self._restarted:
            self.actions.append(Discard(worthless=True))
            self.fail(IntegrityError(what, "nothing was kept; --conn 1 asks for the file in one piece"))
        else:
            self._ceiling = 1  # one piece has no seams
            self._begin_anew(IntegrityError(what), now, worthless=True)

    def _begin_anew(self, error: FastidmError, now: float, worthless: bool = False) -> None:
        self._restarted = True
        self.connections.cancel_all()
        self._enter("restart")
        self.actions += [Discard(worthless), Notify(f"{error.message}; beginning anew", 0.0, 0)]
        self._begin(now)
        self._probe(now)

    # ------------------------------------------------------------------ the rest

    def _begin(self, now: float) -> None:
        self._forget(now)
        before = self.connections
        self.connections = Connections(self.actions, self.url, self._ceiling, self.span.start)
        self.connections.take_after(before)

    def _probe(self, now: float, sent: bool = False) -> None:
        """The first request: it finds out what the file is, and its body is the first segment's."""
        free_at = self._hosts.free_at(self.connections.url)
        if now < free_at and not sent:
            self._patience.wait(free_at)
            self.actions.append(Notify("the server has asked to wait", free_at - now, 0))
            return
        first: int | None = None if self._plain else 0
        last = None if self._plain or self.span is WHOLE else self.span.stop - self.span.start - 1
        if self._rows is not None and not self._plain:
            table = SegmentTable(bytearray(self._rows))
            row = next((r for r in table.order if table.remaining(r)), table.order[-1])
            start, stop, position = table[row]
            first, last = max(start, position - OVERLAP), min(stop + OVERLAP, table.size) - 1
        self.connections.request(Role.PROBE, first, last, None, now)

    def _assign(self, now: float) -> None:
        """Give every connection that may be open something to do, or end the task when nothing is left to do."""
        table = self.table
        if self.phase is not Phase.RECEIVING or table is None:
            return
        if self._verifying:
            if not self.connections and now >= self._patience.not_before:
                self._probe(now)
        elif table.complete():
            if not self._comparing and not self.connections.crossing(now):
                self._comparing = True
                self.connections.cancel_all()
                self.actions.append(Compare())
        elif now >= self._patience.not_before and not (self._regrouping and self.connections):
            # A server that serves this task all the same has told another one of its limit.
            if now >= self._hosts.free_at(self.connections.url) or self.connections.alive(now):
                self.connections.assign(now)

    def _rows_of(self, resumed: Resumed) -> bytes:
        size = resumed.content.total or 0
        return bytes(restore(size, resumed.claims, first_cut(size, self._ceiling), resumed.capacity))

    def _not_ours(self, resumed: Resumed | None, seen: Content) -> ContentChangedError | None:
        """The error if what an earlier run left is not part of the file that the server has."""
        if resumed is None:
            return None
        change = changed(resumed.content, seen)
        if change is None and not resumed.same_url and not vouched(resumed.content, seen):
            return ContentChangedError("the part file is from another URL, and nothing proves that this is the same file")
        return change

    def _enter(self, event: str) -> None:
        """The only place that changes the phase."""
        self.phase = TRANSITIONS[self.phase, event]


def _single(rows: bytes) -> bytes:
    """The rows for a server that sends no parts: one segment, of which the front may be written."""
    table = SegmentTable(bytearray(rows))
    front = [(segment.start, segment.position) for segment in table.snapshot() if segment.start == 0]
    return bytes(restore(table.size, front, (), table.capacity))


def _with_way_out(error: ContentChangedError) -> ContentChangedError:
    return ContentChangedError(error.message, "--restart begins anew, --on-change restart does so by itself")
