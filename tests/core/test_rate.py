"""Speeds, times left and the rate limit: numbers that people see, and that must be honest from the first second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastidm.core.rate import SpeedAverage, TokenBucket, time_left

# ---------------------------------------------------------------------- speed


@given(st.floats(0.01, 5), st.integers(0, 1 << 40), st.integers(1, 200))
def test_a_steady_speed_is_shown_as_it_is_from_the_first_moment_on(step: float, speed: int, steps: int) -> None:
    average = SpeedAverage(100.0, 12345)
    for n in range(1, steps + 1):
        shown = average.update(12345 + round(n * step * speed), 100.0 + n * step)
        assert shown == average.speed == pytest.approx(speed, rel=1e-6, abs=2 / step)


def test_a_fast_start_is_not_hidden_by_a_zero_that_nobody_measured() -> None:
    assert SpeedAverage(0.0).update(1000, 0.1) == pytest.approx(10_000)


def test_bytes_of_an_earlier_run_are_no_speed() -> None:
    assert SpeedAverage(0.0, count=1 << 30).update(1 << 30, 1.0) == 0


def test_an_old_speed_fades_within_its_memory() -> None:
    average = SpeedAverage(0.0, memory=1.0)
    for n in range(1, 101):
        average.update(n * 1000, n / 10)
    for n in range(1, 31):
        average.update(100_000, 10 + n / 10)
    assert average.speed < 0.06 * 10_000


@given(st.lists(st.tuples(st.floats(0.001, 10), st.integers(0, 1 << 30)), min_size=1, max_size=50))
def test_an_average_lies_between_the_slowest_and_the_fastest(steps: list[tuple[float, int]]) -> None:
    average, now, count, seen = SpeedAverage(0.0), 0.0, 0, []
    for seconds, bytes_ in steps:
        before, now, count = now, now + seconds, count + bytes_
        seen.append(bytes_ / (now - before))
        average.update(count, now)
    assert min(seen) * 0.999 - 1e-6 <= average.speed <= max(seen) * 1.001 + 1e-6


def test_two_looks_at_the_same_instant_change_nothing() -> None:
    average = SpeedAverage(0.0)
    average.update(1000, 1.0)
    assert average.update(5000, 1.0) == 1000
    assert average.update(5000, 0.5) == 1000


def test_nobody_can_say_how_long_it_takes_at_no_speed() -> None:
    assert time_left(100, 50.0) == 2.0
    assert time_left(100, 0.0) is None
    assert time_left(0, 0.0) == 0.0


# ---------------------------------------------------------------------- limit


def test_bytes_below_the_rate_need_no_wait() -> None:
    bucket = TokenBucket(1000, 0.0)
    for n in range(1, 100):
        bucket.take(90, n / 10)
        assert bucket.wait(n / 10) == 0.0


def test_what_came_too_fast_is_waited_for() -> None:
    bucket = TokenBucket(1000, 0.0)
    bucket.take(3000, 0.0)
    assert bucket.wait(0.0) == pytest.approx(3.0)
    assert bucket.wait(2.0) == pytest.approx(1.0)
    assert bucket.wait(4.0) == 0.0


def test_a_long_rest_earns_no_more_than_a_quarter_second() -> None:
    bucket = TokenBucket(1000, 0.0)
    bucket.take(250, 3600.0)
    assert bucket.wait(3600.0) == 0.0
    bucket.take(1, 3600.0)
    assert bucket.wait(3600.0) > 0


@given(
    st.integers(1, 10**9),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2)), min_size=1, max_size=100),
)
def test_who_waits_as_told_stays_below_the_rate(rate: int, blocks: list[tuple[float, float]]) -> None:
    """Each block: seconds of idleness before it, and its size in seconds at the full rate."""
    bucket, now, taken, largest = TokenBucket(rate, 0.0), 0.0, 0, 0
    for idle, size in blocks:
        now += idle + bucket.wait(now + idle)
        count = int(size * rate)
        bucket.take(count, now)
        taken, largest = taken + count, max(largest, count)
        assert taken <= rate * (now + 0.25) + largest + 1e-6 * taken + 1


@given(st.integers(1, 10**9), st.integers(0, 10**10), st.floats(0, 100))
def test_a_wait_is_over_when_it_said_it_would_be(rate: int, count: int, now: float) -> None:
    bucket = TokenBucket(rate, 0.0)
    bucket.take(count, now)
    assert bucket.wait(now + bucket.wait(now)) == pytest.approx(0.0, abs=1e-6 * (1 + count / rate))
