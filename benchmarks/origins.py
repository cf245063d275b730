"""The servers: nginx and Caddy from their wheels, and the throttled one in C.

Rules of this module: each is a process of its own on 127.0.0.1 and tells what it sent, in how many requests and connections,
and how much processor time it took, so that a reader sees whether the server or the tool was the limit.

nginx and Caddy are started by `tests.support.servers`, which the tests use too: one place knows how.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.build import program
from benchmarks.model import Counts, Origin, Site

START_SECONDS = 10.0
QUIET = 0.05
"""Seconds without a new line in a server's log after which a run's requests are taken to be all there."""


class Missing(Exception):
    """A server cannot be started here; the text says why."""


class Throttled:
    """`origin.c`, with the throttles that its options name."""

    cacert = ""

    def __init__(self, site: Site, **options: int) -> None:
        binary = program("origin")
        if not binary:
            raise Missing("the throttled server needs a C compiler")
        command = [binary, str(site.served), *(f"{name}={value}" for name, value in options.items())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise Missing("the throttled server did not start")
        self._port = int(line)

    def url_of(self, name: str) -> str:
        return f"http://127.0.0.1:{self._port}/{name}"

    def reset(self) -> None:
        self._ask("/-reset")

    def counts(self) -> Counts:
        told = self._ask("/-stats")
        first = told["first_request_ns"] / 1e9 if told["first_request_ns"] else None
        return Counts(told["sent"], told["requests"], told["connections"], told["cpu_us"] / 1e6, first)

    def stop(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path)
            told: dict[str, Any] = json.loads(connection.getresponse().read())
            return told
        except OSError as error:
            raise Missing("the throttled server has ended") from error
        finally:
            connection.close()


class Real:
    """nginx or Caddy, counted by their access logs."""

    def __init__(self, server: Any, cacert: str) -> None:
        self._server = server
        self.cacert = cacert
        self._cpu = 0.0

    def url_of(self, name: str) -> str:
        return f"{self._server.url}/{name}"

    def reset(self) -> None:
        if self._server.log.exists():
            os.truncate(self._server.log, 0)
        self._cpu = _cpu_of(self._server.pid)

    def counts(self) -> Counts:
        cpu = _cpu_of(self._server.pid) - self._cpu
        size, quiet = -1, 0.0
        while quiet < QUIET:
            now = self._server.log.stat().st_size if self._server.log.exists() else 0
            quiet = quiet + 0.01 if now == size else 0.0
            size = now
            time.sleep(0.01)
        requests = self._server.requests()
        return Counts(sum(r.sent for r in requests), len(requests), len({r.connection for r in requests}), cpu)


@contextmanager
def throttled(site: Site, **options: int) -> Iterator[Origin]:
    server = Throttled(site, **options)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def real(site: Site, kind: str = "Nginx", tls: bool = False, **options: Any) -> Iterator[Origin]:
    try:
        from tests.support import servers
    except ImportError as error:
        raise Missing(f"{kind} is not installed: {error}") from error
    home = site.home / kind
    home.mkdir(exist_ok=True)
    certificate = None
    if tls:
        certificate = servers.CA(site.home).issue("localhost", "127.0.0.1")
    try:
        server = getattr(servers, kind)(site.served, home, certificate, **options)
    except (AssertionError, OSError, RuntimeError) as error:
        raise Missing(f"{kind} did not start: {error}") from error
    with server:
        yield Real(server, certificate.ca if certificate else "")


nginx = partial(real, kind="Nginx")
caddy = partial(real, kind="Caddy")


def _cpu_of(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
