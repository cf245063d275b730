"""The demo server as a child process, for whoever needs one: the demonstration, tests, benchmarks.

Rules of this module: the child says its own address, so no port is guessed; it dies with its parent, even if that is
killed, because its standard input ends then.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from types import TracebackType

from fastidm.demo.protocol import name_of

STOP_SECONDS = 5.0


class ServerProcess:
    """A running `python -m fastidm.demo`; a context manager that stops it at the end.

    Parameters: `size` of the file in bytes; `rate` of each connection in bytes per second, None for as fast as it goes;
    `limit`, how many files are sent at once before others get 503; `seed`, which content.

    Raises `RuntimeError` when it does not start.
    """

    def __init__(self, *, size: int = 0, rate: int | None = None, limit: int | None = None, seed: int = 0) -> None:
        self.size = size
        self.rate = rate
        command = [sys.executable, "-m", "fastidm.demo", "--until-eof", "--size", str(size), "--seed", str(seed)]
        command += [] if rate is None else ["--rate", str(rate)]
        command += [] if limit is None else ["--limit", str(limit)]
        # A session of its own: Ctrl-C on the terminal is for the parent, which then stops this child.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        """Of the file of `size` bytes; `base` is the same without the file."""
        if not self.url:
            self.stop()
            raise RuntimeError(f"the demo server did not start (status {self.process.returncode})")
        self.base, _, self.name = self.url.rpartition("/")
        self.port = int(self.base.rpartition(":")[2])

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def url_of(self, size: int) -> str:
        """The address of the file of `size` bytes."""
        return f"{self.base}/{name_of(size)}.bin"

    def stats(self) -> dict[str, int]:
        """What the server counted: see `fastidm.demo.server.DemoServer.stats`."""
        counted: dict[str, int] = json.loads(self._get("/stats"))
        return counted

    def digest(self, size: int | None = None) -> str:
        """The SHA-256 of the file of `size` bytes (without: of the file at `url`), as hexadecimal digits."""
        return self._get(f"/{name_of(self.size if size is None else size)}.sha256").split()[0].decode()

    def stop(self) -> None:
        """End the server; harmless when it has ended already."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            data = response.read()
            if response.status != 200:
                raise RuntimeError(f"the demo server answered {response.status} to {path}")
            return data
        finally:
            connection.close()
