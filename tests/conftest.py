"""Fixtures for every test: servers that live for the whole run, both sinks, and a guard against stray processes."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import hypothesis
import pytest

from tests.support.oddserver import Habit, OddServer
from tests.support.servers import CA, Caddy, Nginx, wait_until

# No deadline for one example: on a busy machine it would measure the neighbours. On CI the same examples every time.
hypothesis.settings.register_profile("fastidm", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("fastidm")

PR_SET_CHILD_SUBREAPER = 36
LOOKS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
GRACE = 1.5
"""Seconds that processes which a test told to end may take for it."""


def pytest_configure() -> None:
    # What a killed child leaves behind becomes our child, where the guard sees it.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # nohup, and shells for what runs in the background, have signals ignored, and children inherit that.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """Nothing that the caller's shell says about proxies, colours or credentials reaches a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            ours = name.startswith("FASTIDM_") and name != "FASTIDM_PURE"
            if ours or name.lower().endswith("_proxy") or name in LOOKS:
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _no_stray_processes() -> Iterator[None]:
    """Fail a test after which a process runs that was not running before it."""
    before = _children()
    yield

    def strays() -> set[int]:
        found = _children() - before
        return {pid for pid in found if not _reaped(pid)}

    try:
        wait_until(lambda: not strays(), "the end of its child processes", GRACE)
    except AssertionError:
        left = {pid: _command_of(pid) for pid in strays()}
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pytest.fail(f"the test left processes behind: {left}")


def _children() -> set[int]:
    found: set[int] = set()
    with suppress(FileNotFoundError):
        for thread in os.listdir("/proc/self/task"):
            with suppress(FileNotFoundError), open(f"/proc/self/task/{thread}/children") as file:
                found.update(map(int, file.read().split()))
    return found


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _command_of(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
        return file.read().replace("\0", " ").strip()
    return "?"


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CA:
    """The certificate authority of every TLS server of the tests; `ca.file` goes to `--cacert`."""
    return CA(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx over plain HTTP/1.1, for the whole run: `url = nginx.add("a.bin", data)`."""
    with Nginx(tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture(scope="session")
def tls_nginx(tmp_path_factory: pytest.TempPathFactory, ca: CA) -> Iterator[Nginx]:
    """nginx over TLS with HTTP/1.1 and HTTP/2, for the whole run."""
    folder, home = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("tls-nginx")
    with Nginx(folder, home, ca.issue("localhost", "127.0.0.1"), http2=True) as server:
        yield server


@pytest.fixture(scope="session")
def caddy(tmp_path_factory: pytest.TempPathFactory, ca: CA) -> Iterator[Caddy]:
    """Caddy over TLS with HTTP/1.1, HTTP/2 and HTTP/3, for the whole run."""
    folder, home = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("caddy")
    with Caddy(folder, home, ca.issue("localhost", "127.0.0.1")) as server:
        yield server


@pytest.fixture
def server_folders(tmp_path: Path) -> tuple[Path, Path]:
    """(folder to serve, home) for a server of one's own: `with Nginx(*server_folders, limit_conn=4) as server:`."""
    folder, home = tmp_path / "served", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    return folder, home


@pytest.fixture(params=["c", "pure"])
def pure_and_c(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """The sink, once in C and once in Python; a command that the test starts uses the same one."""
    if request.param == "pure":
        from fastidm.storage.sink import PureSink

        monkeypatch.setenv("FASTIDM_PURE", "1")
        return PureSink
    if importlib.util.find_spec("fastidm._hotpath") is None:
        pytest.skip("the C extension is not built")
    from fastidm._hotpath import Sink

    monkeypatch.delenv("FASTIDM_PURE", raising=False)
    return Sink


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for the command to run in; nothing else is ever put there."""
    made = tmp_path / "here"
    made.mkdir()
    return made


@pytest.fixture
def odd() -> Iterator[Callable[[Habit], OddServer]]:
    """`server = odd(habit)`: a server that is stopped when the test ends."""
    with ExitStack() as stack:
        yield lambda habit: stack.enter_context(OddServer(habit))
