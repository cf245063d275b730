"""A world for one task without sockets, disk or clock: plays engine, server and part file, and time is a number.

Rules of this module:

* `World` does what `fastidm.running` does, in the same order: heads and bodies first, then ends, then disk jobs, then the tick;
  what the machine wishes meanwhile is performed afterwards. A cancelled connection may still bring bytes until then.
* `Server.answer` decides about each request when it is sent: the first rule that returns a `Reply` wins.
* Content never holds a zero byte and the part file is made of zeros, so a byte that was not written is never taken for right.
* After every step the rows tile the file and no more connections are open than the user allows.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

from fastidm.core.actions import (
    Action,
    Arm,
    Cancel,
    Close,
    Compare,
    Discard,
    Ended,
    Finish,
    Notify,
    Open,
    Request,
    Resumed,
    Withdraw,
)
from fastidm.core.phase import Phase
from fastidm.core.rate import TokenBucket
from fastidm.core.response import Content, Head
from fastidm.core.retry import Trouble
from fastidm.core.segments import ROW_BYTES, UNKNOWN, WORDS, SegmentTable
from fastidm.core.task import TaskMachine
from fastidm.errors import FastidmError, StorageError
from fastidm.options import Options

KIB, MIB = 1 << 10, 1 << 20
STEP = 0.01
TICK = 0.05
URL = "http://server.test/dir/file.bin"
ETAG, DATE = '"v1"', "Sun, 06 Nov 1994 08:49:37 GMT"
UTC = 1_700_000_000.0
"""Seconds since the epoch at `now` 0."""
SOCKET = 4 << 20
"""Bytes that the kernel holds for a connection that nobody reads."""
READ = 16 << 10
"""Bytes that are taken at once while a rate limit is in force."""
CAPACITY = 160
SMALL = 1 << 20
"""Bytes up to which a file has no journal."""


@cache
def content(size: int, version: int = 1) -> bytes:
    """The bytes of a remote file, the same for the same arguments."""
    return random.Random(version).randbytes(size).replace(b"\0", b"\1")


def claims_of(rows: bytes | bytearray) -> list[tuple[int, int]]:
    """What a table claims as written, read as strictly as a later run reads it: a row that cannot be claims nothing."""
    return [(a, p) for a, stop, p, _ in struct.iter_unpack("=4q", rows) if 0 <= a < p <= stop]


class Ask(NamedTuple):
    """One request as the server sees it: the `number`-th since the beginning; `others`, bodies that it is sending now."""

    number: int
    url: str
    first: int | None
    last: int | None
    others: int
    now: float


@dataclass(frozen=True)
class Reply:
    """What becomes of a request. No `status`: there is no head, but `trouble` after `latency`, or nothing at all."""

    status: int | None = None
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    latency: float = 0.02
    rate: float | Callable[[float], float] = 4.0 * MIB
    cut: int | None = None
    """Body bytes after which `trouble` comes, or silence when there is none."""
    trouble: Trouble | None = None

    @property
    def end(self) -> int:
        """Body bytes that come."""
        return len(self.body) if self.cut is None else min(self.cut, len(self.body))

    def but(self, **changes: Any) -> Reply:
        """The same reply with some things different; `fields` given as a dict replace those of the same name."""
        fields = dict(self.fields) | changes.pop("fields", {})
        return replace(self, fields=tuple((k, v) for k, v in fields.items() if v is not None), **changes)


SILENCE = Reply()


def refusal(status: int, **fields: str) -> Reply:
    """An answer without content; field names with underscores."""
    return Reply(status, tuple((name.replace("_", "-"), value) for name, value in fields.items()))


def trouble(what: Trouble = Trouble.BROKEN, latency: float = 0.02) -> Reply:
    """No answer, but a trouble below HTTP."""
    return Reply(latency=latency, trouble=what)


Rule = Callable[[Ask], Reply | None]


class Server:
    """Has one file; well-behaved but for its `rules`.

    Parameters: `rate`, bytes per second of each connection; `latency`, seconds until the head; `ranges`, `length`: whether it
    sends parts, and says how long the file is.
    """

    def __init__(
        self,
        body: bytes,
        *rules: Rule,
        rate: float = 4.0 * MIB,
        latency: float = 0.02,
        etag: str | None = ETAG,
        modified: str | None = DATE,
        ranges: bool = True,
        length: bool = True,
    ) -> None:
        self.body, self.etag, self.modified = body, etag, modified
        self.rules = list(rules)
        self.rate, self.latency, self.ranges, self.length = rate, latency, ranges, length
        self.asked: list[Ask] = []
        self.sent = 0
        """Body bytes that have left it."""
        self.outages: list[tuple[float, float]] = []
        """From, to: nothing moves, requests vanish, and connections from before never wake up again."""

    def answer(self, ask: Ask) -> Reply:
        self.asked.append(ask)
        if self.away(ask.now):
            return SILENCE
        return next((reply for rule in self.rules if (reply := rule(ask)) is not None), None) or self.usual(ask)

    def usual(self, ask: Ask) -> Reply:
        """The answer that RFC 9110 wants."""
        if ask.first is None or not self.ranges:
            return self.whole()
        if ask.first >= len(self.body):
            return refusal(416, content_range=f"bytes */{len(self.body)}")
        return self.part(ask.first, min(len(self.body), len(self.body) if ask.last is None else ask.last + 1))

    def whole(self) -> Reply:
        fields = self._fields({"content-length": str(len(self.body)) if self.length else None})
        return Reply(200, fields, self.body, self.latency, self.rate)

    def part(self, start: int, stop: int) -> Reply:
        """Bytes [start, stop)."""
        span = f"bytes {start}-{stop - 1}/{len(self.body)}"
        fields = self._fields({"content-range": span, "content-length": str(stop - start)})
        return Reply(206, fields, self.body[start:stop], self.latency, self.rate)

    def away(self, now: float) -> bool:
        return any(since <= now < until for since, until in self.outages)

    def dead(self, born: float, now: float) -> bool:
        """Whether a connection has lived into an outage."""
        return any(born < until and now >= since for since, until in self.outages)

    def _fields(self, own: dict[str, str | None]) -> tuple[tuple[str, str], ...]:
        fields = own | {"etag": self.etag, "last-modified": self.modified}
        return tuple((name, value) for name, value in fields.items() if value is not None)


class MemorySink:
    """The rules of `fastidm.storage.sink`, over a bytearray. `fill`: a segment ended; `broken`: the row is not what it was."""

    def __init__(self, file: bytearray, table: bytearray) -> None:
        self._file, self._words = file, memoryview(table).cast("q")
        self.row: int | None = None
        self.cursor = self.received = 0
        self.mismatch = -1
        self.broken = self.full = self.crossing = False
        self.seam, self.beyond = 0, b""

    def arm(self, row: int, cursor: int, seam: int) -> None:
        start, stop, position = self._words[WORDS * row : WORDS * row + 3]
        assert self.row is None and 0 <= start <= position <= stop and 0 <= cursor <= position
        self.row, self.cursor, self.seam = row, cursor, seam

    def take(self, block: bytes) -> int:
        """The number of bytes taken; less than there are: the transfer is to end."""
        assert self.row is not None
        taken = 0
        while taken < len(block):
            if self.crossing:
                return taken + self._keep(block[taken:])
            start, stop, position = self._words[WORDS * self.row : WORDS * self.row + 3]
            if not 0 <= start <= position or position < self.cursor:
                self.broken = True
                return taken
            if self.cursor >= stop:
                self.crossing = self.seam > 0
                self.full = not self.crossing
                if self.full:
                    return taken
                continue
            limit = position if self.cursor < position else stop
            piece = block[taken : taken + limit - self.cursor]
            end = self.cursor + len(piece)
            if self.cursor < position:
                if not self._same(piece):
                    return taken
            else:
                self._file[self.cursor : end] = piece
                self._words[WORDS * self.row + 2], self._words[WORDS * self.row + 3] = end, ~end
            self.cursor = end
            self.received += len(piece)
            taken += len(piece)
        return taken

    def _keep(self, block: bytes) -> int:
        """Beyond the row's stop."""
        block = block[: self.seam - len(self.beyond)]
        self.beyond += block
        self.cursor += len(block)
        self.received += len(block)
        self.full = len(self.beyond) == self.seam
        return len(block)

    def _same(self, piece: bytes) -> bool:
        held = self._file[self.cursor : self.cursor + len(piece)]
        if held != piece:
            self.mismatch = self.cursor + next(i for i, byte in enumerate(held) if byte != piece[i])
        return held == piece


