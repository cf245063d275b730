"""One row of the fault matrix: what goes wrong, how it must end, and how long that may take.

Rules of the matrix: every row is listed, in `rows_network.py` (names, connections, TLS, HTTP) or `rows_local.py` (disk,
processes, resources); each is shown by at least one test that is marked with its id, or says why it is left out. The ids are
stable: documents and tests name a row by them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A fault and its promised end.

    Parameters: `id`, a letter and a number; `fault`, what goes wrong; `ends`, how a download with it ends; `deadline`, seconds
    in which it must have ended; `left_out`, why no test shows it, or "".
    """

    id: str
    fault: str
    ends: str
    deadline: float = 30.0
    left_out: str = ""
