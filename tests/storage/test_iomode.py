"""The choice between map and pwrite follows what was measured."""

from __future__ import annotations

import pytest

from fastidm.storage.iomode import ENOUGH, LARGE, MANY, IoMode
from fastidm.storage.sink import MAP, PWRITE


class Measured:
    """Stands for a sink: its mode and what that has cost."""

    def __init__(self, mode: int, ns_per_byte: float, count: int = ENOUGH) -> None:
        self.mode = mode
        self.cost_bytes = count
        self.cost_ns = int(ns_per_byte * count)


def settle(mode: IoMode, *sinks: Measured) -> set[int]:
    mode.choose(sinks)  # type: ignore[arg-type]
    return {mode.sink_settings()["mode"] for _ in range(4)}


@pytest.mark.parametrize(("wish", "mode"), [("mmap", MAP), ("pwrite", PWRITE)])
def test_a_forced_mode_is_kept_whatever_it_costs(wish: str, mode: int) -> None:
    assert settle(IoMode(wish, LARGE, 16), Measured(MAP, 1.0), Measured(PWRITE, 2.0)) == {mode}
    assert settle(IoMode(wish, LARGE, 16), Measured(MAP, 2.0), Measured(PWRITE, 1.0)) == {mode}


def test_auto_tries_both_and_keeps_the_cheaper_for_new_and_for_running_sinks() -> None:
    for map_cost, chosen in ((0.5, MAP), (2.0, PWRITE)):
        mode = IoMode("auto", LARGE, 16)
        assert {mode.sink_settings()["mode"] for _ in range(2)} == {MAP, PWRITE}
        sinks = [Measured(MAP, map_cost), Measured(PWRITE, 1.0)]
        assert settle(mode, *sinks) == {chosen}
        assert {sink.mode for sink in sinks} == {chosen}


def test_auto_does_not_judge_before_both_have_written_enough() -> None:
    mode = IoMode("auto", LARGE, 16)
    assert settle(mode, Measured(MAP, 9.0, ENOUGH - 1), Measured(PWRITE, 1.0)) == {MAP, PWRITE}
    assert settle(mode, Measured(MAP, 9.0, ENOUGH - 1), Measured(MAP, 9.0, 1), Measured(PWRITE, 1.0)) == {PWRITE}


@pytest.mark.parametrize(("size", "connections"), [(LARGE - 1, 16), (-1, 1), (0, 1), (LARGE, MANY + 1)])
def test_small_files_unknown_lengths_and_many_connections_use_pwrite(size: int, connections: int) -> None:
    assert settle(IoMode("auto", size, connections)) == {PWRITE}


def test_what_has_no_length_is_never_mapped() -> None:
    assert settle(IoMode("mmap", -1, 1)) == {PWRITE}
