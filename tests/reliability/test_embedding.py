"""fastidm inside other programs: forks, threads, handlers, callbacks and calls that make no sense, none of which may hurt."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fastidm.errors import FastidmError, UsageError
from fastidm.events import DownloadStatus, Event, Finished, Progress, Started
from fastidm.options import Options
from fastidm.queue import Queue, Task
from tests.reliability.machine import DATA, KIB, MIB, SIZE, Serve, resumed
from tests.support.alone import download
from tests.support.command import environment
from tests.support.content import content, first_difference
from tests.support.oddserver import File, Gate
from tests.support.servers import Nginx

HALF = MIB + 300 * KIB


class Program:
    """A program of somebody else, running; a line of its stdout is a JSON value."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def tells(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def ends(self) -> tuple[int, str]:
        """Exit code and stderr."""
        _, errors = self.process.communicate(timeout=15)
        return self.process.returncode, errors


@contextlib.contextmanager
def program(text: str, *arguments: object, cwd: Path, python: tuple[str, ...] = ()) -> Iterator[Program]:
    """Run this text as a program."""
    words = [sys.executable, *python, "-c", PREFACE + text, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=cwd, env=environment(cwd), stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


PREFACE = """
import json, os, signal, sys, threading
from fastidm.queue import Queue
from fastidm.options import Options
from fastidm.events import Progress

def tell(value):
    print(json.dumps(value), flush=True)
"""

FORKS = """
half = threading.Event()
manager = Queue(lambda task, event: half.set() if isinstance(event, Progress) and event.received >= HALF else None)
task = manager.add(sys.argv[1], Options(directory="."))
thread = threading.Thread(target=manager.run)
thread.start()
half.wait()
pid = os.fork()
if pid == 0:
    refused = 0
    for call in (manager.run, manager.stop, lambda: manager.add(sys.argv[1])):
        try:
            call()
        except RuntimeError:
            refused += 1
    manager.close()
    del manager, task
    sys.exit(refused)
tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
thread.join()
tell([task.status.value, task.result and task.result.retries])
manager.close()
""".replace("HALF", str(HALF))


FORKS_WITHIN = """
def look(task, event):
    if isinstance(event, Progress) and event.received >= HALF and not pids:
        pids.append(os.fork())
        if pids[0] == 0:
            sys.exit(3)  # through all that is on the stack, which cleans up
        tell(os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]))
pids = []
def main():
    with Queue(look) as manager:
        task = manager.add(sys.argv[1], Options(directory="."))
        manager.run()
        tell([task.status.value, task.result and task.result.retries])
main()
""".replace("HALF", str(HALF))


@pytest.mark.row("F39")
@pytest.mark.parametrize("text", [FORKS, FORKS_WITHIN], ids=["from another thread", "from a callback"])
def test_a_fork_in_the_middle_hurts_nobody(text: str, odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    server = odd(gate)
    with program(text, server.url + "/a.bin", cwd=folder) as parent:
        assert parent.tells() == 3, "each call of the child was refused, or it ended as it wished"
        gate.open()
        status, retries = parent.tells()
        assert parent.ends() == (0, "")
    assert status == "completed"
    assert retries == 0, "the child has ended connections of its parent"
    assert os.listdir(folder) == ["a.bin"]
    assert first_difference((folder / "a.bin").read_bytes(), DATA) is None


FORKS_AND_DIES = """
begun = threading.Event()
manager = Queue(lambda task, event: begun.set() if isinstance(event, Progress) and event.received else None)
manager.add(sys.argv[1], Options(directory="."))
threading.Thread(target=manager.run, daemon=True).start()
begun.wait()
pid = os.fork()
if pid == 0:
    for number in (0, 1, 2):
        os.close(number)
    signal.pause()
tell(pid)
os.kill(os.getpid(), signal.SIGKILL)
"""

@pytest.mark.row("F39")
@pytest.mark.row("F19")
@pytest.mark.parametrize("size", [600 * KIB, SIZE])
def test_a_child_that_lives_on_does_not_hold_its_parents_lock(size: int, odd: Serve, folder: Path) -> None:
    """As a pool of workers may, when the program is killed."""
    gate = Gate(File(DATA[:size]), 300 * KIB)
    url = odd(gate).url + "/a.bin"
    with program(FORKS_AND_DIES, url, cwd=folder) as parent:
        child = parent.tells()
        try:
            assert parent.ends()[0] == -signal.SIGKILL
            os.kill(child, 0)
            gate.open()
            resumed(url, folder, DATA[:size])
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.row("F40")
def test_eight_threads_download_each_for_itself(nginx: Nginx, folder: Path) -> None:
    data = [content(MIB + number * 300 * KIB, seed=number) for number in range(8)]
    urls = [nginx.add(f"{number}.bin", some) for number, some in enumerate(data)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda url: download(url, Options(directory=str(folder))), urls))
    assert [one.size for one in done] == [len(some) for some in data]
    for number, some in enumerate(data):
        assert first_difference((folder / f"{number}.bin").read_bytes(), some) is None


@pytest.mark.row("F40")
@pytest.mark.parametrize("kind", [Started, Progress])
def test_a_callback_that_raises_ends_its_own_download_alone(kind: type[Event], odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url, other = odd(gate).url + "/a.bin", odd(File(DATA)).url + "/b.bin"

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, kind) and task.url == url and (not isinstance(event, Progress) or event.received >= HALF):
            raise KeyError("theirs")

    with Queue(observe) as manager:
        bad, good = manager.add(url, Options(directory=str(folder))), manager.add(other, Options(directory=str(folder)))
        manager.run()
    assert good.status is DownloadStatus.COMPLETED
    assert first_difference((folder / "b.bin").read_bytes(), DATA) is None
    assert bad.status is DownloadStatus.FAILED
    assert bad.error is not None
    assert bad.error.exit_code == 1
    assert isinstance(bad.error.__cause__, KeyError)
    (folder / "b.bin").unlink()
    gate.open()
    assert resumed(url, folder) >= (HALF if kind is Progress else 0)


DAEMON = """
half = threading.Event()
manager = Queue(lambda task, event: half.set() if isinstance(event, Progress) and event.received >= HALF else None)
manager.add(sys.argv[1], Options(directory="."))
threading.Thread(target=manager.run, daemon=True).start()
half.wait()
""".replace("HALF", str(HALF))


@pytest.mark.row("F41")
def test_the_interpreter_may_end_while_a_daemon_thread_downloads(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    for python in ((), ("-X", "dev")):
        with program(DAEMON, url, cwd=folder, python=python) as ending:
            assert ending.ends()[0] == 0
    gate.open()
    assert resumed(url, folder) >= HALF


FAULT = """
import faulthandler, mmap
import fastidm.storage.sink
faulthandler.enable()
manager = Queue()
with open("mine", "w+b") as file:
    file.truncate(8192)
    mine = mmap.mmap(file.fileno(), 8192)
    file.truncate(0)
    mine[5000]
"""


@pytest.mark.row("F42")
def test_a_fault_of_the_program_goes_to_its_own_handler(folder: Path) -> None:
    with program(FAULT, cwd=folder) as faulty:
        code, errors = faulty.ends()
    assert code == -signal.SIGBUS
    assert "Bus error" in errors


CUT = """
import faulthandler
faulthandler.enable()
def look(task, event):
    if isinstance(event, Progress) and event.received >= HALF and not told:
        os.truncate("a.bin.part", 4096)
        told.append(1)
        tell("cut")
told = []
with Queue(look) as manager:
    task = manager.add(sys.argv[1], Options(directory=".", io="mmap", sync=False))
    manager.run()
tell(task.error.exit_code)
""".replace("HALF", str(HALF))


@pytest.mark.row("F42")
@pytest.mark.row("F5")
def test_a_fault_of_ours_does_not_reach_the_programs_handler(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    with program(CUT, odd(gate).url + "/a.bin", cwd=folder) as embedding:
        assert embedding.tells() == "cut"
        gate.open()
        code, errors = embedding.ends()
    assert (code, errors) == (0, "")


# --- calls that make no sense ---


@pytest.mark.row("R10")
@pytest.mark.parametrize(
    "options",
    [
        {"connections": 10**9}, {"connections": 0}, {"connections": -1}, {"limit_rate": 0}, {"limit_rate": -5},
        {"retries": -1}, {"timeout": 0}, {"timeout": float("nan")}, {"timeout": float("inf")}, {"io": "magic"},
        {"connect_timeout": -1}, {"max_redirects": 10**9}, {"headers": ("no colon",)}, {"on_change": "maybe"},
    ],
    ids=str,
)  # fmt: skip
def test_absurd_numbers_are_refused_when_they_are_said(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Options(**options)


@pytest.mark.row("R10")
def test_a_manager_may_be_closed_and_stopped_as_often_as_one_likes(odd: Serve, folder: Path) -> None:
    url = odd(File(DATA)).url + "/a.bin"
    manager = Queue()
    task = manager.add(url, Options(directory=str(folder)))
    manager.run()
    assert task.status is DownloadStatus.COMPLETED
    manager.run()  # nothing is left to do
    manager.stop()
    manager.stop()
    manager.run()
    for _ in range(3):
        manager.close()
        manager.stop()
    assert task.status is DownloadStatus.COMPLETED
    assert task.result is not None
    with pytest.raises(RuntimeError, match="closed"):
        manager.run()
    with pytest.raises(RuntimeError, match="closed"):
        manager.add(url)


@pytest.mark.row("R10")
@pytest.mark.parametrize("seed", range(12))
def test_stops_at_odd_moments_leave_what_can_be_gone_on_with(seed: int, nginx: Nginx, folder: Path) -> None:
    """Before, in and after everything that a download does, by the events that it tells, and twice."""
    chance = random.Random(seed)
    url = nginx.add("a.bin", DATA)
    moment = chance.randrange(6)
    seen = 0

    def observe(task: Task, event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen > moment:
            manager.stop()
            if chance.random() < 0.5:
                threading.Thread(target=manager.stop).start()

    with Queue(observe) as manager:
        task = manager.add(url, Options(directory=str(folder)))
        if moment == 5:
            manager.stop()
        manager.run()
    assert task.status in (DownloadStatus.PAUSED, DownloadStatus.COMPLETED)
    assert (folder / "a.bin").exists() == (task.status is DownloadStatus.COMPLETED)
    if task.status is DownloadStatus.PAUSED:
        resumed(url, folder)


@pytest.mark.row("R11")
def test_a_callback_may_add_and_stop_and_nothing_else(nginx: Nginx, folder: Path) -> None:
    """It runs within `run`: what would wait for `run` to end raises instead of waiting for ever."""
    urls = [nginx.add(f"{number}.bin", DATA) for number in range(2)]
    refused: list[str] = []

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Finished) and task.url == urls[0]:
            for call in (manager.run, manager.close):
                try:
                    call()
                except RuntimeError:
                    refused.append(call.__name__)
            manager.add(urls[1], Options(directory=str(folder)))

    with Queue(observe) as manager:
        manager.add(urls[0], Options(directory=str(folder)))
        manager.run()
    assert refused == ["run", "close"]
    assert sorted(os.listdir(folder)) == ["0.bin", "1.bin"]


@pytest.mark.row("R11")
def test_an_event_loop_and_threads_share_a_process(nginx: Nginx, folder: Path) -> None:
    urls = [nginx.add(f"{number}.bin", DATA) for number in range(4)]
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.001)
            beats += 1

    async def main() -> list[Finished]:
        beating = asyncio.create_task(heart())
        done = await asyncio.gather(*(asyncio.to_thread(download, url, Options(directory=str(folder))) for url in urls))
        beating.cancel()
        return list(done)

    assert [one.size for one in asyncio.run(main())] == [len(DATA)] * 4
    assert beats > 3


@pytest.mark.row("R10")
def test_nothing_is_left_open(nginx: Nginx, folder: Path) -> None:
    """Not after success, nor after failure, nor after a stop."""
    url = nginx.add("a.bin", DATA)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        download(url, Options(directory=str(folder), overwrite=True))
        with pytest.raises(FastidmError):
            download(url + "-not-there", Options(directory=str(folder)))
        with Queue(lambda task, event: manager.stop()) as manager:
            manager.add(url, Options(directory=str(folder), overwrite=True))
            manager.run()
    assert sorted(os.listdir("/proc/self/fd")) == before


