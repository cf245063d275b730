"""docs/reliability.md says what the tests hold."""

from __future__ import annotations

from tests.reliability.document import PAGE, matrix, replaced


def test_the_matrix_in_the_documentation_is_the_one_that_is_tested() -> None:
    """If it is not: `python -m tests.reliability.document` writes it anew."""
    page = PAGE.read_text()
    assert replaced(page, "matrix", matrix()) == page
