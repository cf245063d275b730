"""The choice between map and pwrite follows what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastidm.storage.iomode import ENOUGH, LARGE, MANY, TRIAL, IoMode
from fastidm.storage.sink import MAP, PWRITE


class Measured:
    """Stands for a sink: its mode and what that has cost."""

    def __init__(self, mode: int, ns_per_byte: float, count: int = ENOUGH) -> None:
        self.mode = mode
        self.cost_bytes = count
        self.cost_ns = int(ns_per_byte * count)


def settle(mode: IoMode, *sinks: Measured) -> set[int]:
    mode.choose(sinks)  # type: ignore[arg-type]
    return modes(mode)


def modes(mode: IoMode) -> set[int]:
    """What the next sinks are made with."""
    return {mode.sink_settings()["mode"] for _ in range(TRIAL)}


@pytest.mark.parametrize(("wish", "mode"), [("mmap", MAP), ("pwrite", PWRITE)])
def test_a_forced_mode_is_kept_whatever_it_costs(wish: str, mode: int) -> None:
    assert settle(IoMode(wish, LARGE, 16), Measured(MAP, 1.0), Measured(PWRITE, 2.0)) == {mode}
    assert settle(IoMode(wish, LARGE, 16), Measured(MAP, 2.0), Measured(PWRITE, 1.0)) == {mode}


@pytest.mark.parametrize(("map_cost", "chosen"), [(0.5, MAP), (0.75, MAP), (0.85, PWRITE), (1.0, PWRITE), (20.0, PWRITE)])
def test_auto_tries_both_and_keeps_the_map_if_it_is_clearly_cheaper(map_cost: float, chosen: int) -> None:
    mode = IoMode("auto", LARGE, 16)
    assert modes(mode) == {MAP, PWRITE}
    sinks = [Measured(MAP, map_cost), Measured(PWRITE, 1.0)]
    assert settle(mode, *sinks) == {chosen}
    assert {sink.mode for sink in sinks} == {chosen}


def test_one_connection_in_eight_tries_the_map_and_the_second_begins() -> None:
    mode = IoMode("auto", LARGE, 16)
    tried = [mode.sink_settings()["mode"] for _ in range(16)]
    assert [number for number, each in enumerate(tried, 1) if each == MAP] == [2, 10]


MEASURED = st.tuples(st.sampled_from([MAP, PWRITE]), st.floats(0.1, 10.0), st.integers(0, ENOUGH), st.booleans())


@given(st.lists(MEASURED, max_size=12))
def test_a_sink_that_has_ended_counts_like_one_that_runs(measured: list[tuple[int, float, int, bool]]) -> None:
    running, partly = IoMode("auto", LARGE, 16), IoMode("auto", LARGE, 16)
    sinks = [(Measured(*each), ended) for *each, ended in measured]
    for sink, ended in sinks:
        if ended:
            partly.ended(sink)  # type: ignore[arg-type]
    partly.choose([sink for sink, ended in sinks if not ended])  # type: ignore[misc]
    again = [Measured(*each) for *each, _ in measured]
    assert settle(running, *again) == modes(partly)


def test_connections_that_end_early_do_not_put_the_judgement_off() -> None:
    """A server that ends each after 1 MiB must not keep the map on trial for ever."""
    mode = IoMode("auto", LARGE, 16)
    for _ in range(4):
        mode.choose([])
        assert modes(mode) == {MAP, PWRITE}
        mode.ended(Measured(MAP, 3.0, 1 << 20))  # type: ignore[arg-type]
        mode.ended(Measured(PWRITE, 1.0, 7 << 20))  # type: ignore[arg-type]
    assert settle(mode) == {PWRITE}


def test_auto_does_not_judge_before_both_have_written_enough() -> None:
    mode = IoMode("auto", LARGE, 16)
    assert settle(mode, Measured(MAP, 9.0, ENOUGH - 1), Measured(PWRITE, 1.0)) == {MAP, PWRITE}
    assert settle(mode, Measured(MAP, 9.0, ENOUGH - 1), Measured(MAP, 9.0, 1), Measured(PWRITE, 1.0)) == {PWRITE}


@pytest.mark.parametrize(("size", "connections"), [(LARGE - 1, 16), (-1, 1), (0, 1), (LARGE, MANY + 1)])
def test_small_files_unknown_lengths_and_many_connections_use_pwrite(size: int, connections: int) -> None:
    assert settle(IoMode("auto", size, connections)) == {PWRITE}


def test_what_has_no_length_is_never_mapped() -> None:
    assert settle(IoMode("mmap", -1, 1)) == {PWRITE}
