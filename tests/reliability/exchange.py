"""One request to the fault server, the answer to it, and the knobs in its URL.

Rules of this module:

* A URL is `/KEY/FAULT/NAME?KNOBS`. `KEY` is the test's own: requests are counted for each key apart, so that one server serves
  all tests. `FAULT` names the handler (see `fault`), `NAME` is what a client may call the file.
* Every knob is a query parameter. `knob@2=x` is its value in phase 2, which begins with request number `switch=N` of the key,
  or when the test says so.
* A handler is a coroutine of an `Exchange`. It is only called for requests that are *struck*: those between number `from`
  and `until`, not more than `times`, that begin at byte `beyond` or later, and by chance (`odds`, drawn by `rng`); all others
  get the right answer. Without such knobs every request is struck.
* The content depends on `seed` and on the offset (see `tests.support.content`), so a misplaced byte is seen.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import NoReturn
from urllib.parse import parse_qs

from fastidm.demo.content import content

SLICE = 64 << 10
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Gone(Exception):
    """Ends the answer and its connection."""


@dataclass
class Record:
    """One line of the server's log."""

    number: int
    """Of this request among those of its key, from 1."""
    connection: int
    """Equal for requests that came over the same connection."""
    host: str
    """The address that the client had connected to."""
    method: str
    target: str
    headers: dict[str, str]
    begun: float
    status: int = 0
    sent: int = 0
    """Bytes of body that the kernel has taken."""
    ended: float | None = None

    @property
    def range(self) -> str:
        return self.headers.get("range", "")


@dataclass
class Book:
    """What the server remembers of one key."""

    records: list[Record] = field(default_factory=list)
    struck: int = 0
    active: int = 0
    """Answers whose body is being sent under a limit."""
    peak: int = 0
    phase: int = 1
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def sent(self) -> int:
        """Bytes of body, of all answers together."""
        return sum(record.sent for record in self.records)


class Knobs:
    """The query parameters of a request, read as what they are meant to be."""

    def __init__(self, query: str, phase: int = 1) -> None:
        self._values = parse_qs(query, keep_blank_values=True)
        self.phase = phase

    def all(self, name: str) -> list[str]:
        """Every value, of the latest phase that has the knob."""
        for phase in range(self.phase, 1, -1):
            if f"{name}@{phase}" in self._values:
                return self._values[f"{name}@{phase}"]
        return self._values.get(name, [])

    def text(self, name: str, default: str = "") -> str:
        return next(iter(self.all(name)), default)

    def number(self, name: str, default: float = 0) -> float:
        """A number, perhaps with k, M, G or T behind it."""
        text = self.text(name)
        unit = UNITS.get(text[-1:].lower(), 1)
        return float(text if unit == 1 else text[:-1]) * unit if text else default

    def size(self, name: str, default: int = 0) -> int:
        return int(self.number(name, default))


