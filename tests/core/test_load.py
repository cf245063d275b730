"""How busy the loop is."""

from hypothesis import given
from hypothesis import strategies as st

from fastidm.core.load import SHORTEST, Load

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


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=20))
def test_it_is_a_share_whatever_the_clocks_say(passed: list[tuple[float, float]]) -> None:
    load, now, waited = Load(), 0.0, 0.0
    load.begin(now, waited)
    for seconds, wait in passed:
        now, waited = now + seconds, waited + wait
        assert 0.0 <= load.measure(now, waited) <= 1.0