@dataclass
class Wire:
    """One connection under way."""

    request: Request
    reply: Reply
    born: float
    sink: MemorySink | None = None
    told: bool = False
    sent: int = 0
    credit: float = 0.0


class Remains(NamedTuple):
    """What a killed or stopped run leaves on disk."""

    content: Content
    table: bytes
    file: bytes

    def resumed(self, same_url: bool = True) -> Resumed:
        return Resumed(self.content, tuple(claims_of(self.table)), same_url, CAPACITY)


@dataclass
class World:
    """One task and its server. Further parameters: `left`, by an earlier run; `late`, found only when the name is known."""

    server: Server
    options: Options = field(default_factory=lambda: Options(connections=8))
    seed: int = 0
    left: Remains | None = None
    late: Remains | None = None
    same_url: bool = True
    disk: float = 0.03
    """Seconds that a job of the disk takes."""
    takes: int = SOCKET
    """Bytes that it takes of each connection in one step."""
    load: float = 0.0
    """Share of the time in which the loop does not wait."""
    rounds: int = 250
    """How often the loop looks for bytes from tick to tick."""
    usual: float = 0.0
    """Bytes per second of an average task."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.now = 0.0
        self.machine = TaskMachine(URL, self.options, self.chance.random)
        self.wires: dict[int, Wire] = {}
        self.file, self.table = bytearray(), bytearray()
        self.begun: Content | None = None
        self.notices: list[Notify] = []
        self.seams: list[tuple[int, bytes]] = []
        self.kept: bytes | None = None
        self.discards = self.closes = self.taken = 0
        self._jobs: list[tuple[float, Callable[[], None]]] = []
        self._next_tick = 0.0
        self._started = False
        self._bucket = TokenBucket(self.options.limit_rate or 1, self.now)
        self._held_back = False

    # ------------------------------------------------------------------ what tests call

    def start(self) -> World:
        self._started = True
        self.machine.start(self.now, self.left.resumed(self.same_url) if self.left else None)
        self.perform()
        return self

    def run(self, limit: float = 900.0, until: Callable[[], bool] = lambda: False) -> World:
        """Until the task has ended or `until` says so; it must do either before `limit` seconds have passed."""
        if not self._started:
            self.start()
        while not self.machine.ended_for_good and not until():
            assert self.now < limit, f"still {self.machine.phase} after {limit} s: {self.machine.connections.busy}"
            self.advance()
        return self

    def run_for(self, seconds: float) -> World:
        end = self.now + seconds
        return self.run(end + 1, lambda: self.now >= end)

    def download(self, limit: float = 900.0) -> World:
        """Run to the end, which must be the right file."""
        self.run(limit)
        assert self.machine.phase is Phase.COMPLETED, repr(self.machine.error)
        assert self.file == self.server.body, "the file is wrong"
        return self

    def fail(self, limit: float = 900.0) -> FastidmError:
        """Run to the end, which must be an error; what is claimed then is right all the same."""
        self.run(limit)
        assert self.machine.phase is Phase.FAILED
        assert self.machine.error is not None
        return self.machine.error

    def remains(self) -> Remains:
        """What SIGKILL leaves at this instant. A file that needs no journal leaves nothing."""
        assert self.begun is not None and self.begun.total is not None and self.begun.total > SMALL
        return Remains(self.begun, bytes(self.table), bytes(self.file))

    @property
    def received(self) -> int:
        return self.machine.table.received() if self.machine.table else 0

    # ------------------------------------------------------------------ one step of the loop

    def advance(self) -> None:
        self.now += STEP
        ids = list(self.wires)
        self.chance.shuffle(ids)
        held_back = self.options.limit_rate is not None and self._bucket.wait(self.now) > 0
        self._held_back |= held_back
        ends = [(id, end) for id in ids if (end := self._work(id, self.wires[id], held_back)) is not None]
        for id, end in ends:
            wire = self.wires.pop(id)
            received = wire.sink.received if wire.sink else 0
            self._retire(wire)
            self.machine.ended(id, replace(end, received=received), self.now)
        jobs, self._jobs = self._jobs, []
        for due, job in jobs:
            if due > self.now:
                self._jobs.append((due, job))
            else:
                job()
                self.perform()
        if self.now >= self._next_tick:
            self._next_tick = self.now + TICK
            counts = {id: wire.sink.received for id, wire in self.wires.items() if wire.sink}
            self.machine.tick(self.now, counts, self._held_back, self._queued(), self.load, self.rounds, self.usual)
            self._held_back = False
            if self.machine.phase is Phase.RECEIVING and (at := self._broken_seam()) is not None:
                self.machine.compared(at, self.now)
        self.perform()
        self._check()

    def _work(self, id: int, wire: Wire, held_back: bool) -> Ended | None:
        """Let one connection get on; returns how it ended, if it did. `held_back`: a rate limit allows no bytes now."""
        reply = wire.reply
        if self.server.dead(wire.born, self.now):
            return None
        if not wire.told and self.now - wire.born >= reply.latency:
            if reply.status is None:
                return Ended(reply.trouble) if reply.trouble else None
            wire.told = True
            self.machine.note_load(self.load, self.now)
            place = self.machine.head(id, Head(reply.status, reply.fields), self.now, UTC + self.now)
            if isinstance(place, Arm):
                assert wire.sink is not None, "a body was placed before the storage was open"
                wire.sink.arm(place.row, place.cursor, place.seam)
        elif wire.told:
            wire.credit += STEP * (reply.rate(self.now) if callable(reply.rate) else reply.rate)
            if not held_back and wire.sink is not None and wire.sink.row is not None:
                most = READ if self.options.limit_rate else self.takes
                block = reply.body[wire.sent : wire.sent + min(most, self._there(wire))]
                wire.credit -= len(block)
                wire.sent += len(block)
                self.server.sent += len(block)
                self._bucket.take(len(block), self.now)
                if wire.sink.take(block) < len(block):
                    return _cut_short(wire.sink)
                if wire.sent == reply.end < len(reply.body):
                    return Ended(reply.trouble) if reply.trouble else None
            wire.credit = min(wire.credit, SOCKET)
        return Ended() if wire.told and wire.sent == len(reply.body) and reply.cut is None else None

    def _there(self, wire: Wire) -> int:
        """Bytes that have come for a connection and that it has not taken: they go on coming while nobody takes them."""
        return min(int(wire.credit), wire.reply.end - wire.sent) if wire.told else 0

    def _queued(self) -> dict[int, int]:
        return {id: self._there(wire) for id, wire in self.wires.items()}

    def perform(self) -> None:
        actions = self.machine.actions
        while actions:
            self._perform(actions.pop(0))

    def _perform(self, action: Action) -> None:
        assert not self.closes or isinstance(action, Cancel), f"{action} after the end"
        match action:
            case Request(id, url, first, last):
                others = sum(1 for w in self.wires.values() if w.reply.status in (200, 206))
                reply = self.server.answer(Ask(len(self.server.asked) + 1, url, first, last, others, self.now))
                sink = MemorySink(self.file, self.table) if self.machine.phase is Phase.RECEIVING else None
                self.wires[id] = Wire(action, reply, self.now, sink)
            case Arm(id, row, cursor, seam):
                if id in self.wires:
                    sink = self.wires[id].sink = MemorySink(self.file, self.table)
                    sink.arm(row, cursor, seam)
            case Cancel(id):
                self._retire(self.wires.pop(id, None))
            case Open():
                self._open(action)
            case Discard():
                self.discards += 1
                self.file, self.table, self.left, self.late = bytearray(), bytearray(), None, None
                self.seams.clear()
            case Withdraw(rows):
                self.kept = rows
            case Compare():
                self.machine.compared(self._broken_seam(), self.now)
            case Finish(size):
                self._later(lambda: self._finish(size))
            case Notify():
                self.notices.append(action)
            case Close():
                self.closes += 1
                if self.kept is not None:
                    self.table[:] = self.kept

    def _retire(self, wire: Wire | None) -> None:
        if wire is not None and wire.sink is not None:
            self.taken += wire.sink.received
            if wire.sink.beyond:
                self.seams.append((wire.sink.cursor - len(wire.sink.beyond), wire.sink.beyond))

    def _broken_seam(self) -> int | None:
        seams, self.seams = self.seams, []
        for start, kept in seams:
            if self.machine.table is None or not self.machine.table.holds(start, start + len(kept)):
                self.seams.append((start, kept))
            elif (held := self.file[start : start + len(kept)]) != kept:
                return start + next(i for i, byte in enumerate(held) if byte != kept[i])
        return None

    def _open(self, action: Open) -> None:
        rows, left = action.rows, self.left
        if self.late is not None:
            left = self.late
            try:
                rows = self.machine.resume_after_probe(left.resumed())
            except FastidmError as error:
                self.machine.fail(error)
                return
        if rows is None or left is None:
            self._later(lambda: self._opened(action.content, None, b""))
        else:
            begun, old = left.content, left.file
            self._later(lambda: self._opened(begun, rows, old))

    def _opened(self, content: Content, rows: bytes | None, old: bytes) -> None:
        if self.machine.phase is not Phase.OPENING:
            return
        self.begun, size, self.kept = content, content.total, None
        self.file = bytearray(old or size or 0)
        rows = rows or self.machine.rows_anew()
        self.table = bytearray(rows.ljust(0 if size is None or size <= SMALL else ROW_BYTES * CAPACITY, b"\0"))
        self.machine.opened(SegmentTable(self.table), self.now, self._queued())

    def _finish(self, size: int) -> None:
        if self.machine.phase is Phase.FINISHING:
            assert size == len(self.file)
            self.machine.finished()

    def _later(self, job: Callable[[], None]) -> None:
        self._jobs.append((self.now + self.disk, job))

    def _check(self) -> None:
        assert len(self.wires) <= self.options.connections, "more connections than the user allows"
        if self.machine.table is not None and self.table:
            at = 0
            for start, stop, position, _ in sorted(r for r in struct.iter_unpack("=4q", self.table) if r[1] > 0):
                assert start == at and start <= position <= stop, "the rows do not tile the file"
                at = stop
            assert at in (len(self.file), UNKNOWN) or self.begun is None or self.begun.total is None
        if self.machine.ended_for_good:
            assert self.closes == 1 and not self.wires, "something is still open at the end"
            for start, stop in claims_of(self.table):
                assert 0 not in self.file[start:stop], "a byte is claimed that was not written"


def _cut_short(sink: MemorySink) -> Ended:
    if sink.mismatch >= 0:
        return Ended(mismatch=sink.mismatch)
    return Ended(error=StorageError("the row is broken")) if sink.broken else Ended()