class Exchange(Knobs):
    """One request, and its answer as far as it has gone."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, book: Book, record: Record, fault: str, query: str
    ) -> None:
        super().__init__(query, book.phase)
        self.reader = reader
        self.writer = writer
        self.book = book
        self.record = record
        self.fault = fault
        for phase, number in enumerate(self.text("switch").split(","), 2):
            if number and record.number >= int(number):
                self.phase = max(self.phase, phase)
        self.keep = True
        """Whether another request may come over this connection."""
        self.total = self.size("size", 4 << 20)
        self.seed = self.size(f"seed.{record.host}", self.size("seed", 1))
        span = record.range.removeprefix("bytes=") if self.text("ranges", "yes") == "yes" else ""
        first, _, last = span.partition("-")
        self.first = int(first) if first else None
        self.last = int(last) if last else None
        self.struck = self._is_struck()

    def _is_struck(self) -> bool:
        number = self.record.number
        struck = (
            self.number("from", 1) <= number <= self.number("until", float("inf"))
            and self.book.struck < self.number("times", float("inf"))
            and (self.first or 0) >= self.number("beyond")
            and self.chance().random() < self.number("odds", 1)
        )
        self.book.struck += struck
        return struck

    def chance(self) -> Random:
        """Chance that is the same each time for the same `rng` and the same number of request."""
        return Random(f"{self.text('rng')}:{self.record.number}")

    # ------------------------------------------------------------------ what is asked for

    @property
    def start(self) -> int:
        """The first byte of the right answer."""
        return self.first or 0

    @property
    def stop(self) -> int:
        """The byte behind the last one of the right answer."""
        return self.total if self.last is None else min(self.total, self.last + 1)

    def piece(self, start: int, stop: int) -> bytes:
        """These bytes of the file."""
        return content(start, min(stop, self.total), self.seed)

    # ------------------------------------------------------------------ what is answered

    def fields(self) -> list[str]:
        """The fields of every answer that the knobs ask for: validators, type, name, and any `line`."""
        host, node = self.record.host, self.record.connection % 3
        pairs = (("ETag", "etag"), ("Last-Modified", "modified"), ("Content-Type", "type"), ("Content-Disposition", "name"))
        lines = [f"{name}: {self.text(knob)}" for name, knob in pairs if self.text(knob)]
        return [line.replace("{node}", str(node)).replace("{host}", host) for line in lines + self.all("line")]

    async def head(self, status: int, *lines: str, version: str = "1.1") -> None:
        """Send the head of an answer: `lines`, then those of `fields`."""
        self.record.status = status
        text = "\r\n".join((f"HTTP/{version} {status} Word", *lines, *self.fields(), "", ""))
        await self.raw(text.encode("latin-1", "replace"))

    async def part_head(self, start: int, stop: int, total: int | str | None = None) -> None:
        """The head of the part [start, stop)."""
        total = self.total if total is None else total
        await self.head(206, f"Content-Range: bytes {start}-{stop - 1}/{total}", f"Content-Length: {stop - start}")

    async def answer(self, status: int, *lines: str, body: bytes = b"") -> None:
        """A whole small answer."""
        await self.head(status, f"Content-Length: {len(body)}", *lines)
        if self.record.method != "HEAD":
            await self.send(body)

    async def raw(self, data: bytes) -> None:
        """Send bytes that are no body."""
        if self.writer.transport.is_closing():
            raise Gone
        self.writer.write(data)
        await self.writer.drain()

    async def send(self, data: bytes) -> None:
        """Send some of the body."""
        await self.raw(data)
        self.record.sent += len(data)

    async def body(self, start: int, stop: int, rate: float | None = None) -> None:
        """Send the bytes [start, stop) of the file, at `rate` bytes a second (None: the knob `rate`; 0: as fast as it goes)."""
        rate = self.number("rate") if rate is None else rate
        step = max(512, min(SLICE, int(rate / 50))) if rate else SLICE
        loop = asyncio.get_running_loop()
        begun, done = loop.time(), 0
        while start < stop:
            data = self.piece(start, min(start + step, stop))
            await self.send(data)
            start, done = start + len(data), done + len(data)
            if rate and (ahead := begun + done / rate - loop.time()) > 0:
                await asyncio.sleep(ahead)

    # ------------------------------------------------------------------ how it ends

    def close(self) -> NoReturn:
        """End the connection in good order, wherever the answer is."""
        raise Gone

    async def reset(self) -> NoReturn:
        """End the connection by RST, after what has been sent has arrived."""
        await self.arrived()
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise Gone

    async def arrived(self) -> None:
        """Return when the client's kernel has everything that was sent, after 5 s at the latest."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 5
        while loop.time() < deadline:
            if self.writer.transport.is_closing():
                raise Gone
            if not _unsent(self.link):
                return
            await asyncio.sleep(0.001)  # the kernel sends no event for this

    async def hold(self) -> NoReturn:
        """Be silent until the client goes away."""
        while await self.reader.read(SLICE):
            pass
        raise Gone

    async def end(self, how: str) -> NoReturn:
        """End the connection as `how` says: fin, reset, hold (silence), or tear (TLS without its close_notify)."""
        if how == "reset":
            await self.reset()
        elif how == "hold":
            await self.hold()
        elif how == "tear":
            self.writer.transport.abort()
        self.close()

    @property
    def link(self) -> socket.socket:
        found: socket.socket = self.writer.get_extra_info("socket")
        return found

    # ------------------------------------------------------------------ bodies of another kind

    def zipped(self) -> bytes:
        """The whole file, compressed."""
        return gzip.compress(self.piece(0, self.total), 1)


Handler = Callable[[Exchange], Awaitable[None]]
FAULTS: dict[str, Handler] = {}


def fault(handler: Handler) -> Handler:
    """Make a handler known under its name: `def shorter(...)` answers `/KEY/shorter/NAME`."""
    FAULTS[handler.__name__] = handler
    return handler


def _unsent(connection: socket.socket) -> int:
    """Bytes that the client's kernel does not have yet."""
    import fcntl
    import termios

    count: int = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    return count
