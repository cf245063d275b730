"""The demonstration: download from the demo server, die half-way, go on, verify.

Rules of this module: it starts the real command, twice and the same both times, and looks at it from outside: at the
files that it leaves, and at what the server says it sent. It waits for those facts, never for a time. Everything it
makes is in one folder, which goes at the end, as do the processes, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from fastidm.demo.process import ServerProcess

CONNECTIONS = 16
RATE = 1_500_000
"""Bytes per second for each connection: 256 MiB over 16 of them take 11 seconds."""
SECONDS = 59.0
"""The whole demonstration has to end within this time."""
GLANCE = 0.03
"""Seconds between two looks at the server's count."""


class DemoError(Exception):
    """The demonstration did not go as it should; the text says what was seen."""


def show(
    *,
    size: int,
    rate: int = RATE,
    command: Sequence[str] = (sys.executable, "-m", "fastidm"),
    seconds: float = SECONDS,
) -> int:
    """Run the demonstration and return its exit status: 0, 1 when something went wrong, 130 after Ctrl-C.

    Parameters: `size` of the file in bytes; `rate` of each connection in bytes per second; `command` to start;
    `seconds` that everything together may take.
    """
    deadline = time.monotonic() + seconds
    folder = tempfile.mkdtemp(prefix="fastidm-demo-")
    try:
        with ServerProcess(size=size, rate=rate) as server:
            _demonstrate(server, rate, folder, command, deadline)
        return 0
    except DemoError as error:
        print(f"The demonstration failed: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe demonstration was interrupted.", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _demonstrate(server: ServerProcess, rate: int, folder: str, command: Sequence[str], deadline: float) -> None:
    size, digest = server.size, server.digest()
    path = os.path.join(folder, server.name)
    arguments = [server.url, "--conn", str(CONNECTIONS), "-o", path, "--checksum", f"sha256:{digest}"]
    _say(f"The server gives {rate / 1e6:.3g} MB/s to each connection; one alone would take {size / rate:.0f} s.")
    _say("$ " + shlex.join(["fastidm", *arguments]))

    def half_way() -> bool:
        resumable = os.path.exists(path + ".fastidm") and os.path.exists(path + ".part")
        return resumable and server.stats()["sent"] >= size // 2

    status = _run([*command, *arguments], deadline, kill_when=half_way)
    if status is not None:
        raise DemoError(f"the command ended by itself, with status {status}, before it could be killed half-way")
    if sys.stdout.isatty():
        print("\x1b[0m\x1b[?7h\x1b[?25h")  # a killed program cannot give back colours, line wrap and cursor
    left = sorted(os.listdir(folder))
    if server.name in left:
        raise DemoError(f"{server.name} has its final name although it is not complete")
    _say(f"Killed with SIGKILL; the server had sent {server.stats()['sent'] / size:.0%}. Left: {', '.join(left)}.")
    _say("The same command again goes on from there:")

    status = _run([*command, *arguments], deadline)
    if status != 0:
        raise DemoError(f"the second run ended with status {status}")
    twice = server.stats()["sent"] - size
    if os.listdir(folder) != [server.name]:
        raise DemoError(f"left behind: {', '.join(sorted(os.listdir(folder)))}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest or os.path.getsize(path) != size:
        raise DemoError(f"the SHA-256 is {found} and should be {digest}")
    _say(f"SHA-256 verified: {digest} ({size / 2**20:.0f} MiB, {max(0, twice) / 1024:.0f} KiB of it sent twice)")


def _run(command: Sequence[str], deadline: float, kill_when: Callable[[], bool] | None = None) -> int | None:
    """Run `command` on this terminal; its exit status, or None when it was killed because `kill_when` became true.

    Raises `DemoError` when it has not ended by `deadline`.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while True:
            try:
                return process.wait(GLANCE)
            except subprocess.TimeoutExpired:
                if kill_when is not None and kill_when():
                    return None
                if time.monotonic() > deadline:
                    raise DemoError("it took too long") from None
    finally:
        process.kill()
        process.wait()


def _say(text: str) -> None:
    print(text, flush=True)
