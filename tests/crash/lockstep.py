"""A server that never sends ahead of its client, so that what it has sent is what was fetched.

Rules of this module: to each connection one slice at a time, the next one when the client's process has read the last. What
lies unread in the kernel's buffers when a process is killed is then one slice at most, however slow the machine is.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
import time

from tests.support.oddserver import SECONDS, Exchange, File, Gone, OddServer

SLICE = 16384
"""Bytes; also the most that libcurl hands over at once."""
_ANY = 0xFFFFFFFF


class Lockstep:
    """The habit. Parameters: `file`; `pause`, seconds after each slice."""

    def __init__(self, file: File, pause: float = 0.0) -> None:
        self.file, self.pause = file, pause
        self.sent = 0
        """Bytes of body, to all connections together."""
        self.active = 0
        """Connections that a body is being sent to."""
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.active += 1
        try:
            body = self.file.head(exchange)
            while body:
                _wait_until_read(exchange)
                exchange.send(body[:SLICE])
                with self._lock:
                    self.sent += min(SLICE, len(body))
                exchange.server.notify()
                body = body[SLICE:]
                if self.pause:
                    time.sleep(self.pause)
        finally:
            with self._lock:
                self.active -= 1
            exchange.server.notify()

    def wait_until_quiet(self, server: OddServer) -> None:
        """Return when the server knows that its last client is gone."""
        server.wait_for(lambda: self.active == 0, "the end of all connections")


def _wait_until_read(exchange: Exchange) -> None:
    """Return when the client has read everything; raises `Gone` when there is no client any more."""
    ports = exchange.connection.getpeername()[1], exchange.connection.getsockname()[1]
    deadline = time.monotonic() + SECONDS
    while not exchange.gone() and time.monotonic() < deadline and not exchange.server.stopping:
        # In this order: what is not underway any more has arrived, and is unread if it is not read.
        underway: int = struct.unpack("i", fcntl.ioctl(exchange.connection, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        if underway == 0 and unread(*ports) == 0:
            return
        time.sleep(0.0005)  # the kernel sends no event for this
    raise Gone


def unread(port: int, peer: int) -> int | None:
    """Bytes that have arrived at the socket of `port`, whose peer is `peer`, and that its process has not read.

    None: there is no such socket. Asks the socket diagnosis of Linux, sock_diag(7); where there is none, /proc, which lists
    every socket of the machine.
    """
    address = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    wanted = struct.pack(">2H16s16s", port, peer, address, address) + struct.pack("=3I", 0, _ANY, _ANY)
    body = struct.pack("=4BI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _ANY) + wanted
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diagnosis:
            diagnosis.send(struct.pack("=IHHII", 16 + len(body), 20, 1, 1, 0) + body)
            answer = diagnosis.recv(4096)
    except OSError:
        with open("/proc/net/tcp") as file:
            _, _, rest = file.read().partition(f" 0100007F:{port:04X} 0100007F:{peer:04X} ")
        return int(rest.split()[1].partition(":")[2], 16) if rest else None
    kind: int = struct.unpack_from("=H", answer, 4)[0]
    if kind == 2:  # an error: not found
        return None
    found: int = struct.unpack_from("=I", answer, 16 + 4 + 48 + 4)[0]
    return found
