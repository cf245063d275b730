"""The matrix against the tests: every row is shown or says why not, and every mark names a row.

Rules of this module: marks are read from the text of the tests, `row("F5")`, and of the tables of cases, `Case("H9", ...)`,
so that a test which is skipped on this machine counts, and one that was never written does not.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.reliability import rows_local, rows_network
from tests.reliability.cases_limits import LIMITS
from tests.reliability.rows import Row

HERE = Path(__file__).parent
ROWS = (*rows_network.ROWS, *rows_local.ROWS)
LEAST_NETWORK = 80
LEAST = 110
"""Rows that tests must show, of about 144."""

COMPUTED = {case.row for case in LIMITS}
"""Rows of cases that are made in a loop, so that their ids do not stand in the text."""


@cache
def marks() -> dict[str, set[str]]:
    """Row id -> the files that show it."""
    found: dict[str, set[str]] = {id: {"cases_limits.py"} for id in COMPUTED}
    for path in (*HERE.glob("test_*.py"), *HERE.glob("cases*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node.func) in ("row", "Case") and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.setdefault(first.value, set()).add(path.name)
    return found


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_every_row_has_an_id_of_its_own_that_a_document_can_name() -> None:
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[DHFR][1-9][0-9]?", id) for id in ids)


def test_the_rows_of_the_network_are_all_listed() -> None:
    expected = [f"D{n}" for n in range(1, 19)] + [f"H{n}" for n in range(1, 70)]
    assert [row.id for row in rows_network.ROWS] == expected


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_shown_by_a_test_or_says_why_not(row: Row) -> None:
    shown = row.id in marks()
    assert row.fault
    if row.left_out:
        assert not shown, f"{row.id} is left out, and {marks()[row.id]} shows it"
    else:
        assert row.ends
        assert shown, f"no test is marked with {row.id}"


def test_every_mark_names_a_row() -> None:
    assert marks().keys() <= {row.id for row in ROWS}


def test_so_many_rows_are_shown() -> None:
    shown = marks().keys()
    assert len(shown & {row.id for row in rows_network.ROWS}) >= LEAST_NETWORK
    if rows_local.ROWS:
        assert len(shown) >= LEAST
