"""What fastidm, curl and aria2c make of the same faults: `python -m tests.reliability.faults_table [--output FILE] [ROW...]`.

Rules of this module:

* The cases are those of the tests, and nothing of them is written twice. Left out are cases in which "right" means something
  else for another tool (`Case.tools`), and those of time and traffic, which a table of outcomes cannot show.
* Each tool is told to resume, to try four times and to wait 5 s: the commands stand in `TOOLS`, and in the table's head.
* A cell judges the last run of a case. *right*: exit 0 and the right bytes; *error n*: exit code n and nothing claimed;
  *SILENT*: exit 0 and other bytes, or none; *HANG*: it still ran at the row's deadline, and was killed.
* An error is the right end of many rows, see "ends". Only SILENT and HANG are never right.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.cases import Case
from tests.reliability.cases_content import HEADS, LENGTHS, REDIRECTS
from tests.reliability.cases_limits import BREAKS, LATER, LIMITS
from tests.reliability.cases_ranges import CHANGES, LIES
from tests.reliability.cases_tls import CERTIFICATES, STREAMS
from tests.reliability.exchange import Book
from tests.reliability.faultserver import FaultServer
from tests.reliability.rows_network import ROWS
from tests.support.command import PROGRAM, environment

CASES = (*CERTIFICATES, *STREAMS, *LENGTHS, *LIES, *CHANGES, *REDIRECTS, *LATER, *LIMITS, *BREAKS, *HEADS)
DEADLINES = {row.id: row.deadline for row in ROWS}
FAULTS = {row.id: row.fault for row in ROWS}
NAME = "a.bin"
VERDICTS = ("right", "error", "SILENT", "HANG")


@dataclass(frozen=True)
class Tool:
    """A program that downloads. `command(url, CA file)`: its words, to be run in the folder where `NAME` is to appear."""

    name: str
    command: Callable[[str, str], Sequence[str]]
    version: Sequence[str]

    def told(self) -> str:
        """The command as the table's head shows it."""
        words = [Path(word).name for word in self.command("URL", "CA")]
        return " ".join(words)


TOOLS = (
    Tool(
        "fastidm",
        lambda url, ca: (
            *PROGRAM, "--quiet", "--retries", "3", "--timeout", "5", "--connect-timeout", "5", "--cacert", ca, "-o", NAME, url
        ),
        (*PROGRAM, "--version"),
    ),
    Tool(
        "curl",
        lambda url, ca: (
            "curl", "-sS", "-f", "-L", "--retry", "3", "--speed-time", "5", "--connect-timeout", "5",
            "--cacert", ca, "-C", "-", "-o", NAME, url
        ),
        ("curl", "--version"),
    ),
    Tool(
        "aria2c",
        lambda url, ca: (
            "aria2c", "-q", "-x16", "-s16", "-k1M", "-c", "--max-tries=4", "--timeout=5", "--connect-timeout=5",
            f"--ca-certificate={ca}", "-o", NAME, url
        ),
        ("aria2c", "--version"),
    ),
)  # fmt: skip


def measure(tool: Tool, case: Case, server: FaultServer, folder: Path) -> str:
    """The cell of a tool and a case: one of `VERDICTS`, an error with its exit code."""
    key = f"{tool.name}-{case.key}"
    book = server.books[key] = Book()
    here = folder / key
    here.mkdir()
    for phase in range(1, len(case.runs) + 1):
        book.phase = phase
        words = tool.command(case.url(server.urls[case.over], key), server.cacert)
        code = _run(words, here, DEADLINES[case.row])
        if code is None:
            return "HANG"
        if code == 0:
            break  # it is done, and need not go on; if that is not true, no second run would have been made
    if code:
        return f"error {code}"
    found = here / NAME
    # A file that changes while it is being fetched may be had in either version, and not as a mixture.
    phases = (1, 2) if case.knobs(1).text("switch") else (phase,)
    return "right" if found.exists() and found.read_bytes() in map(case.right, phases) else "SILENT"


def _run(words: Sequence[str], folder: Path, seconds: float) -> int | None:
    """The exit code of a command, None if it had to be killed."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, cwd=folder, env=environment(folder), stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.wait()


def table(cells: dict[Case, list[str]], tools: Sequence[Tool]) -> str:
    """The table in Markdown, with the commands and versions before it and the sums behind it."""
    lines = [f"- {tool.name}: `{tool.told()}`; {_version(tool)}" for tool in tools]
    lines += ["", f"| | case | {' | '.join(tool.name for tool in tools)} | ends |", f"|---|---|{'---|' * len(tools)}---|"]
    for case, found in cells.items():
        codes = {run.code for run in case.runs[-1:]}
        ends = "right" if codes == {0} else f"error {codes.pop()}"
        lines.append(f"| {case.row} | {case.name} | {' | '.join(found)} | {ends} |")
    sums = [Counter(cell.partition(" ")[0] for cell in column) for column in zip(*cells.values(), strict=True)]
    told = [" / ".join(str(count[verdict]) for verdict in VERDICTS) for count in sums]
    lines.append(f"| | **{len(cells)} cases: {' / '.join(VERDICTS)}** | {' | '.join(told)} | |")
    return "\n".join(lines) + "\n"


def _version(tool: Tool) -> str:
    done = subprocess.run(tool.version, capture_output=True, text=True, check=False)
    return next(iter(done.stdout.splitlines()), "of unknown version")


def main() -> int:
    """Measure, show each case as it is done, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to measure (default: all)")
    parser.add_argument("--output", metavar="FILE", type=Path, help="where the table goes (default: standard output)")
    given = parser.parse_args()
    tools = [tool for tool in TOOLS if tool.name == "fastidm" or shutil.which(tool.name)]
    cases = [case for case in CASES if case.tools and (not given.rows or case.row in given.rows)]
    cells: dict[Case, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, certificates = Path(name), Path(name, "certificates")
        certificates.mkdir()
        with FaultServer(certificates) as server:
            for case in cases:
                cells[case] = [measure(tool, case, server, folder) for tool in tools]
                print(f"{case.id}: {', '.join(cells[case])}", file=sys.stderr, flush=True)
    text = table(cells, tools)
    if given.output is None:
        print(text, end="")
    else:
        given.output.write_text(text)
    worst = {cell for found in cells.values() for cell in found[:1]} & {"SILENT", "HANG"}
    return 1 if worst else 0


if __name__ == "__main__":
    sys.exit(main())
