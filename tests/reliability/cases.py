"""One case of the matrix as a value, and what every case is held to.

Rules of this module:

* A case is a URL of the fault server and what must come of it. Nothing in it is about a tool: `faults_table` sends other
  programs to the same URLs.
* A case has one run or more. Run n finds the server in phase n, so that knobs with `@2` show what a second run meets.
* What is left on disk has a letter: D done, the file and nothing else; P part file and journal, to be resumed; N nothing;
  R an earlier file of that name, untouched, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fastidm.demo.content import content
from tests.reliability.exchange import Book, Knobs
from tests.support.command import Outcome, call, run
from tests.support.content import first_difference

if TYPE_CHECKING:
    from tests.reliability.faultserver import FaultServer

MIB = 1 << 20
EARLIER = b"an earlier file"


@dataclass(frozen=True)
class Run:
    """What one run of the command must come to.

    `code`, exit code; `ends`, what is on disk (see above); `says`, a word of its complaint; `options`, of the command;
    `again`: it has to go on where an earlier run stopped, and may fetch this many bytes a second time; None: no matter.
    """

    code: int = 0
    ends: str = "D"
    says: str = ""
    options: tuple[str, ...] = ()
    again: int | None = None


DONE = (Run(),)


@dataclass(frozen=True)
class Case:
    """A fault, and how a download with it ends.

    Parameters: `row`, of the matrix; `name`, in words; `path`, FAULT/NAME?KNOBS; `runs`; `requests`, at most, in all runs;
    `sent`, bytes of body at most that the server may send in all runs, as a multiple of the size, plus 1 MiB; `options`, of
    every run; `over`, the listener; `file`, the name on disk (None: NAME); `tools`, whether other tools can be asked for the
    same.
    """

    row: str
    name: str
    path: str
    runs: tuple[Run, ...] = DONE
    requests: int | None = None
    sent: float | None = None
    options: tuple[str, ...] = ()
    over: str = "http"
    file: str | None = None
    tools: bool = True

    @property
    def id(self) -> str:
        return f"{self.row}-{self.name.replace(' ', '-')}"

    @property
    def key(self) -> str:
        """The case's own first part of its URL."""
        return self.id.replace("%", "")

    @cached_property
    def target(self) -> str:
        """The name of the file."""
        return self.file or self.path.partition("?")[0].rpartition("/")[2]

    def knobs(self, phase: int) -> Knobs:
        return Knobs(self.path.partition("?")[2], phase)

    def size(self, phase: int = 1) -> int:
        return self.knobs(phase).size("size", 4 * MIB)

    def right(self, phase: int = 1) -> bytes:
        """The bytes that a run in this phase must end with."""
        knobs = self.knobs(phase)
        return content(0, knobs.size("size", 4 * MIB), knobs.size("seed", 1))

    def url(self, root: str, key: str | None = None) -> str:
        return f"{root}/{key or self.key}/{self.path}"


def params(cases: Iterable[Case]) -> list[Any]:
    """The cases as parameters of a test, each marked with its row."""
    return [pytest.param(case, id=case.id, marks=pytest.mark.row(case.row)) for case in cases]


def check(case: Case, server: FaultServer, folder: Path, *, inside: bool = False) -> list[Outcome]:
    """Run the command on a case in an empty folder, and see that everything is as it says.

    Parameter: `inside`, run the command in this process, which is several times faster.
    """
    book = server.books[case.key] = Book()
    trust = ("--cacert", server.cacert) if case.over != "http" else ()
    outcomes = []
    for phase, expected in enumerate(case.runs, 1):
        book.phase, before = max(book.phase, phase), book.sent
        words = ("--json", *trust, *case.options, *expected.options, case.url(server.urls[case.over]))
        outcome = (call if inside else run)(*words, cwd=folder)
        outcomes.append(outcome)
        assert outcome.code == expected.code, (outcome, _short(book))
        if expected.code:
            assert expected.says in outcome.complaint
        else:
            assert outcome.stderr == "", outcome
        _see_disk(case, expected, phase, folder)
        if expected.again is not None:
            resumed = outcome.done["resumed"]
            assert resumed > 0
            assert book.sent - before <= case.size(phase) - resumed + expected.again, _short(book)
    assert case.requests is None or len(book.records) <= case.requests, _short(book)
    assert case.sent is None or book.sent <= case.sent * case.size() + MIB, f"{book.sent} bytes: {_short(book)}"
    defects, server.defects = server.defects, []
    assert not defects, defects[0]
    return outcomes


def _see_disk(case: Case, expected: Run, phase: int, folder: Path) -> None:
    found, name = sorted(os.listdir(folder)), case.target
    wanted = {"D": [name], "P": [f"{name}.fastidm", f"{name}.part"], "N": [], "R": [name]}[expected.ends]
    assert found == wanted, found
    if expected.ends in "DR":
        data = EARLIER if expected.ends == "R" else case.right(phase)
        assert first_difference((folder / name).read_bytes(), data) is None


def _short(book: Book) -> list[str]:
    return [f"{record.range or '-'}: {record.status}, {record.sent}" for record in book.records[:30]]
