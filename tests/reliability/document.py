"""Writes the tables of docs/reliability.md: `python -m tests.reliability.document [TABLE]`.

Rule of this module: the page's prose is written by people and lies outside the marks. What lies between them comes from
`rows_network.py` and `rows_local.py` (a test holds that it does), and from TABLE, a file that `faults_table.py` has written.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.reliability import rows_local, rows_network

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
CHAPTERS = {
    "D": "Names, connections, TLS",
    "H": "HTTP",
    "F": "Files and processes",
    "R": "Resources and callers",
}


def matrix() -> str:
    """The rows that are tested, by chapter, and then those that are not, with the reason."""
    rows = (*rows_network.ROWS, *rows_local.ROWS)
    tested = [row for row in rows if not row.left_out]
    text = [f"{len(tested)} of {len(rows)} faults have tests of their own; the others are listed at the end.", ""]
    for letter, title in CHAPTERS.items():
        text += [f"### {title}", "", "| | fault | how a download with it ends | within |", "|---|---|---|---|"]
        text += [f"| {row.id} | {row.fault} | {row.ends} | {row.deadline:g} s |" for row in tested if row.id[0] == letter]
        text.append("")
    text += ["### Left out", "", "| | fault | why no test shows it |", "|---|---|---|"]
    text += [f"| {row.id} | {row.fault} | {row.left_out} |" for row in rows if row.left_out]
    return "\n".join(text)


def replaced(page: str, name: str, text: str) -> str:
    """`page` with `text` between the marks of that name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise ValueError(f"the page has no {begin} ... {end}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def main() -> int:
    page = replaced(PAGE.read_text(), "matrix", matrix())
    for table in sys.argv[1:]:
        page = replaced(page, "other tools", Path(table).read_text())
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
