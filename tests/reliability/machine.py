"""What the tests of disks, processes and resources share: files of known bytes, how a run has to end, room on a disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastidm.events import DownloadStatus, Event, Progress
from fastidm.options import Options
from fastidm.queue import Queue, Task
from tests.reliability.launcher import wrapper
from tests.support.command import Command, Outcome, call, run
from tests.support.content import content, first_difference
from tests.support.oddserver import Exchange, Habit, OddServer

KIB = 1 << 10
MIB = 1 << 20
SIZE = 3 * MIB
DATA = content(SIZE, seed=31)
Serve = Callable[[Habit], OddServer]


def begin(*arguments: object, cwd: Path, env: dict[str, str] | None = None, words: tuple[str, ...] = ()) -> Command:
    """The command, which tells with `--json` all that it does as soon as it does it; `words` stand before it."""
    return Command("--json", *arguments, cwd=cwd, env=env, wrapper=(*words, *wrapper("quick")))


def patched(patches: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None) -> Command:
    """The same on a machine with the `patches` of the launcher."""
    return Command("--json", *arguments, cwd=cwd, env=env, wrapper=wrapper(f"quick,{patches}"))


def run_patched(patches: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None) -> Outcome:
    """The same to its end."""
    return run("--json", *arguments, cwd=cwd, env=env, wrapper=wrapper(f"quick,{patches}"))


def assert_failed(outcome: Outcome, code: int, folder: Path, *left: str) -> None:
    """It ended with this code and one line, and exactly these files are left."""
    assert outcome.code == code, outcome
    assert outcome.complaint
    assert sorted(os.listdir(folder)) == sorted(left)


def assert_done(outcome: Outcome, folder: Path, data: bytes = DATA, name: str = "a.bin") -> None:
    """It ended well and without a word of trouble, and the whole file is all that is left."""
    assert (outcome.code, outcome.stderr) == (0, ""), outcome
    assert os.listdir(folder) == [name]
    assert first_difference((folder / name).read_bytes(), data) is None


def stop_at(count: int, url: str, folder: Path, **options: Any) -> None:
    """Download in this process until `count` bytes are written, and stop in good order."""

    def look(task: Task, event: Event) -> None:
        if isinstance(event, Progress) and event.received >= count:
            manager.stop()

    with Queue(look) as manager:
        task = manager.add(url, Options(directory=str(folder), **options))
        manager.run()
    assert task.status is DownloadStatus.PAUSED
    assert sorted(os.listdir(folder)) == ["a.bin.fastidm", "a.bin.part"]


def resumed(url: str, folder: Path, data: bytes = DATA) -> int:
    """Run the same command again, to the end: it has to give the whole file. Returns how many bytes were there before."""
    outcome = call("--json", url, cwd=folder)
    assert_done(outcome, folder, data)
    return int(outcome.done["resumed"])


def free(disk: Path) -> int:
    """Bytes that are free."""
    state = os.statvfs(disk)
    return state.f_bfree * state.f_frsize


def unsized(data: bytes) -> Habit:
    """A server that does not say how long its file is."""

    def habit(exchange: Exchange) -> None:
        exchange.head(200, "Connection: close")
        exchange.send(data)
        exchange.close()

    return habit
