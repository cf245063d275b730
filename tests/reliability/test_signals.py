"""Signals, stuck disks and clocks: it stops when it is told to, in good order, and waits for nothing that may not come."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fastidm.events import Event, Finished
from fastidm.options import Options
from fastidm.queue import Queue, Task
from fastidm.storage import owned
from fastidm.storage.naming import JOURNAL_SUFFIX, PART_SUFFIX
from tests.reliability.machine import DATA, KIB, MIB, SIZE, Serve, assert_done, begin, patched, resumed, run_patched
from tests.support.command import Command, Outcome
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Gate

HALF = MIB + 300 * KIB
LEFT = ["a.bin" + JOURNAL_SUFFIX, "a.bin" + PART_SUFFIX]
SECOND = 1.0
PAUSE = 0.1
"""Seconds that the loop may be away from its sockets."""
CONNECTIONS = 4
AGAIN = 64 * KIB
"""Bytes of each connection that may come a second time after a kill."""
STOPS = [
    pytest.param(signal.SIGTERM, marks=pytest.mark.row("F28")),
    pytest.param(signal.SIGINT, marks=pytest.mark.row("F28")),
    pytest.param(signal.SIGHUP, marks=pytest.mark.row("F29")),
]


def stop(command: Command, number: signal.Signals = signal.SIGTERM) -> Outcome:
    """Send a signal: the command has to end within a second, with code 7 and one line."""
    sent = time.monotonic()
    command.send(number)
    outcome = command.finish()
    took = time.monotonic() - sent
    assert outcome.code == 7, outcome
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("fastidm: stopped")
    assert took < SECOND, f"it took {took:.2f} s"
    return outcome


# --- stop ---


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_ends_it_within_a_second_while_the_disk_is_stuck(number: signal.Signals, odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with patched("sync-takes=5", url, cwd=folder) as command:
        command.wait_for_received(HALF)
        command.wait_for("sync")
        stop(command, number)
    assert sorted(os.listdir(folder)) == LEFT
    gate.open()
    assert resumed(url, folder) >= HALF, "the journal's live page needs no disk"


@pytest.mark.row("F28")
@pytest.mark.row("F43")
def test_while_the_disk_is_stuck_connections_receive_and_the_loop_never_waits(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    with patched("sync-takes=3,gaps", odd(gate).url + "/a.bin", cwd=folder) as command:
        command.wait_for("sync")
        stuck = time.monotonic()
        gate.open(until=SIZE - 64 * KIB)
        command.wait_for_received(SIZE - 64 * KIB)
        assert time.monotonic() - stuck < 3, "it waited for the disk"
        outcome = stop(command)
    (gap,) = outcome.of("gap")
    assert gap["seconds"] < PAUSE


@pytest.mark.row("F43")
def test_many_that_wait_for_a_stuck_disk_do_not_hold_up_one_on_another(
    odd: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, good = tmp_path / "stuck", tmp_path / "good"
    stuck.mkdir()
    good.mkdir()
    count = 6
    waiting = threading.Semaphore(0)
    repaired = threading.Event()
    real = owned.sync

    def sync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{stuck}/"):
            waiting.release()
            assert repaired.wait(10), "the other one was held up"
        real(fd)

    def habit(exchange: Exchange) -> None:
        if exchange.target == "/good":
            for _ in range(count):
                assert waiting.acquire(timeout=10)
        File(DATA[: 300 * KIB])(exchange)

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Finished):
            order.append(task.url)
            repaired.set()

    monkeypatch.setattr(owned, "sync", sync)
    url = odd(habit).url
    order: list[str] = []
    with Queue(observe, max_downloads=count + 1) as manager:
        for number in range(count):
            manager.add(f"{url}/{number}", Options(directory=str(stuck)))
        manager.add(f"{url}/good", Options(directory=str(good)))
        manager.run()
    assert order[0] == f"{url}/good"
    assert len(order) == count + 1


@pytest.mark.row("F28")
@pytest.mark.parametrize("patches", ["sync-takes=5", "fallocate-takes=5"])
def test_a_signal_ends_it_before_the_first_and_after_the_last_byte(patches: str, odd: Serve, folder: Path) -> None:
    """While the space is reserved, and while the whole file is brought to the disk."""
    url = odd(File(DATA)).url + "/a.bin"
    with patched(patches, url, cwd=folder) as command:
        command.wait_for("sync" if "sync" in patches else "fallocate")
        stop(command)
    assert "a.bin" not in os.listdir(folder), "nothing is published in haste"
    assert resumed(url, folder) == (SIZE if "sync" in patches else 0)


@pytest.mark.row("F28")
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(second: signal.Signals, odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with patched("sync-takes=60,patient", url, cwd=folder) as command:
        command.wait_for("sync")
        command.send(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            command.process.wait(0.3)
        command.send(second)
        outcome = command.finish()
    assert (outcome.code, outcome.stderr) == (7, "")
    gate.open()
    assert resumed(url, folder) >= HALF


@pytest.mark.row("F29")
def test_with_nohup_a_closed_terminal_is_nothing(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    with begin(odd(gate).url + "/a.bin", cwd=folder, words=("nohup",)) as command:
        command.wait_for_received(HALF)
        command.send(signal.SIGHUP)
        gate.open()
        assert_done(command.finish(), folder)


# --- kill ---


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param([signal.SIGKILL] * 4, marks=[pytest.mark.row("F27"), pytest.mark.row("F31")]),
        pytest.param([signal.SIGABRT, signal.SIGSEGV], marks=pytest.mark.row("F31")),
    ],
    ids=["SIGKILL", "abort"],
)
def test_a_sudden_death_costs_next_to_nothing(numbers: list[signal.Signals], odd: Serve, folder: Path) -> None:
    """At odd moments, while bytes arrive: what was told as received is there, and the rest is right."""
    data = content(8 * MIB, seed=6)
    chance = random.Random(27)
    gate = Gate(File(data), 0)
    url = odd(gate).url + "/a.bin"
    told = 0
    for number in numbers:
        gate.open(until=gate.until + 1.5 * MIB)
        with begin("--conn", CONNECTIONS, url, cwd=folder) as command:
            told = command.wait_for_received(int(gate.until))["received"]
            gate.open(until=gate.until + chance.randrange(MIB // 2))
            time.sleep(chance.random() * 0.02)
            command.send(number)
            assert command.finish().code == -number
    gate.open()
    assert resumed(url, folder, data) >= told - CONNECTIONS * AGAIN


# --- stand still ---


@pytest.mark.row("F30")
@pytest.mark.parametrize("how", ["reset", "silent"])
def test_after_a_sleep_with_dead_sockets_it_connects_again(how: str, odd: Serve, folder: Path) -> None:
    file = File(DATA)
    gate = Gate(file, HALF)
    server = odd(gate)
    with begin(server.url + "/a.bin", cwd=folder) as command:
        command.wait_for_received(HALF)
        command.send(signal.SIGSTOP)
        old = list(server.exchanges)
        server.habit = file
        if how == "reset":
            server.hang_up()
        time.sleep(1.0)  # for those who count by a clock
        command.send(signal.SIGCONT)
        if how == "silent":
            server.wait_for(lambda: len(server.exchanges) > len(old), "a new connection")
        assert_done(command.finish(), folder)


@pytest.mark.row("R14")
@pytest.mark.row("F30")
def test_time_without_a_processor_is_nobodys_fault(odd: Serve, folder: Path) -> None:
    """Twice as long as any time-out, and what came meanwhile waits in the sockets."""
    gate = Gate(File(DATA), HALF)
    server = odd(gate)
    limits = ("--timeout", "0.5", "--connect-timeout", "0.5", "--retries", "0")
    with begin(*limits, server.url + "/a.bin", cwd=folder) as command:
        command.wait_for_received(HALF)
        command.send(signal.SIGSTOP)
        gate.open(until=SIZE - 1)
        time.sleep(1.0)
        command.send(signal.SIGCONT)
        gate.open()
        assert_done(command.finish(), folder)


# --- clocks ---


@pytest.mark.row("F36")
@pytest.mark.parametrize("jump", [86400, -86400])
def test_a_wall_clock_that_jumps_is_not_looked_at(jump: int, odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        if len(exchange.server.exchanges) == 1:
            exchange.answer(503, "Retry-After: 1")
        else:
            file(exchange)

    limits = ("--timeout", "10", "--connect-timeout", "10")
    outcome = run_patched(f"clock-jumps={jump}", *limits, odd(habit).url + "/a.bin", cwd=folder)
    assert_done(outcome, folder)
    (retry,) = outcome.of("retry")
    assert 1 <= retry["delay"] < 3
