"""The power is cut on real file systems while the real command downloads.

Rules of this module: a cut may come at any moment, and the download goes on after it. What the journal claims is compared with
the part file byte by byte. `FASTIDM_POWER_CUTS=50` in the environment makes so many cuts of each file system; the normal run
has 4. These cuts are kind ones, see `disks.py`: that nothing is found here says little without the model; that a mistake
which is made on purpose is found says that the cuts are cuts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Thread

import pytest

from tests.crash.disks import Disk
from tests.crash.driver import journal_claims, look
from tests.crash.judge import NEXT_BOOT, boot
from tests.crash.launcher import Launcher
from tests.crash.lockstep import Lockstep
from tests.crash.trace import Ranges
from tests.support.content import content, first_difference
from tests.support.oddserver import File, OddServer

CUTS = int(os.environ.get("FASTIDM_POWER_CUTS", "4"))
SIZE = (4 << 20) + 54_321
DATA = content(SIZE, seed=13)
CONNECTIONS = 4


@contextmanager
def downloading(launcher: Launcher, url: str, folder: Path, without: str = "") -> Iterator[list[int]]:
    """The command runs in `folder`, in a thread; yields a list that gets its exit code."""
    codes: list[int] = []

    def work() -> None:
        codes.append(launcher.run("--quiet", "--conn", CONNECTIONS, url, cwd=folder, without=without)[0])

    thread = Thread(target=work)
    thread.start()
    try:
        yield codes
    finally:
        thread.join()


def wrong_bytes(folder: Path, claims: Ranges) -> int:
    part = (folder / "a.bin.part").read_bytes() if claims else b""
    return sum(stop - start for start, stop in claims if first_difference(part[start:stop], DATA[start:stop]) is not None)


@pytest.mark.timeout(60 + 5 * CUTS)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_power_cut_of_a_real_disk_leaves_nothing_false(kind: str, tmp_path: Path) -> None:
    random, cuts, claimed = Random(), 0, 0
    with Disk(tmp_path, kind) as disk, Launcher(tmp_path, pure=False) as launcher:
        while cuts < CUTS:
            habit = Lockstep(File(DATA), pause=0.012)
            with OddServer(habit) as server:
                url = f"{server.url}/a.bin"
                with downloading(launcher, url, disk.folder) as codes:
                    server.wait_for_requests(1)
                    while not codes and cuts < CUTS:
                        time.sleep(random.uniform(0, 0.3))  # that is the point
                        with disk.cut() as left, boot(NEXT_BOOT):
                            cuts += 1
                            if (left / "a.bin").exists():
                                assert first_difference((left / "a.bin").read_bytes(), DATA) is None
                                continue
                            claims = journal_claims(left)
                            assert wrong_bytes(left, claims) == 0, claims
                            found = look(left / "a.bin") or []
                            claimed += sum(stop - start for start, stop in found)
                assert codes == [0], launcher.log
                with disk.cut() as left:
                    assert first_difference((left / "a.bin").read_bytes(), DATA) is None, "exit code 0 is a promise"
                    assert set(os.listdir(left)) <= {"a.bin", "a.bin.fastidm", "lost+found"}
                (disk.folder / "a.bin").unlink()
    assert claimed > 0, "or nothing was shown"


def test_and_a_missing_sync_is_noticed(tmp_path: Path) -> None:
    habit = Lockstep(File(DATA), pause=0.012)
    wrong = 0
    with (
        Disk(tmp_path, "ext4") as disk,
        Launcher(tmp_path, pure=False) as launcher,
        OddServer(habit) as server,
        downloading(launcher, f"{server.url}/a.bin", disk.folder, without="PartFile.sync") as codes,
    ):
        server.wait_for(lambda: habit.sent > SIZE // 4, "some bytes")
        while not codes and not wrong:
            with disk.cut() as left, boot(NEXT_BOOT):
                wrong += wrong_bytes(left, journal_claims(left))
    assert wrong > 0
