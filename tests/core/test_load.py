"""How busy the loop is."""

from hypothesis import given
from hypothesis import strategies as st

from fastidm.core.load import GLANCE, SHORTEST, Load

SECONDS = st.floats(0, 1000, allow_subnormal=False)


def test_it_is_the_share_of_the_time_since_the_last_look_in_which_nobody_waited() -> None:
    load = Load()
    load.begin(10.0, 2.0)
    assert load.measure(12.0, 3.0) == 0.5
    assert load.measure(13.0, 4.0) == 0.0
    assert load.measure(14.0, 4.0) == 1.0


def test_what_was_before_it_began_does_not_count() -> None:
    load = Load()
    load.begin(0.0, 0.0)
    load.measure(100.0, 1.0)
    load.begin(200.0, 2.0)
    assert load.measure(201.0, 3.0) == 0.0


def test_two_looks_in_a_row_see_the_same() -> None:
    load = Load()
    load.begin(0.0, 0.0)
    assert load.measure(1.0, 0.25) == load.measure(1.0, 0.25) == load.measure(1.0 + SHORTEST / 2, 0.251) == 0.75


def test_a_glance_tells_of_what_is_under_way_if_it_is_long_and_else_what_the_last_look_saw() -> None:
    load = Load()
    assert load.glance(5.0, 1.0) == 0.0, "nothing was begun"
    load.begin(0.0, 0.0)
    load.measure(1.0, 0.75)
    assert load.glance(1.0 + GLANCE / 2, 0.75) == 0.25
    assert load.glance(3.0, 1.75) == 0.5
    assert load.measure(5.0, 2.75) == 0.5, "a glance is no look"


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=20))
def test_it_is_a_share_whatever_the_clocks_say(passed: list[tuple[float, float]]) -> None:
    load, now, waited = Load(), 0.0, 0.0
    load.begin(now, waited)
    for seconds, wait in passed:
        now, waited = now + seconds, waited + wait
        assert 0.0 <= load.glance(now, waited) <= 1.0
        assert 0.0 <= load.measure(now, waited) <= 1.0
