"""A server with habits that no proper server has: raw sockets, a thread for each connection.

Rules of this module: one habit is one small function of an `Exchange`, one request and the answer to it. Every exchange is
in the server's log, `exchanges`, before its habit is called. A habit never sleeps: it sends, it resets, or it holds until
something happens. `stop` shuts every socket, so whatever waits ends.

    def refuses(exchange: Exchange) -> None:
        exchange.answer(403)

    with OddServer(refuses) as server: ...
"""

from __future__ import annotations

import base64
import fcntl
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Self

SECONDS = 15.0
"""Longest wait for anything that a test expects."""
SLICE = 16384

PHRASES = {200: "OK", 206: "Partial Content", 302: "Found", 503: "Service Unavailable"}


class Gone(Exception):
    """Ends a habit and its connection; the server stops, or the habit closed the connection."""


class Exchange:
    """One request, and its answer as far as it has gone."""

    def __init__(self, server: OddServer, connection: socket.socket, number: int, head: str, rest: bytes) -> None:
        first, *lines = head.split("\r\n")
        self.server = server
        self.connection = connection
        self.number = number
        """Equal for requests that came over the same connection."""
        self.head_text = head
        self.method, self.target, _ = first.split(" ")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.rest = rest
        """What came behind the head; only a tunnel has something here."""
        self.status = 0
        self.sent = 0
        """Bytes of body."""

    def __repr__(self) -> str:
        return f"<{self.method} {self.target} {self.headers.get('range', '-')}: {self.status}, {self.sent} bytes>"

    @property
    def first(self) -> int | None:
        """The first byte asked for, None without a Range."""
        return self._range()[0]

    @property
    def last(self) -> int | None:
        """The last byte asked for, None for "to the end"."""
        return self._range()[1]

    def _range(self) -> tuple[int | None, int | None]:
        span = self.headers.get("range", "").removeprefix("bytes=")
        first, _, last = span.partition("-")
        return (int(first) if first else None), (int(last) if last else None)

    def head(self, status: int, *lines: str) -> None:
        """Send the head of an answer; `lines` are its fields."""
        self.status = status
        text = "\r\n".join((f"HTTP/1.1 {status} {PHRASES.get(status, 'Word')}", *lines, "", ""))
        self.connection.sendall(text.encode("latin-1"))

    def send(self, data: bytes | memoryview) -> None:
        """Send some of the body."""
        self.connection.sendall(data)
        self.sent += len(data)

    def answer(self, status: int, *lines: str, body: bytes = b"") -> None:
        """Send a whole answer with its Content-Length."""
        self.head(status, f"Content-Length: {len(body)}", *lines)
        self.send(body)

    def close(self) -> NoReturn:
        """End the connection in good order, wherever the answer is."""
        raise Gone

    def reset(self) -> NoReturn:
        """End the connection by RST. What has been sent reaches the client first."""
        self.wait_until_sent()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone

    def hold(self) -> NoReturn:
        """Be silent until the client goes away or the server stops."""
        while self.connection.recv(SLICE):
            pass
        raise Gone

    def gone(self) -> bool:
        """Whether the client has closed the connection."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def wait_until_sent(self) -> None:
        """Return when the client's kernel has everything that was sent."""
        deadline = time.monotonic() + SECONDS
        while struct.unpack("i", fcntl.ioctl(self.connection, termios.TIOCOUTQ, b"\0\0\0\0"))[0]:
            if self.server.stopping or time.monotonic() > deadline:
                raise Gone
            time.sleep(0.001)  # the kernel sends no event for this


Habit = Callable[[Exchange], None]


