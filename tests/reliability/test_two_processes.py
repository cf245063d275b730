"""Two processes, or two tasks, and one file: one of them downloads it, the others say so and change nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastidm.errors import LockedError
from fastidm.events import DownloadStatus
from fastidm.options import Options
from fastidm.queue import Queue
from fastidm.storage.partfile import PartFile
from fastidm.storage.target import Target
from tests.reliability.machine import DATA, KIB, MIB, Serve, assert_done, assert_failed, begin, resumed
from tests.support.command import environment, run
from tests.support.content import content, first_difference
from tests.support.oddserver import Exchange, File, Gate
from tests.support.servers import Nginx

HALF = MIB + 300 * KIB
LOOK = 0.1
"""Seconds within which a process knows that another one is at work."""
RACES = 50


class Slow(Gate):
    """Sends the beginning of a file whose length it does not say, and then what the gate lets pass."""

    def __call__(self, exchange: Exchange) -> None:
        exchange.head(200, "Connection: close")
        exchange.send(self.file.data[: int(self.until)])
        self._server = exchange.server
        exchange.server.wait_for(lambda: self.until > len(self.file.data), "the opening of the gate")
        exchange.send(self.file.data[HALF:])
        exchange.close()


def look(folder: Path, url: str, **options: Any) -> float:
    """The seconds that a look at the target takes, in which another process is seen; the least of five."""
    took = []
    for _ in range(5):
        target = Target(str(folder / "a.bin"), url, Options(**options))
        begun = time.perf_counter()
        with pytest.raises(LockedError):
            target.prepare()
        took.append(time.perf_counter() - begun)
        target.close()
    return min(took)


@pytest.mark.row("F19")
@pytest.mark.parametrize(
    ("kind", "size", "until"),
    [(Gate, 3 * MIB, HALF), (Gate, 600 * KIB, 300 * KIB), (Slow, 3 * MIB, HALF)],
    ids=["a large file", "a small file", "of unknown length"],
)
def test_the_second_process_is_told_at_once_and_the_first_is_unharmed(
    kind: type[Gate], size: int, until: int, odd: Serve, folder: Path
) -> None:
    gate = kind(File(DATA[:size]), until)
    server = odd(gate)
    url = server.url + "/a.bin"
    with begin(url, cwd=folder) as first:
        first.wait_for_received(until)
        files = sorted(os.listdir(folder))
        for flags in ((), ("--restart",), ("--overwrite",)):
            second = run("--quiet", "-A", "second", *flags, url, cwd=folder)
            assert_failed(second, 11, folder, *files)
            assert look(folder, url, restart="--restart" in flags, overwrite="--overwrite" in flags) < LOOK
        assert not any(exchange.headers["user-agent"] == "second" for exchange in server.exchanges), "it is seen before"
        gate.open()
        outcome = first.finish()
    assert_done(outcome, folder, DATA[:size])


@pytest.mark.row("F19")
def test_another_url_for_the_same_file_is_told_the_same(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    server = odd(gate)
    with begin(server.url + "/a.bin", cwd=folder) as first:
        first.wait_for_received(HALF)
        second = run("--quiet", "-o", folder / "a.bin", server.url + "/b.bin", cwd=Path("/"))
        assert_failed(second, 11, folder, "a.bin.fastidm", "a.bin.part")
        gate.open()
        assert_done(first.finish(), folder)


@pytest.mark.row("F19")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSTOP])
def test_the_lock_lives_as_long_as_its_process(number: signal.Signals, odd: Serve, folder: Path) -> None:
    """One that stands still still has it: nobody may take it for dead."""
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with begin(url, cwd=folder) as first:
        first.wait_for_received(HALF)
        first.send(number)
        if number == signal.SIGSTOP:
            assert run("--quiet", url, cwd=folder).code == 11
            first.send(signal.SIGKILL)
        first.finish()
    gate.open()
    assert resumed(url, folder) >= HALF


@contextmanager
def races(folder: Path) -> Iterator[Any]:
    """`race(count, *arguments)`: so many commands at once; gives a list of (exit code, stderr)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.racers"], cwd=folder, env=environment(folder),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout

    def race(count: int, *arguments: str) -> list[tuple[int, str]]:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps([count, *arguments]) + "\n")
        process.stdin.flush()
        ends: list[tuple[int, str]] = [(code, words) for code, words in json.loads(process.stdout.readline())]
        return ends

    with process:
        yield race
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.mark.row("F19")
def test_of_many_that_begin_at_the_same_moment_one_wins(nginx: Nginx, folder: Path) -> None:
    large, small = content(2 * MIB, seed=1), content(100 * KIB, seed=2)
    urls = {nginx.add("a.bin", data): data for data in (large, small)}
    chance = random.Random(19)
    lost = 0
    with races(folder) as race:
        for number in range(RACES):
            url = chance.choice(list(urls))
            flags = chance.choice([(), ("--restart",), ("--conn", "3")])
            ends = race(2 + number % 3, "--quiet", *flags, url)
            codes = sorted(code for code, _ in ends)
            assert codes[0] == 0, ends
            assert codes.count(0) == 1, ends
            assert set(codes) <= {0, 11, 12}, ends
            for code, words in ends:
                assert words.count("\n") == (code != 0), ends
            lost += codes.count(11)
            assert os.listdir(folder) == ["a.bin"], ends
            assert first_difference((folder / "a.bin").read_bytes(), urls[url]) is None
            (folder / "a.bin").unlink()
    assert lost > RACES // 2, "they did not meet: this shows nothing"


