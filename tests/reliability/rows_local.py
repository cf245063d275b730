"""The rows of the fault matrix of this machine: F (files, processes) and R (resources)."""

from __future__ import annotations

from tests.reliability.rows import Row

ROWS: tuple[Row, ...] = ()
