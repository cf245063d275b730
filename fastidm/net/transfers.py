"""Requests under way: one CurlMulti, driven by readiness, never by polling.

Rules of this module:

* `socket_action` with epoll, or poll where there is none. `CurlMulti.select` stalls up to seconds on TLS and breaks beyond 1024
  descriptors; `selectors` would take three calls of Python for each of ours, and libcurl makes two for each request.
* Rounds are moderated as a network card does its interrupts: while nothing but bodies come, a round that would begin too soon
  after the one before rests first. A loop that is a little faster than the server would else fetch each record by itself.
* Everything happens in the thread that calls `wait`, except `wake`, which any thread and any signal handler may call.
* libcurl's callbacks run inside `wait` and must not start or cancel transfers; whoever decides there queues it for afterwards.
* Handles are reused: making one costs more than a request.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterable
from fcntl import ioctl
from functools import lru_cache, partial
from math import ceil
from termios import FIONREAD
from threading import RLock, Thread
from time import monotonic, sleep

from fastidm.core.response import Head
from fastidm.net.curl import pycurl
from fastidm.net.setup import aim, configure
from fastidm.options import Options

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Any

    Sink = Callable[[Any], int | None]

MOST_SOCKETS = 256
"""Connections that are kept open at most, those that wait for their next request included."""
USUAL_LINE = 256
"""Bytes of a header line that may be remembered. A longer one may be what a server fills our memory with."""
REST = 0.0002
"""Seconds from one round to the next, at least. 1 GiB over loopback took 0.44 s (0.43 to 0.47), and without rests 0.48 s
(0.44 to 0.69); with rests of 0.5 ms it took a tenth longer over TLS (measured)."""
LOOKUP_PATIENCE = 0.5
"""Seconds that `close` waits for a name that is still being looked up."""

class Transfer:
    """One request under way. Made by `Transfers.start`."""

    __slots__ = ("_head_done", "_lines", "curl", "distrusted", "on_end", "on_head", "paused")

    def __init__(self, curl: pycurl.Curl, on_head: Callable[[Head], None], on_end: Callable[[int, str], None]) -> None:
        self.curl = curl
        self.on_head = on_head
        self.on_end = on_end
        self.paused = False
        self.distrusted = False
        """It was given a used connection on which more had come than was asked for."""
        self._lines: list[bytes] = []
        self._head_done = False

    def receive_into(self, sink: Sink) -> None:
        """Give the body another sink; not from within a callback."""
        self.curl.setopt(pycurl.WRITEFUNCTION, sink, use_memoryview=True)

    def let_go(self) -> None:
        """It has ended; its handle may keep it until the next request, and nobody else with it."""
        self.on_head = self.on_end = _to_nobody

    def pause(self) -> None:
        """Receive nothing more for now; the server feels it through TCP."""
        if not self.paused:
            self.paused = self._pause(pycurl.PAUSE_RECV)

    def go_on(self) -> None:
        """Receive again, after `pause` or after a sink has answered PAUSE."""
        self.paused = False
        self._pause(pycurl.PAUSE_CONT)

    @property
    def queued(self) -> int:
        """Bytes that have come for it and that libcurl has not read yet; 0 without a connection, and within a callback."""
        try:
            fd = self.curl.getinfo(pycurl.ACTIVESOCKET)
            return int.from_bytes(ioctl(fd, FIONREAD, bytes(4)), sys.byteorder) if fd >= 0 else 0
        except (OSError, pycurl.error):
            return 0

    def _pause(self, how: int) -> bool:
        """Whether libcurl did it: it does not while there is no connection yet, or no more."""
        try:
            self.curl.pause(how)
        except pycurl.error:
            return False
        return True

    def _header(self, line: bytes) -> None:
        if self._head_done:
            return
        if line not in (b"\r\n", b"\n"):
            self._lines.append(line)
            return
        head = parse_head(self._lines)
        self._lines = []
        if head.status >= 200:
            self._head_done = True
            self.on_head(head)


def _to_nobody(*_: object) -> None:
    """What is told of a transfer that has ended."""


def parse_head(lines: list[bytes]) -> Head:
    """The head that these header lines (status line first) make. A line that is no field is passed over."""
    words = lines[0].split(None, 2) if lines else []
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    fields = [_known_field(line) if len(line) < USUAL_LINE else _field(line) for line in lines[1:]]
    return Head(status, tuple(filter(None, fields)))


@lru_cache(maxsize=256)  # most lines of a server's answers are the same each time
def _known_field(line: bytes) -> tuple[str, str] | None:
    return _field(line)


def _field(line: bytes) -> tuple[str, str] | None:
    name, colon, value = line.decode("latin-1").partition(":")
    return (name.strip().lower(), value.strip()) if colon else None


class Transfers:
    """All requests of the process' engine.

    Parameters: `settle`, called after every piece of work that libcurl did, to write out what the sinks have gathered;
    `sockets`, connections at most that may be kept open.
    """

    def __init__(self, settle: Callable[[], None], sockets: int = MOST_SOCKETS) -> None:
        self._settle = settle
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        # Over HTTP/2 and 3 as over 1.1: each request has a connection, and so a window, of its own.
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_NOTHING)
        self._multi.setopt(pycurl.M_MAXCONNECTS, min(sockets, MOST_SOCKETS))
        self._ready = select.epoll() if hasattr(select, "epoll") else _Poll()
        self._watched: set[int] = set()
        """Descriptors that `_ready` knows, but for the one of `wake`."""
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        # Re-entrant: a signal handler may interrupt `wake` in its own thread. Whoever wakes late, a disk job above all, must
        # not write into a descriptor that belongs to somebody else by then.
        self._wake_lock = RLock()
        self._ready.register(self._wake_read, select.POLLIN)
        self._woken = False
        self.waited = 0.0
        """Seconds in which it had nothing to do, in all."""
        self.rounds = 0
        """How often it has looked for something to do."""
        self._timer_at: float | None = None
        self._round_at = 0.0
        """When the last round began."""
        self._flowing = False
        """Whether libcurl has waited for the same since the last round: then nothing but bodies comes."""
        self._active: dict[pycurl.Curl, Transfer] = {}
        self._idle: list[pycurl.Curl] = []
        self._configured: dict[pycurl.Curl, tuple[Options, bool]] = {}
        """Handles that need not be told everything again for a request with the very same options, trusted or not."""
        self._used: dict[int, int] = {}
        """Local port of a connection -> its descriptor, once it had a request."""
        self._unnamed: dict[int, None] = {}
        """Descriptors that libcurl has begun to wait for and whose port nobody has asked for since, in that order."""
        self._framed: set[int] = set()
        """Local ports of connections whose last answer came over HTTP/2 or 3."""
        self._versions: set[str] = set()
        """The HTTP versions that were asked for."""
        self._failure: BaseException | None = None

    def start(
        self,
        options: Options,
        url: str,
        first: int | None,
        last: int | None,
        *,
        trusted: bool,
        fresh: bool,
        sink: Sink,
        on_head: Callable[[Head], None],
        on_end: Callable[[int, str], None],
    ) -> Transfer:
        """Send a request.

        Parameters as in `net.setup.configure`; `fresh`, over a new connection; `sink`, where the body goes (it waits while
        `sink` answers CURL_WRITEFUNC_PAUSE); `on_head(head)`, called when the head is complete; `on_end(code, message)`, called
        from `wait` when the transfer has ended, with libcurl's code (0: the whole body came).
        """
        curl = self._idle.pop() if self._idle else pycurl.Curl()
        transfer = Transfer(curl, self._guarded(on_head), on_end)
        known, with_trust = self._configured.pop(curl, (None, False))
        common = not (options.cookie_file or options.netrc or "@" in url)  # else it would hold what is for one server alone
        if common and known is options and with_trust is trusted:
            aim(curl, url, first, last)
        else:
            curl.reset()
            curl.setopt(pycurl.COOKIELIST, "ALL")  # a reset keeps the cookies, and the next task may be another's
            configure(curl, options, url, first, last, trusted=trusted)
        if common:
            self._configured[curl] = options, trusted
        # Where HTTP/2 may be spoken libcurl would be content with a connection that is open and speaks HTTP/1.1.
        self._versions.add(options.http)
        mixed = len(self._versions) > 1 and options.http != "1.1"
        curl.setopt(pycurl.FRESH_CONNECT, int(fresh or mixed))
        curl.setopt(pycurl.HEADERFUNCTION, transfer._header)
        curl.setopt(pycurl.PREREQFUNCTION, partial(self._before_request, transfer))
        transfer.receive_into(sink)
        self._active[curl] = transfer
        self._multi.add_handle(curl)
        return transfer

    def cancel(self, transfer: Transfer) -> None:
        """End a transfer; its `on_end` is not called. Not from within a callback."""
        if self._active.pop(transfer.curl, None) is not None:
            # It was perhaps too slow, and over HTTP/2 and 3 libcurl would keep it.
            transfer.curl.setopt(pycurl.FORBID_REUSE, 1)
            self._configured.pop(transfer.curl, None)
            self._release(transfer.curl)
            transfer.let_go()

    def wait(self, timeout: float) -> None:
        """Let libcurl work until `timeout` seconds have passed, something has ended, or `wake` was called."""
        begun = monotonic()
        until = begun + timeout if self._timer_at is None else min(begun + timeout, self._timer_at)
        self._round_at = self._rest(begun, until)
        events = self._ready.poll(max(0.0, until - self._round_at))
        self.rounds += 1
        self.waited += monotonic() - begun
        for fd, mask in events:
            if fd == self._wake_read:
                self._drain()
                continue
            # An error or a hang-up is for libcurl to find out, whatever it waits for.
            action = (pycurl.CSELECT_IN if mask & ~select.POLLOUT else 0) | (
                pycurl.CSELECT_OUT if mask & ~select.POLLIN else 0
            )
            self._multi.socket_action(fd, action)
            self._settle()
        if self._timer_at is not None and monotonic() >= self._timer_at:
            self._timer_at = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            self._settle()
        self._reap()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _rest(self, now: float, until: float) -> float:
        """Let more bytes come before they are looked for; the time afterwards."""
        rest = min(self._round_at + REST, until) - now
        rests = self._flowing and not self._woken and rest > REST / 8
        self._flowing = True
        if not rests:
            return now
        sleep(rest)
        return monotonic()

    def wake(self) -> None:
        """Make `wait` return soon; after `close`, do nothing. Safe in every thread and in signal handlers."""
        with self._wake_lock:
            if self._wake_write >= 0 and not self._woken:
                self._woken = True
                os.write(self._wake_write, b"\0")

    @property
    def wake_fd(self) -> int:
        """Where a byte wakes as well, for what is not Python; not after `close`."""
        return self._wake_write

    def close(self) -> None:
        """End everything. Idempotent."""
        with self._wake_lock:
            if self._wake_write < 0:
                return
            os.close(self._wake_write)
            self._wake_write = -1
        for transfer in list(self._active.values()):
            self.cancel(transfer)
        for curl in self._idle:
            curl.close()
        self._idle.clear()
        self._configured.clear()
        # libcurl waits for its thread that looks up a name, and a resolver may take minutes or for ever: not at our expense.
        closing = Thread(target=self._multi.close, name="fastidm-close", daemon=True)
        try:
            closing.start()
        except RuntimeError:
            closing.run()  # no memory for a thread: then here
        else:
            closing.join(LOOKUP_PATIENCE)
        if not closing.is_alive():
            self._ready.close()
            os.close(self._wake_read)

    def _reap(self) -> None:
        while True:
            left, good, bad = self._multi.info_read()
            ended = [(curl, 0, "") for curl in good] + [(curl, code, message) for curl, code, message in bad]
            for curl, code, message in ended:
                transfer = self._active.pop(curl, None)
                if transfer is not None and transfer.distrusted:
                    self._start_afresh(transfer)
                elif transfer is not None:
                    self._release(curl)
                    transfer.on_end(code, message)
                    transfer.let_go()
            if not left:
                return

    def _before_request(self, transfer: Transfer, there: str, here: str, their_port: int, our_port: int) -> int:
        """libcurl has a connection and is about to send the request.

        libcurl reads no further than an answer goes, so what a server has glued to one would be taken for the next. In frames
        each byte says to which answer it belongs, and frames about the connection may come at any time.
        """
        fd = self._used.get(our_port)
        if fd is None:
            self._remember(our_port)
        elif our_port not in self._framed and _readable(fd):
            transfer.distrusted = True
            return int(pycurl.PREREQFUNC_ABORT)
        return int(pycurl.PREREQFUNC_OK)

    def _remember(self, port: int) -> None:
        """A new connection: which descriptor it has. libcurl does not say so in a callback, but its port is there to see."""
        # Most often the one that has waited longest; all the others only if libcurl never waited for this one to connect.
        fd = _with_port(port, self._unnamed) or _with_port(port, tuple(self._watched))
        if fd is not None:
            self._unnamed.pop(fd, None)
            self._used[port] = fd

    def _start_afresh(self, transfer: Transfer) -> None:
        """Nothing was sent yet: the same request, over a connection of its own."""
        transfer.distrusted = False
        self._multi.remove_handle(transfer.curl)
        transfer.curl.setopt(pycurl.FRESH_CONNECT, 1)
        self._active[transfer.curl] = transfer
        self._multi.add_handle(transfer.curl)

    def _release(self, curl: pycurl.Curl) -> None:
        if version := curl.getinfo(pycurl.INFO_HTTP_VERSION):  # there was an answer
            note = self._framed.add if version > pycurl.CURL_HTTP_VERSION_1_1 else self._framed.discard
            note(curl.getinfo(pycurl.LOCAL_PORT))
        self._multi.remove_handle(curl)
        self._idle.append(curl)

    def _watch(self, event: int, fd: int, multi: object, data: object) -> None:
        """libcurl says which descriptor it waits for, and for what."""
        self._flowing = False
        if event == pycurl.POLL_REMOVE:
            if fd in self._watched:
                self._watched.remove(fd)
                try:
                    self._ready.unregister(fd)
                except OSError:
                    pass  # it is closed, and so forgotten
            self._unnamed.pop(fd, None)
            return
        mask = select.POLLIN if event & pycurl.POLL_IN else 0
        mask |= select.POLLOUT if event & pycurl.POLL_OUT else 0
        if fd in self._watched:
            self._ready.modify(fd, mask)
        else:
            self._ready.register(fd, mask)
            self._watched.add(fd)
            self._unnamed[fd] = None

    def _set_timer(self, milliseconds: int) -> None:
        self._timer_at = None if milliseconds < 0 else monotonic() + milliseconds / 1000

    def _guarded(self, on_head: Callable[[Head], None]) -> Callable[[Head], None]:
        # pycurl prints what a callback raises and goes on; a defect of ours must end the run instead.
        def call(head: Head) -> None:
            try:
                on_head(head)
            except BaseException as failure:
                self._failure = failure

        return call

    def _drain(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        self._woken = False  # last: who finds it set has left its wish before, and wishes are looked at after this


class _Poll:
    """poll in the words of epoll."""

    def __init__(self) -> None:
        poll = select.poll()
        self.register, self.modify, self.unregister = poll.register, poll.modify, poll.unregister
        self._poll = poll.poll

    def poll(self, seconds: float) -> list[tuple[int, int]]:
        return self._poll(ceil(seconds * 1000))

    def close(self) -> None:
        """There is nothing to close."""


def _with_port(port: int, descriptors: Iterable[int]) -> int | None:
    """Which of the descriptors is a socket with this local port."""
    try:
        from _socket import AF_INET, SOCK_STREAM, socket
    except ImportError:  # where it is not in C; else `socket` would make its enumerations, in several milliseconds
        from socket import AF_INET, SOCK_STREAM, socket  # type: ignore[assignment]

    for fd in descriptors:
        try:
            connection = socket(AF_INET, SOCK_STREAM, 0, fd)  # any kind will do: left out, the kernel would be asked for it
        except OSError:
            continue  # a pipe, ours or libcurl's
        name = connection.getsockname()
        connection.detach()  # it stays open: it is libcurl's
        if isinstance(name, tuple) and name[1] == port:
            return fd
    return None


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write
