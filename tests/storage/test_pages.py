"""The pages as pure bytes; what a journal makes of them is in test_journal.py."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastidm.core.segments import merge
from fastidm.storage.pages import common

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8).map(lambda found: merge(found, 60))


def covered(claims: list[tuple[int, int]]) -> set[int]:
    return {at for start, stop in claims for at in range(start, stop)}


@given(ranges, ranges)
def test_what_both_claim_is_claimed_by_each_and_nothing_of_it_is_missing(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    both = common(one, other)
    assert covered(both) == covered(one) & covered(other)
    assert both == common(other, one)
    assert all(start < stop for start, stop in both)
    assert both == sorted(both)
