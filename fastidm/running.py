"""One task being run: performs what its state machine wishes, and tells the machine what came of it.

Rules of this module: no decisions. Each action of `core.task` has one small method here; each thing that happens (a head, an
end, a disk job done) becomes one event of the machine. Everything runs in the engine's thread.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import partial, wraps
from time import monotonic, time

from fastidm.background import Background
from fastidm.core.actions import (
    Arm,
    Cancel,
    Close,
    Compare,
    Discard,
    Ended,
    Finish,
    Notify,
    Open,
    Place,
    Request,
    Resumed,
    Withdraw,
)
from fastidm.core.checkpoints import Checkpoints
from fastidm.core.hosts import Hosts
from fastidm.core.load import Load
from fastidm.core.phase import Phase
from fastidm.core.rate import TokenBucket
from fastidm.core.redirect import origin
from fastidm.core.response import Content, Head, promised_digest
from fastidm.core.segments import SegmentTable, tile
from fastidm.core.span import WHOLE, Span
from fastidm.core.task import TaskMachine
from fastidm.errors import ExistsError, FastidmError, NetworkError, StorageError, redact
from fastidm.events import DownloadStatus, Event, Failed, Finished, Paused, Progress, Retrying, Started
from fastidm.net.errors import trouble_of
from fastidm.net.transfers import Transfer, Transfers
from fastidm.options import Options
from fastidm.records import record, replace
from fastidm.shortway import ProbeSink, ShortWay, short_content
from fastidm.storage.errors import storage_error
from fastidm.storage.iomode import IoMode
from fastidm.storage.naming import name_from_disposition, name_from_url
from fastidm.storage.seams import Seams
from fastidm.storage.sink import FAILED, FULL, Sink
from fastidm.storage.target import Resumable, Target, fits_memory
from fastidm.storage.waydown import WayDown
from fastidm.storage.writers import Writers

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from fastidm.storage.memory import Nameless
    from fastidm.storage.sink import PureSink

    Method = TypeVar("Method", bound=Callable[..., None])

BEHIND_SECONDS = 0.1
"""How soon it is looked again whether the disk has caught up."""
THROTTLE_MEMORY = 1.0
"""Seconds after a pause for the rate limit or the disk in which slowness says nothing about server and network."""
FIRST = 1
"""The number of a task's first connection."""
EVENT_SECONDS = 0.1
"""Seconds between two Progress events."""
MACHINE_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
"""Bytes that this machine has."""


def contained(method: Method) -> Method:
    """A defect in `method` ends its own task and leaves the others alone."""

    @wraps(method)
    def call(self: RunningTask, *arguments: Any, **named: Any) -> None:
        try:
            method(self, *arguments, **named)
        except FastidmError as error:
            self.machine.fail(error)
            self._shared.wanting.append(self)
        except Exception as error:
            failure = FastidmError(f"internal error: {type(error).__name__}: {error}", "please report it")
            failure.__cause__ = error
            self.machine.fail(failure)
            self._shared.wanting.append(self)

    return call  # type: ignore[return-value]


def chance() -> float:
    """A number in [0, 1)."""
    from random import random  # when the first wait is drawn: most tasks never wait

    return random()


class Limit:
    """A rate limit that may be set, changed and lifted at any time; bytes per second, None for no limit."""

    def __init__(self, rate: int | None = None) -> None:
        self._bucket: TokenBucket | None = None
        self.set(rate)

    def set(self, rate: int | None) -> None:
        self._bucket = TokenBucket(rate, monotonic()) if rate else None

    def __bool__(self) -> bool:
        return self._bucket is not None

    def wait(self, count: int, now: float) -> float:
        """Tell that `count` more bytes have come; returns the seconds until more may come."""
        if self._bucket is None:
            return 0.0
        self._bucket.take(count, now)
        return self._bucket.wait(now)