class OddServer:
    """Listens on 127.0.0.1 and does with each request what `habit` (may be changed at any time) says.

    Parameter: `tls`, (certificate chain, key), files; then `url` begins with https.
    """

    def __init__(self, habit: Habit, tls: tuple[str, str] | None = None) -> None:
        self.habit = habit
        self._tls: ssl.SSLContext | None = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*tls)
        self.exchanges: list[Exchange] = []
        """All requests so far, in the order in which they came."""
        self.stopping = False
        self._changed = threading.Condition()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        """The root of the server, without a slash at its end."""
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Shut every connection and end every thread; harmless when done before."""
        with self._changed:
            self.stopping = True
            self._listener.shutdown(socket.SHUT_RDWR)
            for connection in self._open.values():
                _shut(connection)
            self._changed.notify_all()
        self._acceptor.join()
        for thread in list(self._open):
            thread.join()
        self._listener.close()

    def hang_up(self) -> None:
        """Shut every connection; new ones are served."""
        with self._changed:
            for connection in self._open.values():
                _shut(connection)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Return when `condition()`, which may look at anything that `notify` is called after, is true."""
        with self._changed:
            happened = self._changed.wait_for(lambda: self.stopping or condition(), SECONDS)
        if self.stopping:
            raise Gone
        assert happened, f"not within {SECONDS:g} s: {what}; requests: {self.exchanges}"

    def wait_for_requests(self, count: int) -> list[Exchange]:
        """The exchanges, as soon as there are `count`."""
        self.wait_for(lambda: len(self.exchanges) >= count, f"{count} requests")
        return list(self.exchanges)

    def notify(self) -> None:
        """Something that others wait for has changed."""
        with self._changed:
            self._changed.notify_all()

    def of(self, target: str) -> list[Exchange]:
        """The exchanges for one target."""
        return [exchange for exchange in self.exchanges if exchange.target == target]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                if self.stopping:
                    connection.close()
                    return
                self._connections += 1
                thread = threading.Thread(target=self._converse, args=(connection, self._connections))
                self._open[thread] = connection
                thread.start()

    def _converse(self, connection: socket.socket, number: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with suppress(Gone, OSError):
                if self._tls:
                    connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                    self._open[threading.current_thread()] = connection
                    connection.do_handshake()
                while (exchange := self._next(connection, number)) is not None:
                    with self._changed:
                        self.exchanges.append(exchange)
                        self._changed.notify_all()
                    self.habit(exchange)
        finally:
            with self._changed:
                del self._open[threading.current_thread()]
                connection.close()
                self._changed.notify_all()

    def _next(self, connection: socket.socket, number: int) -> Exchange | None:
        data = b""
        while b"\r\n\r\n" not in data:
            block = connection.recv(SLICE)
            if not block:
                return None
            data += block
        head, _, rest = data.partition(b"\r\n\r\n")
        return Exchange(self, connection, number, head.decode("latin-1"), rest)


class File:
    """The good habit: serve `data`, whole or in parts, as RFC 9110 says. Others are made of its pieces.

    Parameters: `etag`, with its quotes, or None; `modified`, Last-Modified or None; `lines`, further fields of every answer.
    """

    def __init__(
        self, data: bytes, *, etag: str | None = '"1"', modified: str | None = None, lines: tuple[str, ...] = ()
    ) -> None:
        self.data = data
        self.lines = lines
        self.lines += (f"ETag: {etag}",) if etag else ()
        self.lines += (f"Last-Modified: {modified}",) if modified else ()

    def __call__(self, exchange: Exchange) -> None:
        exchange.send(self.head(exchange))

    def head(self, exchange: Exchange) -> memoryview:
        """Send the head of the right answer; returns the body that belongs to it."""
        start, total = exchange.first, len(self.data)
        if start is None:
            exchange.head(200, f"Content-Length: {total}", *self.lines)
            return memoryview(self.data)
        if start >= total:
            exchange.head(416, f"Content-Range: bytes */{total}", "Content-Length: 0", *self.lines)
            return memoryview(b"")
        stop = total if exchange.last is None else min(total, exchange.last + 1)
        span = f"Content-Range: bytes {start}-{stop - 1}/{total}"
        exchange.head(206, span, f"Content-Length: {stop - start}", *self.lines)
        return memoryview(self.data)[start:stop]


class Valve:
    """Lets the bodies of a server's answers pass as far as the test says, whoever they are for.

    Used as a habit: `OddServer(Valve(File(data)))`. `let(n)` gives n more bytes to all connections together, and
    `wait_until_used` returns when they have been sent. Not all of them need to have arrived, or to be of use.
    """

    def __init__(self, file: File, allowed: float = 0) -> None:
        self.file = file
        self.allowed = allowed
        self.sent = 0
        self._taken = 0
        self._server: OddServer | None = None

    def __call__(self, exchange: Exchange) -> None:
        self._server = exchange.server
        body = self.file.head(exchange)
        while body:
            size = self._take(exchange, min(len(body), SLICE))
            try:
                exchange.send(body[:size])
            except OSError:
                self._taken -= size
                raise
            self.sent += size
            exchange.server.notify()
            body = body[size:]

    def let(self, count: float) -> None:
        """Let `count` more bytes pass."""
        self.allowed += count
        if self._server is not None:
            self._server.notify()

    def wait_until_used(self, server: OddServer) -> None:
        """Return when all that may pass has been sent."""
        server.wait_for(lambda: self.sent >= self.allowed, f"the sending of {self.allowed} bytes")

    def _take(self, exchange: Exchange, most: int) -> int:
        taken = 0

        def some() -> bool:
            nonlocal taken
            if exchange.gone():  # nothing is spent on a client that was killed
                raise Gone
            taken = max(0, int(min(most, self.allowed - self._taken)))
            self._taken += taken
            return taken > 0

        exchange.server.wait_for(some, "the opening of the valve")
        return taken


class Gate:
    """Lets those bytes of a file pass that lie before the offset `until`, whoever they are for, and holds the others back.

    Unlike those of a `Valve`, these bytes arrive for certain, also when some of them are sent twice.
    """

    def __init__(self, file: File, until: float) -> None:
        self.file = file
        self.until = until
        self._server: OddServer | None = None

    def __call__(self, exchange: Exchange) -> None:
        self._server = exchange.server
        body, at = self.file.head(exchange), exchange.first or 0
        while body:
            exchange.server.wait_for(lambda at=at: exchange.gone() or at < self.until, "the opening of the gate")
            size = int(min(len(body), SLICE, self.until - at))
            if exchange.gone():
                raise Gone
            exchange.send(body[:size])
            body, at = body[size:], at + size

    def open(self, until: float = float("inf")) -> None:
        """Let everything pass, or everything up to another offset."""
        self.until = until
        if self._server is not None:
            self._server.notify()


class Limited:
    """Serves at most `most` requests at a time by `serve`; what comes beyond gets `refuse`.

    The first `most` bodies wait half-way until one request was refused, so that they are open together for certain.
    """

    def __init__(self, most: int, file: File, refuse: Habit) -> None:
        self.most = most
        self.file = file
        self.refuse = refuse
        self.active = 0
        self.peak = 0
        self.refused = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            full = self.active >= self.most
            if full:
                self.refused += 1
            else:
                self.active += 1
                self.peak = max(self.peak, self.active)
        exchange.server.notify()
        if full:
            self.refuse(exchange)
            return
        try:
            body = self.file.head(exchange)
            half = len(body) // 2
            exchange.send(body[:half])
            exchange.server.wait_for(lambda: self.refused, "a request beyond the limit")
            exchange.send(body[half:-1])
        finally:
            with self._lock:
                self.active -= 1  # before the last byte: the client may come back as soon as it has that
        exchange.send(body[-1:])


class Proxy:
    """The habit of a proxy: tunnels for CONNECT, and plain requests passed on.

    Parameter: `user`, `name:password` that it wants, or None.
    """

    def __init__(self, user: str | None = None) -> None:
        self.authorization = user and "Basic " + base64.b64encode(user.encode()).decode()

    def __call__(self, exchange: Exchange) -> None:
        if self.authorization and exchange.headers.get("proxy-authorization") != self.authorization:
            exchange.answer(407, 'Proxy-Authenticate: Basic realm="here"')
            return
        tunnel = exchange.method == "CONNECT"
        address, _, path = exchange.target.removeprefix("http://").partition("/")
        host, _, port = address.partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            if tunnel:
                exchange.head(200)
                upstream.sendall(exchange.rest)
            else:
                lines = exchange.head_text.split("\r\n")[1:]
                kept = [line for line in lines if not line.lower().startswith(("proxy-", "connection:"))]
                text = "\r\n".join((f"{exchange.method} /{path} HTTP/1.1", *kept, "Connection: close", "", ""))
                upstream.sendall(text.encode("latin-1"))
            _pump(exchange.connection, upstream)
        exchange.close()


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Pass on what comes, both ways, until either side ends."""
    ways = {one: other, other: one}
    while True:
        for ready in select.select(list(ways), [], [])[0]:
            data = ready.recv(1 << 16)
            if not data:
                return
            ways[ready].sendall(data)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
