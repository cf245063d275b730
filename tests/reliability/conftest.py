"""What the matrix asks of every test: a test marked with rows ends within the shortest of their deadlines."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.reliability import rows_local, rows_network

ROWS = {row.id: row for row in (*rows_network.ROWS, *rows_local.ROWS)}


@pytest.fixture(autouse=True)
def within_deadline(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that took longer than its row allows: too late is as wrong as never."""
    ids = [mark.args[0] for mark in request.node.iter_markers("row")]
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    late = [f"{id} has {ROWS[id].deadline:g} s" for id in ids if took > ROWS[id].deadline]
    assert not late, f"this took {took:.1f} s: {', '.join(late)}"