@pytest.mark.row("F19")
def test_of_many_that_go_on_with_the_same_remains_one_does(nginx: Nginx, odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with races(folder) as race:
        for _ in range(3):
            gate.open(until=HALF)
            with begin(url, cwd=folder) as first:
                first.wait_for_received(HALF)
                first.kill()
            gate.open()
            ends = race(4, "--quiet", url)
            assert min(code for code, _ in ends) == 0, ends
            assert {code for code, _ in ends} <= {0, 11, 12}, ends
            assert os.listdir(folder) == ["a.bin"], ends
            assert first_difference((folder / "a.bin").read_bytes(), DATA) is None
            (folder / "a.bin").unlink()


# --- in one process ---


def twice(*urls: str, folder: Path, **options: Any) -> list[tuple[DownloadStatus, int]]:
    """Run these in one manager at the same time; gives status and exit code of each."""
    with Queue() as manager:
        tasks = [manager.add(url, Options(directory=str(folder), **options)) for url in urls]
        manager.run()
    return [(task.status, task.error.exit_code if task.error else 0) for task in tasks]


@pytest.mark.row("F20")
@pytest.mark.parametrize("size", [3 * MIB, 100 * KIB])
def test_the_same_url_twice_in_a_queue_is_one_file(size: int, odd: Serve, folder: Path) -> None:
    url = odd(File(DATA[:size])).url + "/a.bin"
    ends = twice(url, url, url, folder=folder)
    assert min(code for _, code in ends) == 0
    assert {code for _, code in ends} <= {0, 11, 12}
    assert [status for status, _ in ends].count(DownloadStatus.COMPLETED) == 1
    assert os.listdir(folder) == ["a.bin"]
    assert first_difference((folder / "a.bin").read_bytes(), DATA[:size]) is None


@pytest.mark.row("F20")
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_urls_of_one_name_are_never_mixed(overwrite: bool, odd: Serve, folder: Path) -> None:
    one, other = DATA, content(len(DATA), seed=8)

    def habit(exchange: Exchange) -> None:
        File(one if exchange.target == "/1/a.bin" else other)(exchange)

    server = odd(habit)
    ends = twice(server.url + "/1/a.bin", server.url + "/2/a.bin", folder=folder, overwrite=overwrite)
    assert 0 in {code for _, code in ends}
    assert {code for _, code in ends} <= {0, 11, 12}
    assert os.listdir(folder) == ["a.bin"]
    assert (folder / "a.bin").read_bytes() in (one, other)




@pytest.mark.row("F19")
def test_however_they_interleave_two_never_hold_the_same_name(folder: Path) -> None:
    """Locks belong to open files, so threads race for them as processes do, and far more often."""
    path = str(folder / "a.bin.part")
    holders: list[int] = []
    worst, held = 0, 0
    stop = time.monotonic() + 1.0

    def compete(number: int) -> None:
        nonlocal worst, held
        while time.monotonic() < stop and held < 5000:
            try:
                part = PartFile.create(path, None, io="pwrite")
            except LockedError:
                continue
            holders.append(number)
            worst, held = max(worst, len(holders)), held + 1
            part.check()
            holders.remove(number)
            part.remove()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(compete, number) for number in range(4)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)
    assert worst == 1
    assert held > 100
    assert os.listdir(folder) == []
