"""Runs one command and fills a `Run`.

Rules of this module: what a run wrote is emptied and the disk is synced before the clock starts again, so nobody pays for his
predecessor; as much memory as a run takes is made ready before; nothing but the command runs between its start and its end;
content is verified after the clock has stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from benchmarks import content
from benchmarks.content import Content
from benchmarks.model import Extra, Origin, Run, Scenario, Unable

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = Path(__file__).resolve().parent / "launch.py"
KEPT = ("PATH", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
POLL = 0.01
BACKED = 2 << 30
"""Bytes of memory that are made ready before a run."""


class NotExecutable(Exception):
    """There is no such program, or it is none."""


class Process(NamedTuple):
    """How a command ended. `status` is negative for a signal, None when it had to be killed for lack of time."""

    begun: float
    wall: float
    status: int | None
    user: float
    system: float
    rss: int
    words: str
    """The end of what it said."""


def environment(home: Path, root: Path = ROOT) -> dict[str, str]:
    """What a tool sees: no configuration of the user's, no proxy, and fastidm from `root`."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "HOME": str(home), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(root), "no_proxy": "*"}


def execute(
    command: list[str], folder: Path, home: Path, seconds: float, root: Path = ROOT, kill_when: Callable[[], bool] | None = None
) -> Process:
    """Run `command` in `folder`. `kill_when` is asked every 10 ms; once it says yes, the command gets SIGKILL."""
    output = home / "words.log"
    wish = {"command": command, "cwd": str(folder), "env": environment(home, root), "output": str(output)}
    launcher = subprocess.Popen(
        [sys.executable, "-I", "-S", str(LAUNCH)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the suite, which then ends the command
    )
    assert launcher.stdin is not None and launcher.stdout is not None
    with launcher, launcher.stdin, launcher.stdout:
        launcher.stdin.write(json.dumps(wish).encode() + b"\n")
        started: dict[str, Any] = json.loads(_line(launcher.stdout, None) or "{}")
        if not started:
            raise NotExecutable(f"{os.path.basename(command[0])} cannot be executed")
        deadline = time.monotonic() + seconds
        killed = late = False
        try:
            while True:
                line = _line(launcher.stdout, POLL if kill_when and not killed else max(0.0, deadline - time.monotonic()))
                if line:
                    break
                late = time.monotonic() >= deadline
                if late or (kill_when and not killed and kill_when()):
                    killed = True
                    _kill(started["pid"])
                    deadline += 60
        finally:
            _kill(started["pid"])  # also what it may have left behind, and when the suite itself is interrupted
        ended: dict[str, Any] = json.loads(line)
    return Process(
        started["begun"] / 1e9,
        (ended["ended"] - started["begun"]) / 1e9,
        None if late else ended["status"],
        ended["user"],
        ended["system"],
        ended["rss"],
        output.read_text(errors="replace")[-2000:],
    )


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _line(pipe: Any, seconds: float | None) -> bytes:
    """The next line of `pipe`; empty when none comes in time, or ever."""
    ready, _, _ = select.select([pipe], [], [], seconds)
    return bytes(pipe.readline()) if ready else b""


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def put_away(folder: Path, past: Path) -> None:
    """Empty the files in `folder` and move it into `past`, which is removed when all has been measured.

    Not removed at once: for minutes ext4 looks at the inodes of removed files, one by one, before it gives out another. After
    a few runs with 2,000 files that took ten times as long as all the rest (measured: 0.09 and 1.1 s to make as many).
    """
    if not folder.exists():
        return
    past.mkdir(exist_ok=True)
    if folder.stat().st_dev != past.stat().st_dev:
        shutil.rmtree(folder)
        return
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                os.truncate(path, 0)
    folder.rename(past / str(time.monotonic_ns()))


def back(folder: Path, size: int) -> None:
    """Make memory that the page cache can take at its usual speed: write `size` bytes (2 GiB at most) and remove them.

    The host of a virtual machine takes free memory away and gives it back at the first touch, page by page. Whoever gets such
    memory takes up to eight times as long for the same work (measured: dd, 1 GiB, 0.35 and 2.7 s), whatever tool it is.
    """
    place = folder / "memory"
    block = bytes(128 << 10)
    with open(place, "wb", buffering=0) as file:
        file.writelines(block for _ in range(min(size, BACKED) // len(block)))
    place.unlink()


def command_for(
    tool: ModuleType, scenario: Scenario, origin: Origin, files: list[Content], folder: Path, resume: bool = False
) -> list[str]:
    """The command line. Raises `Unable`."""
    if origin.cacert and scenario.kind == "many":
        raise Unable("not set up for many files over TLS")
    if scenario.http3 and not getattr(tool, "http3", False):
        raise Unable("no HTTP/3")
    extra = Extra(
        origin.cacert,
        resume,
        files[0].sha256 if scenario.checksum else "",
        scenario.http2,
        scenario.http3,
        sum(file.size for file in files),
    )
    connections = scenario.connections
    if getattr(tool, "baseline", False):
        if not scenario.floor:
            raise Unable("it knows of no trouble")
        # Where nothing is throttled one connection is faster than many: 1 GiB 0.42 and 0.57 s, over TLS 0.96 and 1.26 s.
        connections = scenario.granted or connections if scenario.ideal else 1
    if scenario.kind == "many":
        if not hasattr(tool, "many"):
            raise Unable("one file at a time")
        urls = [origin.url_of(file.name) for file in files]
        made: list[str] = tool.many(urls, str(folder), scenario.parallel, connections, extra)
    else:
        made = tool.command(origin.url_of(files[0].name), str(folder / files[0].name), connections, extra)
    return made


def patience(size: int, ideal: float | None) -> float:
    """Seconds after which a run is given up: more than one connection needs where sixteen are ideal."""
    return 30 + 24 * ideal if ideal else 60 + size / (8 << 20)


def shown_command(command: list[str], folder: Path, scratch: Path) -> str:
    """The command line without what is nobody's business: where things lie on this machine, and the second of many URLs."""
    urls = [word for word in command if word.startswith("http")]
    shown = []
    for word in command:
        if word in urls[2:]:
            continue
        if word in urls[1:]:
            word = "..."
        elif os.path.isabs(word) and os.path.exists(word):
            word = os.path.basename(word)
        word = re.sub(r"//[\d.a-z]+:\d+/", "//HOST/", word)
        shown.append(word.replace(str(folder), "DIR").replace(f"{scratch}/", ""))
    return shlex.join(shown)


def run_once(
    scenario: Scenario, tool: ModuleType, run: Run, origin: Origin, files: list[Content], folder: Path, home: Path, root: Path
) -> None:
    """Fill `run`, whose names are there already."""
    put_away(folder, home.parent / "past")
    folder.mkdir()
    emptied(home)
    try:
        command = command_for(tool, scenario, origin, files, folder, scenario.kind == "resume")
    except Unable as reason:
        run.unable = str(reason)
        return
    run.details["command"] = shown_command(command, folder, home.parent)
    os.sync()
    if not scenario.ideal:
        back(folder, 2 * run.size)
    origin.reset()
    seconds = patience(run.size, run.ideal)
    resumed = scenario.kind == "resume"
    try:
        parts = [execute(command, folder, home, seconds, root, _half(origin, run) if resumed else None)]
        if resumed and parts[0].status == -signal.SIGKILL:
            run.details["wall_until_kill"] = parts[0].wall
            parts.append(execute(command, folder, home, seconds, root))
    except NotExecutable as reason:
        run.failure = str(reason)
        return
    counts = origin.counts()
    run.wall, run.user, run.system = (sum(column) for column in zip(*((p.wall, p.user, p.system) for p in parts), strict=True))
    run.rss = max(part.rss for part in parts)
    run.sent, run.requests, run.connections, run.server_cpu = counts[:4]
    if counts.first_request is not None:
        run.first_request = counts.first_request - parts[0].begun
    last = parts[-1]
    if resumed:
        run.details["fetched_twice"] = max(0, run.sent - run.size)
        run.details["time_lost"] = run.wall - (run.ideal or 0.0)
    if last.status != 0:
        run.failure = f"no end within {seconds:.0f} s" if last.status is None else f"status {last.status}"
        run.details["words"] = last.words[-300:]
        return
    run.failure = content.differs(folder, files) if getattr(tool, "downloads", True) else ""
    run.correct = not run.failure
    if run.failure:
        run.details["words"] = last.words[-300:]


def _half(origin: Origin, run: Run) -> Callable[[], bool]:
    return lambda: origin.counts().sent >= run.size // 2