@record(frozen=True)
class Shared:
    """What all tasks of an engine share."""

    transfers: Transfers
    hosts: Hosts
    background: Background
    writers: Writers
    dirty: list[PureSink]
    """Sinks that have gathered something; `settle` makes them write it out."""
    settle: Callable[[], None]
    wanting: list[RunningTask]
    """Tasks to which something has happened: the engine gives each a `turn`, so that those at rest cost nothing."""
    soon: Callable[[RunningTask], None]
    """Called by a task that wants its first ticks sooner than the others."""
    ended: Callable[[RunningTask], None]
    """Called by a task that has ended, before it tells so."""
    limit: Limit
    """Of all tasks together."""


class RunningTask:
    """One task, its machine, its files and its connections.

    Parameters: `url`; `options`; `shared`, the engine's; `observer`, called with every event; `target`, where it goes, if
    that is no file; `span`, the part of it that is wanted; `limit`, the rate limit if it has that together with others.
    """

    def __init__(
        self,
        url: str,
        options: Options,
        shared: Shared,
        observer: Callable[[Event], None],
        target: Nameless | None = None,
        span: Span = WHOLE,
        limit: Limit | None = None,
    ) -> None:
        self.url = url
        self.options = options
        self.span = span
        self._machine: TaskMachine | None = None
        self._short: ShortWay | None = None
        """While it is on the short way."""
        self._shown_url = redact(url)
        self._shared = shared
        self._observer = observer
        self._target: Target | Nameless | None = target
        self._candidate: Target | None = None
        """Under the name that the URL gives, if nothing was there."""
        self._begun = monotonic()
        self.limit = limit or Limit(options.limit_rate)
        self._checksum = options.checksum
        self._share: int | None = None
        """Connections that it may have, if they are fewer than it would like."""
        self.ended = False

    def _prepare_for_everything(self) -> None:
        """What a task needs that is not on the short way."""
        self._origin = origin(self.url)
        self._transfers = self._shared.transfers
        self._probe_sink = ProbeSink()
        self._running: dict[int, Transfer] = {}
        self._sinks: dict[int, PureSink] = {}
        self._seams = Seams()
        self._mode: IoMode | None = None
        self._disk_busy = False
        self._after_disk: deque[Callable[[], None]] = deque()
        self._resumed = 0
        self._shown_at = 0.0
        self._load = Load()
        self._rounds = 0
        self._checkpoints = Checkpoints(MACHINE_MEMORY, self._begun)
        self._way_down: WayDown | None = None
        self._counted = 0
        """Bytes of which the limits know."""
        self._throttled_at = float("-inf")
        self._held_back = False
        self._taken = 0
        self._abandoned = False
        self._worthless = False
        self._kept: bytes | None = None

    @property
    def machine(self) -> TaskMachine:
        """Its state machine, in the engine's thread only. Whoever asks for it ends the short way."""
        if self._machine is None:
            self._prepare_for_everything()
            self._machine = TaskMachine(self.url, self.options, chance, self._shared.hosts, self.span)
            if self._share is not None:
                self._machine.connections.limit(self._share)
            if self._short is not None:
                self._leave_short_way(self._machine, self._short)
        return self._machine

    def _have_machine(self) -> None:
        """End the short way, if it is on that: what comes now needs more."""
        _ = self.machine

    # ------------------------------------------------------------------ the short way

    def _take_short_way(self, now: float) -> bool:
        """Send the first request without a machine, if nothing is known that needs one. See `fastidm.shortway`."""
        shared, url = self._shared, self.url
        if self._machine or self.span is not WHOLE or self.limit or shared.limit or now < shared.hosts.free_at(url):
            return False
        if not isinstance(self._target or self._candidate, Target):
            return False
        short = ShortWay(now)
        short.transfer = shared.transfers.start(
            self.options,
            url,
            0,
            None,
            trusted=True,
            fresh=False,
            sink=short,
            on_head=self._short_head,
            on_end=self._short_end,
        )
        self._short = short
        return True

    @contained
    def _short_head(self, head: Head) -> None:
        """Called by libcurl."""
        short, target = self._short, self._target or self._candidate
        now = monotonic()
        content = short_content(head, time()) if short is not None else None
        if short is None or content is None or not isinstance(target, Target) or not fits_memory(content.total):
            self._head(FIRST, head)
            return
        try:
            if target is self._candidate and target.disturbed():
                raise ExistsError("somebody was faster")
            target.begin(content, _one_row(content.total))
        except (FastidmError, OSError):
            self._head(FIRST, head)  # which tries the same, and says what is wrong
            return
        self._target = target
        short.answered(head, content, now, self._sink_into_memory(target))
        self._tell(Started(self._shown_url, target.path, content.total, 0, short.ranges))
        self._shared.soon(self)

    @contained
    def _short_end(self, code: int, message: str) -> None:
        short, target = self._short, self._target
        if (
            short is None
            or code
            or not short.complete
            or self._checksum is not None
            or not isinstance(target, Target)
            or not target.storable
        ):
            self._end_of(FIRST, code, message)
            return
        short.ended_at = monotonic()
        assert target.memory is not None
        self._shared.writers.write(target.final, target.memory, self._short_stored)

    @contained
    def _short_stored(self, error: int) -> None:
        short, target = self._short, self._target
        if short is None or error or not isinstance(target, Target):
            self._stored(Finish(self.machine.content.total or 0), error)
            return
        target.stored()
        self.ended = True
        self._shared.ended(self)
        size = short.size
        self._tell(Progress(self._shown_url, target.path, size, size, 0.0, None, 0, ((0, size, size),)))
        self._tell(self._result(target.path, size, short.content))

    def _leave_short_way(self, machine: TaskMachine, short: ShortWay) -> None:
        """The machine hears what has happened, in order; what it wishes each time was done when it happened."""
        self._short = None
        assert short.transfer is not None
        self._running[FIRST] = short.transfer
        self._probe_sink = short
        machine.start(short.begun, sent=True)
        machine.actions.clear()
        if short.sink is None or short.head is None or self._target is None:
            return
        machine.head(FIRST, short.head, short.head_at, time())
        table = self._target.table  # in memory alone
        written = bytes(table)
        table[:] = _one_row(short.size)  # as it was then
        self._load.begin(monotonic(), self._transfers.waited)
        machine.opened(SegmentTable(table), short.head_at)
        table[:] = written
        machine.actions.clear()
        self._mode = IoMode("pwrite", self._target.size, self.options.connections)
        self._checkpoints.start(0)
        self._sinks[FIRST] = short.sink
        if short.ended_at is None:
            return
        self._running.clear()
        self._sinks.clear()
        self._taken = short.size
        machine.ended(FIRST, Ended(received=short.size), short.ended_at)
        machine.compared(None, short.ended_at)
        machine.actions.clear()
        self._disk_busy = True

    # ------------------------------------------------------------------ what may be asked in every thread

    @property
    def status(self) -> DownloadStatus:
        """Where it is in its life."""
        if self._machine is not None:
            return self._machine.status
        if self.ended:
            return DownloadStatus.COMPLETED
        return DownloadStatus.PENDING if self._short is None else DownloadStatus.DOWNLOADING

    @property
    def error(self) -> FastidmError | None:
        """Why it failed; None otherwise."""
        return self._machine.error if self._machine is not None else None

    @property
    def received(self) -> int:
        """Bytes that were written when it was last looked at."""
        return self._machine.received if self._machine is not None else 0

    @property
    def total(self) -> int | None:
        """Length of the file; None while nobody knows."""
        return self._machine.content.total if self._machine is not None else None

    @property
    def speed(self) -> float:
        """Bytes per second, over the last seconds."""
        return self._machine.speed if self._machine is not None else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that are left at this speed; None when nobody can say."""
        return self._machine.eta if self._machine is not None else None

    @property
    def table(self) -> SegmentTable | None:
        """The segments, while there are any."""
        return self._machine.table if self._machine is not None else None

    # ------------------------------------------------------------------ what the engine calls

    @contained
    def start(self, now: float) -> None:
        """Look for what an earlier run left, and send the first request; nothing if it was stopped before it began."""
        if self._machine is not None and self._machine.phase is not Phase.PENDING:
            return
        try:
            resumed = self._look_for_part()
        except (FastidmError, OSError) as error:
            self.machine.fail(storage_error(error, self.options.output or self.options.directory))
        else:
            if resumed is None and self._take_short_way(now):
                return
            self.machine.start(now, resumed)
        self.perform(now)

    @contained
    def pause(self, now: float) -> None:
        """Stop; what was received is kept."""
        self.machine.pause()
        self.perform(now)

    @contained
    def fail(self, error: FastidmError, now: float) -> None:
        """Stop with `error`; what was received is kept."""
        self.machine.fail(error)
        self.perform(now)

    @contained
    def drop(self, now: float) -> None:
        """Stop, and keep nothing."""
        self._have_machine()
        self._worthless, self._kept = True, None
        self.pause(now)

    @contained
    def share(self, connections: int, now: float) -> None:
        """Have so many connections at most from now on."""
        self._share = connections
        if self._machine is not None:
            self._machine.connections.limit(connections)
            self.perform(now)

    @contained
    def turn(self, now: float) -> None:
        """Do what the machine wishes since something has happened."""
        self.perform(now)

    @contained
    def woke(self, now: float) -> None:
        """The machine was suspended."""
        self.machine.woke(now)
        self.perform(now)

    def abandon(self) -> None:
        """The engine ends while a disk job is still at work: that job closes the files, and nobody waits for it."""
        machine = self.machine
        self._abandoned = True
        self._hurry()
        if not self.ended:
            self.ended = True
            self._tell(Paused(self._shown_url, self.path, machine.received))

    @contained
    def tick(self, now: float, usual: float) -> None:
        """Let the machine look around, draw the progress, make a checkpoint. `usual`: bytes per second of an average task."""
        if self._short is not None and self._short.is_short(now):
            return
        machine = self.machine
        throttled = now - self._throttled_at < THROTTLE_MEMORY
        counts = {id: sink.received for id, sink in self._sinks.items()}
        load = self._load.measure(monotonic(), self._transfers.waited)
        rounds, self._rounds = self._transfers.rounds - self._rounds, self._transfers.rounds
        machine.tick(now, counts, throttled, self._queued(), load, rounds, usual)
        self.perform(now)
        if machine.phase is Phase.RECEIVING:
            if self._mode is not None:
                self._mode.choose(self._sinks.values())
            if self._seams and (at := self._broken_seam()) is not None:
                self.machine.compared(at, now)
            if self._target is not None:
                self._target.check_size(self.machine.received)
            self._checkpoint(now)
            self._claim()
        if now - self._shown_at >= EVENT_SECONDS and not self.machine.ended_for_good:
            self._shown_at = now
            self._tell_progress()

    @property
    def throttled(self) -> bool:
        """Whether a rate limit or the disk may hold it back: then `throttle` is to be called."""
        paced = self._target is not None and self._target.paced
        if self._machine is None:
            return bool(paced or self.limit or self._shared.limit)
        return bool(paced or self.limit or self._shared.limit or self._checkpoints.behind or self._held_back)

    def throttle(self, now: float) -> float | None:
        """Keep to the rate limit and the disk's pace: pause or go on.

        Returns the seconds until it must be called again, None if nothing holds it back now.
        """
        self._have_machine()
        wait = BEHIND_SECONDS if self._checkpoints.behind else 0.0
        received = self._taken + sum(sink.received for sink in self._sinks.values())
        fresh, self._counted = received - self._counted, received
        for limit in (self.limit, self._shared.limit):
            wait = max(wait, limit.wait(fresh, now))
        if self._target is not None and self.machine.table is not None:
            wait = max(wait, self._target.pace(self.machine.table.received()))
        self._held_back = wait > 0
        if wait > 0:
            self._throttled_at = now
        for id in self._sinks:
            transfer = self._running[id]
            if wait > 0:
                transfer.pause()
            elif transfer.paused:
                transfer.go_on()
        return max(wait, 0.005) if wait > 0 else None

    def perform(self, now: float) -> None:
        """Do what the machine wishes, until it wishes nothing more."""
        actions = self.machine.actions
        while actions:
            action = actions.pop(0)
            _PERFORM[type(action)](self, action)
        if self.machine.ended_for_good and not self.ended and not self._disk_busy:
            self._end()

    # ------------------------------------------------------------------ actions

    def _request(self, action: Request) -> None:
        id = action.connection
        sink: Callable[[Any], int | None]
        if self.machine.phase is Phase.RECEIVING:
            sink = self._sinks[id] = self._new_sink()
        else:
            sink = self._probe_sink = ProbeSink()
        self._running[id] = self._transfers.start(
            self.options,
            action.url,
            action.first,
            action.last,
            trusted=origin(action.url) == self._origin,
            fresh=action.fresh,
            sink=sink,
            on_head=partial(self._head, id),
            on_end=partial(self._end_of, id),
        )

    def _arm(self, action: Arm) -> None:
        """Storage is open: a body that waited may come."""
        transfer = self._running.get(action.connection)
        if transfer is None:
            return
        sink = self._sinks[action.connection] = self._new_sink()
        sink.arm(action.row, action.cursor, action.seam)
        transfer.receive_into(sink)
        transfer.go_on()
        self._shared.settle()

    def _cancel(self, action: Cancel) -> None:
        transfer = self._running.pop(action.connection, None)
        if transfer is not None:
            self._transfers.cancel(transfer)
        sink = self._sinks.pop(action.connection, None)
        if sink is not None:
            self._taken += sink.received
            sink.flush()
            self._retire(sink)

    def _open(self, action: Open) -> None:
        rows = action.rows
        self._checksum = self.options.checksum or (promised_digest(action.head) if self.span is WHOLE else None)
        try:
            if self._target is None:
                self._target = self._name(action.head)
                if self._target is not self._candidate or self._target.disturbed():
                    found = self._target.prepare()
                    if found is not None:
                        rows = self.machine.resume_after_probe(_resumed(found))
        except (FastidmError, OSError) as error:
            self.machine.fail(storage_error(error, self.path or ""))
            return
        target = self._target
        if rows is None and target.fits_memory(action.content.total):
            self._begin_in_memory(target, action)
        elif rows is None:
            begin = partial(target.begin, action.content, self.machine.rows_anew())
            self._on_disk(Phase.OPENING, begin, partial(self._opened, anew=True), brief=True)
        else:
            self._on_disk(Phase.OPENING, partial(target.resume, rows), partial(self._opened, anew=False))

    def _begin_in_memory(self, target: Target | Nameless, action: Open) -> None:
        try:
            target.begin(action.content, self.machine.rows_anew())
        except (FastidmError, OSError) as error:
            self._opened(None, error, anew=True)
        else:
            self._opened(None, None, anew=True)

    def _opened(self, result: object, error: BaseException | None, anew: bool) -> None:
        if self.machine.phase is not Phase.OPENING:
            return  # paused or failed meanwhile
        if error is not None:
            self.machine.fail(storage_error(error, self.path or ""))
            return
        target = self._target
        assert target is not None
        if anew:
            self._worthless, self._kept = False, None
        table = SegmentTable(target.table)
        self._mode = IoMode(self.options.io if target.map_allowed else "pwrite", target.size, self.options.connections)
        self._checkpoints.start(table.received())
        self._way_down = None
        if isinstance(target, Target) and target.has_journal and self.options.sync:
            self._way_down = WayDown(target, self._checkpoints.done)
        # Without ranges everything comes once more, and what an earlier run has kept serves only to compare.
        self._resumed = table.received() if self.machine.connections.ranges else 0
        self._tell(Started(self._shown_url, target.path, _known(target.size), self._resumed, self.machine.connections.ranges))
        now = monotonic()
        self._load.begin(now, self._transfers.waited)
        self._rounds = self._transfers.rounds
        self.machine.opened(table, now, self._queued())
        self._shared.soon(self)

    def _queued(self) -> dict[int, int]:
        """Connection -> bytes that have come for it and that it has not taken yet."""
        return {id: transfer.queued for id, transfer in self._running.items()}

    def _discard(self, action: Discard) -> None:
        """Nothing to do yet: `Target.begin` replaces what is there, once the server has said what it has instead."""
        self._resumed = 0
        self._seams.clear()
        self._worthless = action.worthless

    def _retire(self, sink: PureSink) -> None:
        self._seams.keep(sink.cursor - len(sink.beyond), sink.beyond)
        if self._mode is not None:
            self._mode.ended(sink)
        sink.close()

    def _withdraw(self, action: Withdraw) -> None:
        self._kept = action.rows

    def _compare(self, action: Compare) -> None:
        self.machine.compared(self._broken_seam(), monotonic())

    def _broken_seam(self) -> int | None:
        table, target = self.machine.table, self._target
        if table is None or target is None:
            return None
        try:
            return self._seams.broken(target.read, table.holds)
        except OSError as error:
            self.machine.fail(storage_error(error, self.path or ""))
            return None

    def _finish(self, action: Finish) -> None:
        target = self._target
        assert target is not None
        if not self._disk_busy and self._checksum is None and isinstance(target, Target) and target.storable:
            assert target.memory is not None
            self._disk_busy = True
            self._shared.writers.write(target.final, target.memory, partial(self._stored, action))
            return
        self._finish_on_disk(action)

    @contained
    def _stored(self, action: Finish, error: int) -> None:
        """A small file was written, or could not be: then the usual way finds out why, and says so."""
        if error == 0 and isinstance(self._target, Target):
            self._target.stored()
            self._worked(self._finished, None, None)
        else:
            self._worked(lambda *_: self._finish_on_disk(action), None, None)

    def _finish_on_disk(self, action: Finish) -> None:
        target = self._target
        assert target is not None
        stop = lambda: self.machine.phase is not Phase.FINISHING  # noqa: E731
        job = partial(target.finish, action.size, self._checksum, stop)
        self._on_disk(Phase.FINISHING, job, self._finished, brief=not self.options.sync and self._checksum is None)

    def _finished(self, result: object, error: BaseException | None) -> None:
        if error is None:
            self.machine.finished()
        elif self.machine.phase is Phase.FINISHING:
            self.machine.fail(storage_error(error, self.path or ""))

    def _notify(self, action: Notify) -> None:
        self._tell(Retrying(self._shown_url, action.reason, action.delay, action.failures))

    def _close(self, action: Close) -> None:
        if self._disk_busy:
            self._hurry()
            self._after_disk.append(partial(self._close, action))
        elif self._target is not None and self._kept is not None and self._target.has_journal:
            rows, self._kept = self._kept, None
            self._on_disk(self.machine.phase, partial(self._go_back, rows), lambda *_: self._close(action))
        elif self._target is not None:
            self._target.close(keep=not self._worthless)

    def _go_back(self, rows: bytes) -> None:
        """In the helper thread: what an earlier run wrote is kept, and what this one wrote is not."""
        assert self._target is not None
        try:
            self._target.resume(rows)
        except StorageError:
            self._target.close(keep=False)

    # ------------------------------------------------------------------ what connections tell

    @contained
    def _head(self, id: int, head: Head) -> None:
        """The head of an answer is complete. Called by libcurl: what the machine wishes is done later."""
        self._shared.wanting.append(self)
        now = monotonic()
        self.machine.note_load(self._load.glance(now, self._transfers.waited), now)
        place = self.machine.head(id, head, now, time())
        if isinstance(place, Arm) and self._target is not None and place.cursor < self._target.dropped:
            what = "the connection broke, and this server sends no parts: a stream cannot go on"
            self.machine.fail(NetworkError(what, "download it to a file"))
        elif isinstance(place, Arm):
            self._sinks[id].arm(place.row, place.cursor, place.seam)
        elif place is Place.HOLD:
            self._begin_at_once(id)

    def _begin_at_once(self, id: int) -> None:
        """Still called by libcurl. A file that fits into memory can begin without waiting for the disk: then libcurl need not
        be paused, which would make it copy what it has read already."""
        actions = self.machine.actions
        wish = actions[0] if len(actions) == 1 else None
        if not isinstance(wish, Open):
            return
        if not (self._target.fits_memory if self._target is not None else fits_memory)(wish.content.total):
            return
        actions.clear()
        self._open(wish)
        arm = actions[0] if actions else None
        if isinstance(arm, Arm) and arm.connection == id:
            actions.pop(0)
            sink = self._sinks[id] = self._probe_sink.sink = self._new_sink()
            sink.arm(arm.row, arm.cursor, arm.seam)

    @contained
    def _end_of(self, id: int, code: int, message: str) -> None:
        self._have_machine()
        now = monotonic()
        self._shared.wanting.append(self)
        self._running.pop(id, None)
        sink = self._sinks.pop(id, None)
        if sink is None:
            trouble, detail = trouble_of(code, message) if code else (None, "")
            end = Ended(trouble, detail)
        else:
            self._taken += sink.received
            end = replace(self._end_with_sink(sink, code, message), received=sink.received)
            self._retire(sink)
        self.machine.ended(id, end, now)

    def _end_with_sink(self, sink: PureSink, code: int, message: str) -> Ended:
        sink.flush()
        if sink.state == FAILED:
            if sink.mismatch >= 0:
                return Ended(mismatch=sink.mismatch)
            return Ended(error=storage_error(OSError(sink.errno, os.strerror(sink.errno)), self.path or ""))
        if code == 0 or sink.state == FULL:
            return Ended()
        trouble, detail = trouble_of(code, message)
        return Ended(trouble, detail)

    # ------------------------------------------------------------------ disk

    def _on_disk(
        self,
        phase: Phase,
        job: Callable[[], object],
        done: Callable[[object, BaseException | None], None],
        brief: bool = False,
    ) -> None:
        """Run `job` in a helper thread. One at a time: part file and journal belong to it until it is done.

        A job that had to wait is dropped if the task has left `phase` meanwhile: nobody may publish what has failed.
        """
        if self._disk_busy:
            self._hurry()
            self._after_disk.append(partial(self._on_disk, phase, job, done, brief))
            return
        if self.machine.phase is not phase:
            return
        self._disk_busy = True
        self._shared.background.submit(partial(self._work, job), partial(self._worked, done), brief)

    def _work(self, job: Callable[[], object]) -> object:
        """In the helper thread."""
        try:
            return job()
        finally:
            if self._abandoned and self._target is not None:
                self._target.close()

    @contained
    def _worked(
        self, done: Callable[[object, BaseException | None], None], result: object, error: BaseException | None
    ) -> None:
        self._disk_busy = False
        done(result, error)
        while self._after_disk and not self._disk_busy:
            self._after_disk.popleft()()
        self.perform(monotonic())

    def _claim(self) -> None:
        """A small file that has not come within a tick: other processes are to see that it is being downloaded."""
        target = self._target
        if target is not None and target.unclaimed and not self._disk_busy:
            self._on_disk(Phase.RECEIVING, target.claim, self._claimed)

    def _claimed(self, result: object, error: BaseException | None) -> None:
        if error is not None:
            self.machine.fail(storage_error(error, self.path or ""))

    def _checkpoint(self, now: float) -> None:
        target, table = self._target, self.machine.table
        way = self._way_down
        if target is None or table is None or way is None:
            return
        written = table.received()
        if self._checkpoints.due(written, now) and not way.asked:
            self._checkpoints.begun(written, now)
            # The snapshot is taken before the sync begins: bytes that arrive meanwhile are not in it (invariant I4).
            way.checkpoint(bytes(target.table), written)
        if not self._disk_busy and (way.asked or self._checkpoints.head_start_due(written)):
            self._on_disk(Phase.RECEIVING, way.run, self._brought_down)

    def _brought_down(self, told: object, error: BaseException | None) -> None:
        if error is not None:
            self.machine.fail(storage_error(error, self.path or ""))
        elif self.machine.table is not None:
            self._checkpoints.handed(self.machine.table.received(), bool(told))
            self._checkpoint(monotonic())

    def _hurry(self) -> None:
        """Somebody waits for the disk job that is at work."""
        if self._way_down is not None:
            self._way_down.hurry()

    def _sink_into_memory(self, target: Target) -> PureSink:
        return Sink(-1, target.table, target.size, self._shared.dirty, memory=target.memory)

    def _new_sink(self) -> PureSink:
        target, mode = self._target, self._mode
        assert target is not None and mode is not None
        hand_down = None if self._way_down is None else self._way_down.now
        return Sink(
            target.fd, target.table, target.size, self._shared.dirty, memory=target.memory, hand_down=hand_down,
            **mode.sink_settings(),
        )  # fmt: skip

    def _look_for_part(self) -> Resumed | None:
        """What an earlier run left under the name that is known before the server was asked."""
        if self._target is not None:
            return None  # in memory
        if self.options.output is not None:
            self._target = Target(_absolute(self.options.output), self.url, self.options)
            found = self._target.prepare()
        else:
            path = os.path.join(_absolute(self.options.directory), name_from_url(self.url))
            candidate = Target(path, self.url, self.options)
            try:
                found = candidate.prepare()
            except ExistsError:
                return None  # the server may have another name for it
            if found is None:
                self._candidate = candidate
            else:
                self._target = candidate
        return None if found is None else _resumed(found)

    def _name(self, head: Head) -> Target:
        """The target under the name that the server gives the file, or the URL's."""
        name = name_from_disposition(head.get("content-disposition") or "")
        if name is None and self._candidate is not None:
            return self._candidate
        path = os.path.join(_absolute(self.options.directory), name or name_from_url(self.url))
        return Target(path, self.url, self.options)

    # ------------------------------------------------------------------ what is told

    @property
    def path(self) -> str | None:
        return self._target.path if self._target is not None else None

    def _tell(self, event: Event) -> None:
        self._observer(event)

    def _tell_progress(self) -> None:
        machine, table = self.machine, self.machine.table
        self._tell(
            Progress(
                self._shown_url,
                self.path,
                machine.content.total,
                table.received() if table is not None else 0,
                machine.speed,
                machine.eta,
                len(machine.connections.busy),
                table.snapshot() if table is not None and machine.content.total is not None else (),
            )
        )

    def _end(self) -> None:
        self.ended = True
        self._shared.ended(self)
        machine = self.machine
        if machine.phase is Phase.COMPLETED:
            self._tell_progress()
            assert machine.table is not None and self.path is not None
            there = machine.connections
            final_url = self._shown_url if there.url == self.url else redact(there.url)
            size = machine.table.size
            self._tell(self._result(self.path, size, machine.content, self._resumed, there.peak, there.lost, final_url))
        elif machine.error is not None:
            error = machine.error
            self._tell(Failed(self._shown_url, error.name, error.exit_code, error.message, error.hint))
        else:
            self._tell(Paused(self._shown_url, self.path, machine.table.received() if machine.table is not None else 0))
        # Whoever keeps the task must not keep the journal's mapped pages with it.
        machine.table = machine.connections.table = None

    def _result(
        self,
        path: str,
        size: int,
        content: Content,
        resumed: int = 0,
        connections: int = 1,
        retries: int = 0,
        final_url: str | None = None,
    ) -> Finished:
        seconds = monotonic() - self._begun
        received = size - resumed
        checksum = self._checksum
        return Finished(
            url=self._shown_url,
            path=path,
            size=size,
            seconds=seconds,
            rate=received / seconds if seconds > 0 else 0.0,
            received=received,
            resumed=resumed,
            connections=connections,
            retries=retries,
            checksum=f"{checksum[0]}:{checksum[1]}" if checksum else None,
            length_unverified=content.total is None,
            final_url=final_url or self._shown_url,
            validator=content.etag or content.last_modified,
        )


_PERFORM: dict[type, Callable[..., None]] = {
    Request: RunningTask._request,
    Arm: RunningTask._arm,
    Cancel: RunningTask._cancel,
    Open: RunningTask._open,
    Discard: RunningTask._discard,
    Withdraw: RunningTask._withdraw,
    Compare: RunningTask._compare,
    Finish: RunningTask._finish,
    Notify: RunningTask._notify,
    Close: RunningTask._close,
}


def _resumed(found: Resumable) -> Resumed:
    from fastidm.storage.journal import ROWS

    return Resumed(found.content, tuple(found.claims), found.same_url, ROWS)


def _one_row(size: int | None) -> bytes:
    """The segment table of a file of `size` bytes of which nothing is written, in one segment."""
    return bytes(tile(size or 0, (), 1))


def _absolute(path: str) -> str:
    """`path` from the root, unless the folder that it is relative to is gone. A slash at its end stays."""
    try:
        return path if os.path.isabs(path) else os.path.normpath(os.path.join(os.getcwd(), path)) + "/" * path.endswith("/")
    except OSError:
        return path


def _known(size: int) -> int | None:
    return size if size >= 0 else None
