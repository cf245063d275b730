"""A file server on 127.0.0.1 whose files are computed, not stored, and whose rate is honest.

Rules of this module: one asyncio loop, one coroutine per connection, plain sockets, so that the slowness of a client is
felt at once. `protocol.py` decides, this acts. The rate belongs to a connection, not to a request, and nothing is given
in advance: n bytes are handed over when n / rate seconds have passed.

    /256M.bin      the file of that size; 500k, 1.5G and plain bytes work too, with any ending, in any folder
    /256M.sha256   its digest, as sha256sum prints it
    /stats         what was sent up to now, as JSON
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import time

from fastidm.demo.content import content, slices
from fastidm.demo.protocol import Request, Response, parse_head, respond, size_of

MAX_HEAD = 16384
SLICE = 65536
"""Bytes handed to the kernel at once when there is no rate to keep."""
SLACK = 0.02
"""Seconds that a connection may catch up when the loop woke late."""


class Pace:
    """Holds one connection to `rate` bytes per second. Time is an argument; unused time is lost, but for `SLACK`."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._due = now

    def delay(self, count: int, now: float) -> float:
        """Seconds to wait from `now` before the next `count` bytes may be handed over."""
        self._due = max(self._due, now - SLACK) + count / self.rate
        return max(0.0, self._due - now)


class DemoServer:
    """Serves until it is cancelled.

    Parameters: `rate`, bytes per second for each connection, or None; `limit`, how many files are sent at the same time
    before further requests are answered with 503, or None; `seed`, which content.
    """

    def __init__(self, *, rate: int | None = None, limit: int | None = None, seed: int = 0) -> None:
        self.rate = rate
        self.limit = limit
        self.seed = seed
        self.sent = 0
        self.requests = 0
        self.active = 0
        self.most_active = 0
        self._digests: dict[int, str] = {}
        self._conversations: set[asyncio.Task[None]] = set()
        self._listener = socket.socket()

    def listen(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; returns the port. Raises `OSError` when it is taken."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(1024)
        self._listener.setblocking(False)
        return int(self._listener.getsockname()[1])

    async def serve(self) -> None:
        """Answer connections until cancelled; then every socket is closed."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError:  # gone before it was accepted, or no descriptor is left
                    await asyncio.sleep(0.05)
                    continue
                task = loop.create_task(self._converse(connection))
                self._conversations.add(task)
                task.add_done_callback(self._conversations.discard)
        finally:
            self._listener.close()
            for task in self._conversations:
                task.cancel()
            await asyncio.gather(*self._conversations, return_exceptions=True)

    def stats(self) -> dict[str, int]:
        """`sent`: bytes of files given to the kernel; `requests` for files; `active`: files being sent; at most."""
        return {
            "sent": self.sent,
            "requests": self.requests,
            "active": self.active,
            "most_active": self.most_active,
        }

    async def _converse(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pace = Pace(self.rate, time.monotonic()) if self.rate else None
            buffer = bytearray()
            try:
                while await self._exchange(connection, buffer, pace):
                    pass
            except OSError:
                pass  # the client went away, as clients do

    async def _exchange(self, connection: socket.socket, buffer: bytearray, pace: Pace | None) -> bool:
        """One request and its answer; whether the connection can be used again."""
        loop = asyncio.get_running_loop()
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            if len(buffer) > MAX_HEAD:
                await loop.sock_sendall(connection, Response(431).head(keep_alive=False))
                return False
            data = await loop.sock_recv(connection, MAX_HEAD)
            if not data:
                return False
            buffer += data
        request = parse_head(bytes(buffer[:end]))
        del buffer[: end + 4]
        if request is None:
            await loop.sock_sendall(connection, Response(400).head(keep_alive=False))
            return False
        response = await self._judge(request)
        await loop.sock_sendall(connection, response.head(request.keep_alive))
        if request.method != "HEAD":
            await loop.sock_sendall(connection, response.text)
            await self._send(connection, response.start, response.stop, pace)
        return request.keep_alive

    async def _judge(self, request: Request) -> Response:
        plain = ("Content-Type: text/plain",)
        if request.method not in ("GET", "HEAD"):
            return Response(405, ("Allow: GET, HEAD",))
        if request.name == "stats":
            return Response(200, ("Content-Type: application/json",), json.dumps(self.stats()).encode() + b"\n")
        stem = request.name.removesuffix(".sha256")
        size = size_of(stem)
        if size is None:
            return Response(404, plain, b"No such file; try /256M.bin or /256M.sha256\n")
        if stem != request.name:
            return Response(200, plain, f"{await self._digest(size)}  {stem}.bin\n".encode())
        self.requests += 1
        if self.limit is not None and self.active >= self.limit:
            return Response(503, ("Retry-After: 1",))
        return respond(request, size, self.seed)

    async def _digest(self, size: int) -> str:
        if size not in self._digests:
            digest = hashlib.sha256()
            for data in slices(size, self.seed):
                digest.update(data)
                await asyncio.sleep(0)  # let the downloads go on
            self._digests[size] = digest.hexdigest()
        return self._digests[size]

    async def _send(self, connection: socket.socket, start: int, stop: int, pace: Pace | None) -> None:
        if start >= stop:
            return
        loop = asyncio.get_running_loop()
        # With a rate, about 40 slices a second: smooth, and cheap for dozens of connections.
        step = SLICE if pace is None else max(512, min(SLICE, int(pace.rate / 40)))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            while start < stop:
                data = content(start, min(start + step, stop), self.seed)
                if pace is not None:
                    await asyncio.sleep(pace.delay(len(data), time.monotonic()))
                await loop.sock_sendall(connection, data)
                self.sent += len(data)
                start += len(data)
        finally:
            self.active -= 1
