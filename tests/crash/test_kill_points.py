"""The command is killed at each point where it touches the disk or the table, twice, and then simply run again.

Rules of this module: what counts is what the user sees in the end: the right file, nothing else, and little fetched twice.
`FASTIDM_KILL_POINTS=20` in the environment takes so many points of each seam.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.driver import journal_claims
from tests.crash.launcher import Launcher
from tests.crash.lockstep import Lockstep
from tests.support.content import content, first_difference
from tests.support.oddserver import File, OddServer

SIZE = (2 << 20) + 300_001
DATA = content(SIZE, seed=11)
CONNECTIONS = 4
LOST_PER_CONNECTION = 64 << 10
"""Bytes that a kill may make to be fetched twice, per active connection."""
MOST_POINTS = int(os.environ.get("FASTIDM_KILL_POINTS", "3"))
"""Of each seam, spread over all that it has; at least 2."""
EXISTS = 12


@pytest.mark.parametrize(("pure", "io"), [(True, "pwrite"), (True, "mmap"), (False, "pwrite")], ids=["pure", "map", "c"])
def test_a_kill_at_any_point_costs_little_and_breaks_nothing(pure: bool, io: str, tmp_path: Path) -> None:
    habit = Lockstep(File(DATA), pause=0.001)
    with OddServer(habit) as server, Launcher(tmp_path, pure=pure) as launcher:
        command = ("--quiet", "--conn", CONNECTIONS, "--io", io, f"{server.url}/a.bin")
        folder = tmp_path / "not killed"
        folder.mkdir()
        code, points = launcher.run(*command, cwd=folder)
        assert code == 0, launcher.log
        assert_right_and_alone(folder)
        if (pure, io) == (True, "pwrite"):
            assert len(points) >= 12, points
        else:  # the rest is the same as there
            points = Counter({seam: points[seam] for seam in ("flush", "write into the map", "sync") if points[seam]})
        kills = 0
        for seam, count in points.items():
            for point in spread(count):
                folder = tmp_path / f"{seam} {point}"
                folder.mkdir()
                sent, dead = habit.sent, 0
                for _ in range(2):
                    code, _ = launcher.run(*command, cwd=folder, seam=seam, point=point)
                    habit.wait_until_quiet(server)
                    if code == -signal.SIGKILL:
                        dead += 1
                        assert_claims_are_right(folder)
                complete = (folder / "a.bin").exists()
                code, _ = launcher.run(*command, cwd=folder)
                habit.wait_until_quiet(server)
                assert code == (EXISTS if complete else 0), (seam, point, launcher.log)
                assert_right_and_alone(folder)
                again = habit.sent - sent - SIZE
                assert again <= max(dead, 1) * CONNECTIONS * LOST_PER_CONNECTION, (seam, point)
                kills += dead
        assert kills >= 3 * len(points)


def spread(count: int) -> list[int]:
    """The first point, the last, and some in between."""
    return sorted({1 + (count - 1) * step // (MOST_POINTS - 1) for step in range(MOST_POINTS)})


def assert_right_and_alone(folder: Path) -> None:
    assert os.listdir(folder) == ["a.bin"]
    assert first_difference((folder / "a.bin").read_bytes(), DATA) is None


def assert_claims_are_right(folder: Path) -> None:
    if (folder / "a.bin").exists():
        return
    # Of the journal: that holes in the part file are not believed would hide a claim that came too early.
    for start, stop in journal_claims(folder):
        with open(folder / "a.bin.part", "rb") as file:
            file.seek(start)
            assert first_difference(file.read(stop - start), DATA[start:stop]) is None
