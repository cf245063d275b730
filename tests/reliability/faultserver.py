"""A server with every fault that the matrix knows, chosen by the URL. `exchange` says how a URL is read.

Rules of this module:

* One event loop, in a thread of the tests' process (`FaultServer`) or in a process of its own
  (`python -m tests.reliability.faultserver`, which prints its addresses as JSON and ends with its standard input).
* Faults of HTTP live in the modules `faults_*`, each one small coroutine. Those of TLS are ports of their own (`faults_tls`).
* Everything is on 127.0.0.1, and over plain HTTP on 127.0.0.2 too, so that one name can have two addresses.
* `/-/log?key=K` gives the requests of a key as JSON, `/-/phase?key=K&n=2` begins its second phase, `/-/reset` forgets all.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from tests.reliability import (  # noqa: F401  (each makes its handlers known)
    faults_cuts,
    faults_file,
    faults_lengths,
    faults_limits,
    faults_ranges,
    faults_raw,
    faults_redirects,
)
from tests.reliability.exchange import FAULTS, Book, Exchange, Gone, Knobs, Record
from tests.reliability.faults_tls import Listener, listeners

SEND_BUFFER = 64 << 10
"""Bytes: what lies in the kernel counts as sent, so that is kept short."""


class FaultServer:
    """The server, in a thread. A context manager.

    Parameters: `folder`, an empty folder for certificates, or None for no TLS; `port`, of plain HTTP, 0 for any.
    """

    def __init__(self, folder: Path | None = None, port: int = 0) -> None:
        self.books: defaultdict[str, Book] = defaultdict(Book)
        self.defects: list[str] = []
        """What handlers raised that they should not have; a test that finds something here fails."""
        self.urls: dict[str, str] = {}
        """Root of each listener: "http", and the kinds of `faults_tls`."""
        self.cacert = "" if folder is None else str(folder / "ca.pem")
        self._folder = folder
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._connections = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault server")
        self._thread.start()
        self._ready.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The root of plain HTTP, without a slash at its end."""
        return self.urls["http"]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        """End every connection and the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._listen())
            self._ready.set()
            self._loop.run_forever()
            self._loop.run_until_complete(self._end())
        finally:
            self._ready.set()
            self._loop.close()

    async def _listen(self) -> None:
        first = _bound("127.0.0.1", self._port)
        port = first.getsockname()[1]
        for link in (first, _bound("127.0.0.2", port)):
            self._servers.append(await asyncio.start_server(self._accept, sock=link, limit=1 << 20))
        self.urls["http"] = f"http://127.0.0.1:{port}"
        for listener in listeners(self._folder) if self._folder is not None else ():
            await self._listen_by_tls(listener)

    async def _listen_by_tls(self, listener: Listener) -> None:
        link = _bound("127.0.0.1", 0)
        self.urls[listener.kind] = f"https://{listener.host}:{link.getsockname()[1]}"
        accept = self._accept if listener.context is not None else self._be_silent
        self._servers.append(await asyncio.start_server(accept, sock=link, ssl=listener.context, limit=1 << 20))

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(3):  # transports close themselves in the turns that follow
            await asyncio.sleep(0)
        self._loop.set_exception_handler(lambda *_: None)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        self._keep(self._serve(reader, writer, self._connections))

    def _be_silent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(_wait_for_the_end(reader, writer))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------ one connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        writer.transport.set_write_buffer_limits(1, 0)  # `drain` returns when the kernel has everything
        try:
            while await self._exchange(reader, writer, connection):
                pass
        except (Gone, OSError, asyncio.IncompleteReadError):
            pass
        except Exception as error:
            self.defects.append("".join(traceback.format_exception(error)))
        finally:
            writer.close()
            with suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        """One request and its answer. Returns whether the connection may be used again."""
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = text.rstrip("\r\n").split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path, _, query = target.partition("?")
        key, fault, *_ = (*path.removeprefix("/").split("/"), "")
        if key == "-":
            await self._control(writer, fault, Knobs(query))
            return True
        book, host = self.books[key], writer.get_extra_info("sockname")[0]
        record = Record(len(book.records) + 1, connection, host, method, target, headers, self._loop.time())
        book.records.append(record)
        exchange = Exchange(reader, writer, book, record, fault, query)
        try:
            await FAULTS[exchange.text("fault", fault) if exchange.struck else "file"](exchange)
        finally:
            record.ended = self._loop.time()
        return exchange.keep

    async def _control(self, writer: asyncio.StreamWriter, what: str, knobs: Knobs) -> None:
        found: object = None
        if what == "log":
            book = self.books[knobs.text("key")]
            found = {"sent": book.sent, "peak": book.peak, "requests": [asdict(record) for record in book.records]}
        elif what == "phase":
            self.books[knobs.text("key")].phase = knobs.size("n", 2)
        elif what == "reset":
            self.books.clear()
        body = json.dumps(found).encode()
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()


def _bound(host: str, port: int) -> socket.socket:
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # what is accepted inherits it
    link.bind((host, port))
    return link


async def _wait_for_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while await reader.read(4096):
            pass
    writer.close()


def main() -> None:
    """Serve until standard input ends. Argument: a folder for certificates, or none."""
    with FaultServer(Path(sys.argv[1]) if len(sys.argv) > 1 else None) as server:
        print(json.dumps({**server.urls, "cacert": server.cacert}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
