"""Segment table and decisions: what the loop does at a tick. 254 rows are what a journal holds; plans are tried with 4,096."""

from __future__ import annotations

from typing import Any

import pytest

from fastidm.core.scheduler import Runner, plan_hedge, plan_split
from fastidm.core.segments import SegmentTable, tile
from fastidm.storage.journal import ROWS

SIZE = 1 << 40
TABLES = [16, 128, ROWS]
MANY = [16, 128, 4096]


def table_of(count: int) -> SegmentTable:
    """`count` segments, and room for one more where the journal has it."""
    return SegmentTable(tile(SIZE, [SIZE * n // count for n in range(1, count)], max(count + 1, ROWS)))


@pytest.mark.parametrize("count", TABLES)
@pytest.mark.parametrize("what", ["received", "snapshot"])
def test_table_look(benchmark: Any, count: int, what: str) -> None:
    benchmark(getattr(table_of(count), what))


@pytest.mark.parametrize("count", TABLES)
def test_table_split_and_melt(benchmark: Any, count: int) -> None:
    """Cut the segment in the middle at its start, so that its front is finished, and let that melt away again."""
    table = table_of(count)

    def there_and_back() -> None:
        row = table.order[len(table.order) // 2]
        table.split(row, table.position(row))
        table.melt()

    benchmark(there_and_back)
    assert len(table.order) == count


def runners(count: int) -> list[Runner]:
    """Segments that run at different speeds."""
    share = SIZE // count
    return [Runner(n, n * share, (n + 1) * share, 1e6 + 1000 * (n * 7919 % count)) for n in range(count)]


@pytest.mark.parametrize("count", MANY)
def test_plan_split(benchmark: Any, count: int) -> None:
    assert benchmark(plan_split, runners(count), 2e6, 0.1) is not None


@pytest.mark.parametrize("count", MANY)
def test_plan_hedge(benchmark: Any, count: int) -> None:
    assert benchmark(plan_hedge, runners(count), 1e9, 0.1, SIZE) is not None
