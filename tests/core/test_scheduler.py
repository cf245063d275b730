"""Where to cut, when to split and to hedge, and how many connections: late, seldom, and never to make it slower."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastidm.core.scheduler import ALIGN, FIRST_CUT, GAIN, PIECE, Cut, Ramp, Runner, first_cut, plan_hedge, plan_split

MIB = 1 << 20
COST = 0.05

runners = st.builds(
    lambda row, position, left, speed: Runner(row, position, position + left, speed),
    st.integers(0, 20),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 34),
    st.just(0.0) | st.floats(1, 1 << 30),
)

# ---------------------------------------------------------------------- the first cut


@given(st.integers(0, 1 << 50), st.integers(1, 128), st.data())
def test_the_first_cut_makes_even_aligned_segments_of_what_is_left_none_of_them_small(
    size: int, connections: int, data: st.DataObject
) -> None:
    position = data.draw(st.just(0) | st.integers(0, size))
    edges = [position, *first_cut(size, connections, position), size]
    assert edges == sorted(edges) and len(edges) <= connections + 1
    assert all(at % ALIGN == 0 for at in edges[1:-1])
    lengths = [b - a for a, b in pairwise(edges)]
    if len(lengths) > 1:
        assert min(lengths) >= FIRST_CUT / (1 if position == 0 else 2) - ALIGN and max(lengths) - min(lengths) <= 2 * ALIGN


def test_a_large_file_has_a_segment_for_each_connection_and_a_small_one_is_left_whole() -> None:
    assert len(first_cut(1 << 30, 16)) == 15
    assert first_cut(2 * FIRST_CUT - 1, 16) == []
    assert first_cut(1 << 30, 1) == []
    assert first_cut(4 * FIRST_CUT, 4, FIRST_CUT) == [FIRST_CUT * part // 4 for part in (7, 10, 13)]


# ---------------------------------------------------------------------- time left


def test_time_left_is_remaining_by_speed() -> None:
    assert Runner(0, 100, 300, 50.0).eta == 4.0
    assert Runner(0, 100, 300, 0.0).eta == float("inf")
    assert Runner(0, 300, 300, 0.0).eta == 0.0


# ---------------------------------------------------------------------- split


@given(st.lists(runners, max_size=6), st.floats(0, 1 << 30), st.floats(0, 5))
def test_a_split_cuts_inside_the_segment_that_would_take_longest(segments: list[Runner], speed: float, cost: float) -> None:
    cut = plan_split(segments, speed, cost)
    if cut is not None:
        victim = next(r for r in segments if r.row == cut.row and r.eta == max(r.eta for r in segments))
        assert victim.position <= cut.at < victim.stop


@given(st.lists(runners, max_size=6), st.floats(1, 1 << 30), st.floats(0, 5))
def test_a_split_saves_at_least_what_makes_it_worth_a_connection(segments: list[Runner], speed: float, cost: float) -> None:
    cut = plan_split(segments, speed, cost)
    if cut is not None:
        victim = max(segments, key=lambda runner: runner.eta)
        assume(victim.speed > 0)
        front, back = (cut.at - victim.position) / victim.speed, cost + (victim.stop - cut.at) / speed
        rounding = ALIGN / victim.speed
        assert max(front, back) <= victim.eta - GAIN + rounding + 1e-6


@given(st.integers(0, 1 << 40), st.floats(MIB / 4, 64 * MIB), st.floats(0.25, 8), st.floats(5, 500))
def test_both_halves_of_a_split_finish_together(position: int, slow: float, ratio: float, eta: float) -> None:
    fast, stop = slow * ratio, position + int(slow * eta)
    cut = plan_split([Runner(3, position, stop, slow)], fast, COST)
    assert cut is not None
    front, back = (cut.at - position) / slow, COST + (stop - cut.at) / fast
    assert front == pytest.approx(back, abs=ALIGN / slow + ALIGN / fast + 0.01)


def test_a_segment_that_stands_still_is_given_away_whole_and_at_once() -> None:
    segments = [Runner(0, 0, 100 * MIB, 50.0 * MIB), Runner(1, 200 * MIB + 5, 200 * MIB + 77, 0.0)]
    assert plan_split(segments, MIB, COST) == Cut(1, 200 * MIB + 5)


@pytest.mark.parametrize(
    "segments",
    [
        [],
        [Runner(0, MIB, MIB, MIB)],
        [Runner(0, 0, MIB // 8, MIB)],  # done in an eighth of a second
        [Runner(0, 0, PIECE, PIECE / 4.0)],  # nothing to give away
        [Runner(0, 0, PIECE + 9, PIECE / 8.0)],  # too little to give away
    ],
)
def test_nothing_worth_it_is_not_split(segments: list[Runner]) -> None:
    assert plan_split(segments, MIB, COST) is None


def test_no_split_when_nobody_knows_what_a_connection_brings() -> None:
    assert plan_split([Runner(0, 0, 100 * MIB, MIB)], 0.0, COST) is None


def test_an_expensive_connection_is_not_worth_a_short_wait() -> None:
    segments = [Runner(0, 0, 2 * MIB, MIB)]
    assert plan_split(segments, MIB, 0.05) is not None
    assert plan_split(segments, MIB, 3.0) is None


def test_a_segment_whose_bytes_wait_on_this_machine_is_cut_only_if_much_more_is_left() -> None:
    """Its connection brings in vain what is on its way beyond the cut."""
    for backlog, cut in ((0, True), (MIB // 2, True), (4 * MIB, False)):
        assert bool(plan_split([Runner(0, 0, 16 * MIB, MIB, backlog)], 1.0 * MIB, COST)) is cut


# ---------------------------------------------------------------------- hedge


def test_the_slow_tail_is_asked_for_a_second_time() -> None:
    slow, quick = Runner(0, 0, MIB // 4, 16.0 * 1024), Runner(1, MIB, 2 * MIB, MIB)
    assert plan_hedge([slow, quick], MIB, COST, 8 * MIB) == slow


@given(st.lists(runners, max_size=6), st.floats(1, 1 << 30), st.floats(0, 5), st.integers(0, 1 << 34))
def test_a_hedge_is_twice_as_quick_and_keeps_to_its_budget(
    segments: list[Runner], speed: float, cost: float, budget: int
) -> None:
    chosen = plan_hedge(segments, speed, cost, budget)
    if chosen is not None:
        left = chosen.stop - chosen.position
        assert 0 < left <= budget and chosen.eta == max(r.eta for r in segments)
        assert chosen.eta > 2 * (cost + left / speed)


def test_what_is_nearly_done_or_too_large_is_not_hedged() -> None:
    assert plan_hedge([Runner(0, 0, MIB, 10.0 * MIB)], MIB, COST, 8 * MIB) is None
    assert plan_hedge([Runner(0, 0, 9 * MIB, 1.0)], MIB, COST, 8 * MIB) is None
    assert plan_hedge([Runner(0, 0, 9, 0.0)], 0.0, COST, 8 * MIB) is None
    assert plan_hedge([], MIB, COST, 8 * MIB) is None


# ---------------------------------------------------------------------- how many connections


def climb(ramp: Ramp, now: float = 0.0, receiving: int = 0) -> int:
    """Answer as many connections as are allowed, until no more are; returns how many then receive."""
    while receiving < ramp.allowed(now):
        receiving += 1
        ramp.answered(receiving, now)
    return receiving


@pytest.mark.parametrize("ceiling", [1, 2, 5, 16, 128])
def test_connections_grow_from_one_to_the_ceiling(ceiling: int) -> None:
    ramp = Ramp(ceiling)
    assert ramp.allowed(0.0) == 1
    assert climb(ramp) == ceiling == ramp.allowed(0.0)


def test_a_second_one_is_the_test_and_then_they_grow_by_steps() -> None:
    ramp, rounds, receiving = Ramp(100), [], 0
    while receiving < 100:
        rounds.append(ramp.allowed(0.0))
        while receiving < rounds[-1]:
            receiving += 1
            ramp.answered(receiving, 0.0)
    assert rounds == [1, 2, 8, 32, 100]


def test_a_step_is_taken_when_all_that_were_added_have_been_answered() -> None:
    ramp = Ramp(100)
    for receiving in range(1, 8):
        ramp.answered(receiving, 0.0)
        assert ramp.allowed(0.0) == (2 if receiving == 1 else 8)
    ramp.answered(8, 0.0)
    assert ramp.allowed(0.0) == 32


def test_a_limit_of_the_server_is_kept() -> None:
    ramp = Ramp(16)
    climb(ramp)
    for others in (15, 10, 4, 6):
        ramp.refused(others, 1.0)
    assert ramp.limit == ramp.allowed(2.0) == ramp.allowed(1.0 + Ramp.PATIENCE) == 4


def test_a_limit_is_put_to_the_test_by_one_connection_every_half_minute() -> None:
    ramp = Ramp(16)
    climb(ramp)
    ramp.refused(4, 0.0)
    assert ramp.allowed(Ramp.PATIENCE + 1) == 5
    ramp.refused(4, Ramp.PATIENCE + 1)
    assert ramp.allowed(Ramp.PATIENCE + 2) == 4
    ramp.answered(5, 2 * Ramp.PATIENCE + 3)
    assert ramp.limit == 5


def test_a_server_that_says_for_how_long_it_is_busy_is_left_alone_until_then() -> None:
    ramp = Ramp(16)
    climb(ramp)
    ramp.refused(4, 0.0, 120.0)
    assert ramp.allowed(119.0) == 4
    assert ramp.allowed(121.0) == 5


def test_there_is_always_one_connection() -> None:
    ramp = Ramp(16)
    ramp.refused(0, 0.0)
    assert ramp.allowed(1.0) == 1
    ramp.restarted(1.0)
    assert ramp.allowed(1.0) == 1


def test_after_all_were_lost_it_begins_with_one_and_remembers_the_limit() -> None:
    ramp = Ramp(16)
    climb(ramp)
    ramp.refused(8, 0.0)
    ramp.restarted(Ramp.FAREWELL)
    assert ramp.allowed(0.0) == 1
    assert climb(ramp) == 8


def test_a_refusal_just_before_all_were_lost_was_no_limit() -> None:
    ramp = Ramp(16)
    climb(ramp)
    ramp.refused(8, 0.0)
    ramp.restarted(Ramp.FAREWELL - 1)
    assert ramp.limit is None
    assert climb(ramp) == 16


def test_without_a_limit_it_climbs_to_the_ceiling_again_after_all_were_lost() -> None:
    ramp = Ramp(16)
    climb(ramp)
    ramp.restarted(0.0)
    assert climb(ramp) == 16


def test_more_connections_that_bring_no_more_bytes_stop_the_climb() -> None:
    ramp, now, received = Ramp(64), 0.0, 0
    for receiving in range(1, 65):
        if receiving > ramp.allowed(now):
            break
        ramp.answered(receiving, now)
        for _ in range(15):  # the line is full from four connections on
            now, received = now + 0.05, received + min(receiving, 4) * MIB
            ramp.measure(received, receiving, now)
    assert receiving < 40


def test_the_climb_goes_on_while_goodput_grows() -> None:
    ramp, now, received, receiving = Ramp(16), 0.0, 0, 0
    while receiving < ramp.allowed(now):
        receiving += 1
        ramp.answered(receiving, now)
        for _ in range(15):
            now, received = now + 0.05, received + receiving * MIB
            ramp.measure(received, receiving, now)
    assert receiving == 16


@given(
    st.integers(1, 128),
    st.lists(
        st.tuples(st.sampled_from(["answered", "refused", "restarted", "measure"]), st.integers(0, 128), st.floats(0, 40)),
        max_size=60,
    ),
)
def test_whatever_happens_at_least_one_and_at_most_the_ceiling_are_allowed(
    ceiling: int, events: list[tuple[str, int, float]]
) -> None:
    ramp, now, received = Ramp(ceiling), 0.0, 0
    for event, count, passed in events:
        now, received = now + passed, received + count
        if event == "restarted":
            ramp.restarted(now)
        elif event == "measure":
            ramp.measure(received, count, now)
        elif event == "answered":
            ramp.answered(count, now)
        else:
            ramp.refused(count, now)
        assert 1 <= ramp.allowed(now) <= ceiling
