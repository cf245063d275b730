"""How one connection is doing: stalled, crawling, ignored, judged against the others and never too early."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastidm.core.health import (
    CRAWL_AGE,
    HEADLESS_AFTER,
    STALLED_AFTER,
    Connection,
    Role,
    crawling,
    ignored,
    median,
    stalled,
)

MIB = 1 << 20


def receiving(speed: float, seconds: float, *, answered: float = 0.0) -> Connection:
    """A connection that was answered at `answered` and has brought `speed` bytes per second for `seconds` since."""
    connection = Connection(1, Role.FILL, 0, None, 0, 0.0)
    connection.answered(answered)
    connection.row = 0
    for n in range(1, round(seconds * 20) + 1):
        connection.count(int(speed * n / 20), answered + n / 20)
    return connection


def test_the_middle_one_is_the_upper_of_two_and_nothing_has_none() -> None:
    assert median([]) == 0.0
    assert median([3.0]) == 3.0
    assert median([9.0, 1.0]) == 9.0
    assert median(iter([9.0, 1.0, 5.0])) == 5.0


def test_a_connection_receives_when_it_has_a_segment() -> None:
    connection = Connection(1, Role.FILL, 0, None, 0, 0.0)
    assert not connection.receiving
    connection.row = 0
    assert connection.receiving


# ---------------------------------------------------------------------- speed


def test_a_connection_has_no_speed_before_it_was_answered_nor_right_after() -> None:
    connection = Connection(1, Role.FILL, 0, None, 0, 0.0)
    assert connection.speed(100.0) is None
    connection.answered(100.0)
    assert connection.speed(100.1) is None
    assert connection.speed(100.3) is not None


def test_its_speed_is_what_it_brings_since_the_head_came() -> None:
    assert receiving(MIB, 2, answered=5.0).speed(7.0) == pytest.approx(MIB, rel=0.01)


def test_one_that_stands_still_has_the_speed_zero() -> None:
    connection = receiving(MIB, 2)
    connection.count(connection.received, 2 + STALLED_AFTER + 0.1)
    assert connection.speed(2 + STALLED_AFTER + 0.1) == 0.0


# ---------------------------------------------------------------------- stalled


def test_silence_makes_a_receiving_connection_stalled() -> None:
    connection = receiving(MIB, 2)
    assert not stalled(connection, 2 + STALLED_AFTER)
    assert stalled(connection, 2.1 + STALLED_AFTER)


def test_a_single_byte_ends_the_silence() -> None:
    connection = receiving(MIB, 2)
    connection.count(connection.received + 1, 9.0)
    assert not stalled(connection, 9.0 + STALLED_AFTER)


def test_one_that_has_no_segment_yet_is_not_stalled() -> None:
    assert not stalled(Connection(1, Role.FILL, 0, None, 0, 0.0), 1000.0)


# ---------------------------------------------------------------------- ignored


@pytest.mark.parametrize(
    ("cost", "idle", "patience"),
    [(0.02, False, HEADLESS_AFTER), (2.0, False, 20.0), (0.02, True, 1.0), (2.0, True, 10.0)],
)
def test_patience_with_a_silent_server_grows_with_its_usual_time(cost: float, idle: bool, patience: float) -> None:
    connection = Connection(1, Role.FILL, 0, None, 0, 50.0)
    assert not ignored(connection, cost, 50.0 + patience, idle)
    assert ignored(connection, cost, 50.1 + patience, idle)


def test_one_that_was_answered_is_not_ignored_however_silent() -> None:
    assert not ignored(receiving(0, 0), 0.02, 1000.0)


# ---------------------------------------------------------------------- crawling


def test_one_far_slower_than_the_others_and_holding_up_the_task_crawls() -> None:
    assert crawling(receiving(MIB / 32, 3), MIB, task_eta=5.0, remaining=MIB, now=3.0)


@pytest.mark.parametrize("share", [0.26, 0.5, 1.0, 3.0])
def test_one_that_is_slower_but_not_by_far_is_left_alone(share: float) -> None:
    assert not crawling(receiving(share * MIB, 3), MIB, task_eta=0.0, remaining=1 << 40, now=3.0)


def test_one_that_will_be_done_with_the_others_is_left_alone() -> None:
    assert not crawling(receiving(MIB / 32, 3), MIB, task_eta=60.0, remaining=MIB, now=3.0)


def test_a_young_connection_is_not_judged() -> None:
    assert not crawling(receiving(0, CRAWL_AGE / 2), MIB, task_eta=1.0, remaining=MIB, now=CRAWL_AGE / 2)
    assert not crawling(Connection(1, Role.FILL, 0, None, 0, 0.0), MIB, task_eta=1.0, remaining=MIB, now=100.0)


@given(st.floats(0, 100 * MIB), st.floats(0, 100 * MIB), st.floats(0, 1e6), st.integers(0, 1 << 40), st.floats(0, 100))
def test_the_verdicts_need_nothing_but_numbers(speed: float, typical: float, eta: float, left: int, now: float) -> None:
    connection = receiving(speed, 2)
    verdict = crawling(connection, typical, eta, left, now)
    assert not verdict or (now >= CRAWL_AGE and left > 0 and connection.average.speed < typical)
