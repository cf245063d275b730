"""Connections that are given out to tasks: never more than there are, at least one for each, and evenly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastidm.core.shares import may_join, shares

HOSTS = st.lists(st.sampled_from("abc"), max_size=40)
COUNT = st.integers(1, 50)


@given(HOSTS, COUNT, COUNT)
def test_together_they_never_have_more_than_is_allowed(asking: list[str], total: int, per_host: int) -> None:
    running: list[str] = []
    for host in asking:
        if may_join(host, running, total, per_host):
            running.append(host)
    found = shares(running, total, per_host)
    assert all(share >= 1 for share in found)
    assert sum(found) <= total
    for host in set(running):
        assert sum(share for share, other in zip(found, running, strict=True) if other == host) <= per_host


@given(st.integers(1, 20), COUNT)
def test_those_of_one_server_have_the_same_but_for_one(tasks: int, total: int) -> None:
    found = shares(["a"] * tasks, max(tasks, total), 1000)
    assert max(found) - min(found) <= 1
    assert sum(found) == max(tasks, total)


def test_a_server_that_is_full_keeps_no_other_waiting() -> None:
    running = ["a", "a"]
    assert not may_join("a", running, 10, 2)
    assert may_join("b", running, 10, 2)
    assert not may_join("b", running, 2, 2)
    assert shares(["a", "a", "b"], 30, 4) == [2, 2, 4]
