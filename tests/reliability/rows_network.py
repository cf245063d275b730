"""The rows of the fault matrix that come over the network: D (names, connections, TLS) and H (HTTP)."""

from __future__ import annotations

from tests.reliability.rows import Row

ROWS: tuple[Row, ...] = ()
