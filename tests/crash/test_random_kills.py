"""Downloads are killed at random moments, again and again, and end with the right file and little fetched twice.

Rules of this module:

* The command is the real one, started anew each time, with the C sink and the Python one, few and many connections.
* The server goes in lockstep (see `lockstep.py`), so the bytes that it sent are the bytes that were fetched, up to one slice
  per connection. All of them are counted: what is sent beyond the size of the file was fetched twice.
* `FASTIDM_KILLS=200` in the environment makes so many kills; then its figures are printed with `-s`. The normal run has 20.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

import pytest

from tests.crash.driver import journal_claims, look
from tests.crash.lockstep import Lockstep
from tests.support.command import Command, run
from tests.support.content import content, first_difference
from tests.support.oddserver import File, OddServer

KILLS = int(os.environ.get("FASTIDM_KILLS", "20"))
SIZE = (4 << 20) + 12_345
DATA = content(SIZE, seed=12)
PER_DOWNLOAD = 5
LOST_PER_CONNECTION = 64 << 10
"""Bytes that a kill may make to be fetched twice, per active connection."""
VARIANTS = [("", 4, "pwrite"), ("", 16, "auto"), ("1", 4, "pwrite"), ("", 8, "mmap")]


def wait_until_sent(server: OddServer, habit: Lockstep, count: int) -> None:
    server.wait_for(lambda: habit.sent >= count, f"the sending of {count} bytes")


@pytest.mark.timeout(60 + 3 * KILLS)
def test_kills_at_random_moments(tmp_path: Path) -> None:
    random = Random()
    again: list[float] = []
    wrong = 0
    for number in range(-(-KILLS // PER_DOWNLOAD)):
        folder = tmp_path / str(number)
        folder.mkdir()
        pure, connections, io = VARIANTS[number % len(VARIANTS)]
        env = {"FASTIDM_PURE": pure}
        habit = Lockstep(File(DATA), pause=0.002)
        with OddServer(habit) as server:
            command = ("--quiet", "--conn", connections, "--io", io, f"{server.url}/a.bin")
            sent = kept = requests = 0
            for _ in range(min(PER_DOWNLOAD, KILLS - len(again))):
                with Command(*command, cwd=folder, env=env) as process:
                    wait_until_sent(server, habit, habit.sent + random.randrange(1, (SIZE - kept) // 2))
                    time.sleep(random.uniform(0, 0.005))  # to wherever that is
                    process.kill()
                habit.wait_until_quiet(server)
                active = min(connections, len(server.exchanges) - requests)
                requests = len(server.exchanges)
                written = journal_claims(folder)  # before holes in the part file are taken from it
                claims = look(folder / "a.bin") or []
                part = (folder / "a.bin.part").read_bytes() if written else b""
                wrong += sum(first_difference(part[start:stop], DATA[start:stop]) is not None for start, stop in written)
                now = sum(stop - start for start, stop in claims)
                # What this run has fetched and the journal does not know; also what it compared in its beginning.
                again.append(((habit.sent - sent) - (now - kept)) / active)
                sent, kept = habit.sent, now
            outcome = run(*command, cwd=folder, env=env)
            assert (outcome.code, outcome.stderr) == (0, "")
            assert os.listdir(folder) == ["a.bin"]
            assert first_difference((folder / "a.bin").read_bytes(), DATA) is None
            twice = habit.sent - SIZE
            assert twice <= LOST_PER_CONNECTION * connections * PER_DOWNLOAD, (command, again[-PER_DOWNLOAD:])
    mean = sum(again) / len(again)
    print(f"{len(again)} kills, {wrong} wrong; fetched twice per connection and kill: mean {mean:.0f}, most {max(again):.0f}")
    assert len(again) == KILLS
    assert wrong == 0
    assert max(again) <= LOST_PER_CONNECTION
