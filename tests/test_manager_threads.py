"""Eight threads do whatever they like with one manager: nothing hangs, nothing leaks, and every finished file is right.

`FASTIDM_SOAK=60 pytest tests/test_manager_threads.py` goes on for a minute.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from fastidm import DownloadManager, DownloadStatus, DownloadTask
from fastidm.errors import FastidmError
from tests.support.content import content
from tests.support.servers import Nginx, wait_until

SECONDS = float(os.environ.get("FASTIDM_SOAK", "4"))
THREADS = 8
SIZES = (0, 1000, 300_000, 3_000_000)
ACTIONS = (
    *("add", "pause", "resume", "cancel", "delete", "limit", "unlimit", "look", "wait", "listen"),
    *("pause_all", "resume_all"),
)
action = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1000))
plans = st.lists(st.lists(action, min_size=1, max_size=8), min_size=THREADS, max_size=THREADS)


class Crowd(RuleBasedStateMachine):
    """One manager, and eight threads that use it."""

    urls: tuple[str, ...] = ()

    @initialize(most=st.integers(1, 6), wide=st.sampled_from([None, 4]))
    def begin(self, most: int, wide: int | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fastidm-crowd-"))
        self.manager = DownloadManager(lambda task, event: None, max_downloads=most, max_connections=wide)
        self.tasks: list[DownloadTask] = []
        self.sizes: dict[DownloadTask, int] = {}
        self.lock = threading.Lock()

    @rule(plans=plans)
    def act(self, plans: list[list[tuple[str, int]]]) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            for future in [pool.submit(self.follow, plan) for plan in plans]:
                future.result(60)

    def follow(self, plan: list[tuple[str, int]]) -> None:
        for what, number in plan:
            if what == "add" or not self.tasks:
                self.add(number)
            else:
                self.do(what, self.tasks[number % len(self.tasks)])

    def add(self, number: int) -> None:
        place = number % len(SIZES)
        with self.lock:
            name = f"{len(self.tasks)}.bin"
            task = self.manager.make(self.urls[place], self.folder / name, connections=4, priority=number % 3)
            self.tasks.append(task)
            self.sizes[task] = SIZES[place]
        task.begin()

    def do(self, what: str, task: DownloadTask) -> None:
        if what in ("pause", "resume", "cancel"):
            getattr(task, what)()
        elif what == "delete":
            task.cancel(delete=True)
        elif what == "limit":
            task.set_limit(1_000_000)
        elif what == "unlimit":
            task.set_limit(None)
        elif what == "look":
            assert task.progress.received >= 0
            assert len(task.progress.segments) >= 0
            assert isinstance(task.status, DownloadStatus)
        elif what == "wait":
            try:
                task.wait(0.01)
            except (FastidmError, TimeoutError):
                pass
        elif what == "listen":
            task.events()
        else:
            getattr(self.manager, what)()

    def teardown(self) -> None:
        if not hasattr(self, "manager"):
            return
        try:
            self.manager.set_limit(None)
            for task in self.tasks:
                task.set_limit(None)
            self.manager.resume_all()
            assert self.manager.wait_all(30), [task for task in self.tasks if not task.settled(0)]
            for task in self.tasks:
                assert task.settled(10), task
                if task.status is DownloadStatus.COMPLETED:
                    assert task.path is not None
                    assert Path(task.path).read_bytes() == content(self.sizes[task])
        finally:
            self.manager.close()
            shutil.rmtree(self.folder)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory() -> int:
    """Bytes that this process holds and nobody else."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) << 10


@pytest.fixture
def crowd(nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    monkeypatch.setattr(Crowd, "urls", tuple(nginx.add(f"{size}.bin", content(size)) for size in SIZES))

    def run() -> None:
        run_state_machine_as_test(
            Crowd, settings=settings(max_examples=4, stateful_step_count=4, deadline=None, database=None, derandomize=False)
        )

    return run


@pytest.mark.timeout(120 + 3 * SECONDS)
def test_eight_threads_at_random_leave_nothing_behind_and_no_wrong_file(crowd: Callable[[], None]) -> None:
    crowd()  # what is made once is there then
    gc.collect()
    files, threads, held = descriptors(), threading.active_count(), memory()
    until, rounds = monotonic() + SECONDS, 0
    while monotonic() < until:
        crowd()
        rounds += 1
    gc.collect()
    wait_until(lambda: threading.active_count() <= threads, "the end of its threads")
    wait_until(lambda: descriptors() <= files, "the end of its descriptors")
    grown = memory() - held
    print(f"{rounds} rounds, {grown >> 10} KiB more memory")
    assert grown < 64 << 20
