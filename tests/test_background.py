"""Work off the loop: results and errors come back in the loop's thread, in calls to `deliver`."""

from __future__ import annotations

import threading

import pytest

from fastidm import background
from fastidm.background import MOST, Background

SECONDS = 20.0


class Loop:
    """Stands for the engine's loop: sleeps until it is woken."""

    def __init__(self) -> None:
        self._woken = threading.Semaphore(0)
        self.background = Background(self._woken.release)
        self._others = helpers()

    def helpers(self) -> list[threading.Thread]:
        return [thread for thread in helpers() if thread not in self._others]

    def turn(self) -> None:
        assert self._woken.acquire(timeout=SECONDS)
        self.background.deliver()


def test_a_result_and_an_error_are_delivered_where_deliver_is_called() -> None:
    loop = Loop()
    told: list[tuple[object, BaseException | None, threading.Thread]] = []
    failure = OSError(28, "full")

    def fail() -> None:
        raise failure

    for job in (threading.current_thread, fail):
        loop.background.submit(job, lambda result, error: told.append((result, error, threading.current_thread())))
        loop.turn()
    (worker, no_error, here), (nothing, error, also_here) = told
    assert worker is not threading.current_thread()
    assert (no_error, nothing, error) == (None, None, failure)
    assert here is also_here is threading.current_thread()
    loop.background.close()


def test_a_job_that_blocks_holds_up_no_other_and_threads_are_few() -> None:
    loop = Loop()
    gate = threading.Event()
    done: list[object] = []
    loop.background.submit(lambda: gate.wait(SECONDS), lambda result, error: done.append("slow"))
    for number in range(3 * MOST):
        loop.background.submit(lambda number=number: number, lambda result, error: done.append(result))
    for _ in range(3 * MOST):
        loop.turn()
    assert sorted(done) == list(range(3 * MOST))  # type: ignore[type-var]
    assert loop.background.pending == 1
    mine = loop.helpers()
    assert len(mine) <= MOST
    gate.set()
    loop.turn()
    assert done[-1] == "slow"
    loop.background.close()
    for thread in mine:
        thread.join(SECONDS)
        assert not thread.is_alive()


@pytest.mark.parametrize("jobs", [0, 1])
def test_closing_waits_for_nobody(jobs: int) -> None:
    loop = Loop()
    gate = threading.Event()
    for _ in range(jobs):
        loop.background.submit(lambda: gate.wait(SECONDS), lambda result, error: None)
    loop.background.close()
    gate.set()


def test_brief_jobs_share_a_thread_until_one_takes_long() -> None:
    loop = Loop()
    gate = threading.Event()
    done: list[object] = []

    def hand_in(number: int) -> None:
        loop.background.submit(lambda: number, lambda result, error: done.append(result), brief=True)

    for number in range(20):
        hand_in(number)
    while len(done) < 20:
        loop.turn()
    assert len(loop.helpers()) == 1
    loop.background.submit(lambda: gate.wait(SECONDS), lambda result, error: done.append("slow"), brief=True)
    hand_in(20)
    hand_in(21)
    while len(done) < 22:
        threading.Event().wait(0.01)  # as a loop with nothing else to do comes round
        loop.background.deliver()
    assert len(loop.helpers()) == 2
    gate.set()
    while len(done) < 23:
        loop.turn()
    assert done == [*range(22), "slow"]
    loop.background.close()
    for thread in loop.helpers():
        thread.join(SECONDS)


def test_a_thread_without_work_ends_and_later_work_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IDLE", 0.01)
    loop = Loop()
    done: list[object] = []
    for number in range(5):
        loop.background.submit(lambda number=number: number, lambda result, error: done.append(result), brief=True)
        while len(done) <= number:
            loop.turn()
        for thread in loop.helpers():
            thread.join(SECONDS)
        assert not loop.helpers()
    assert done == list(range(5))
    loop.background.close()


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fastidm-disk"]
