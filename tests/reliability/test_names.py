"""Names that servers choose: whatever they send, a plain file in the folder comes of it, and the terminal stays as it was.

Rules of this module: the sanitiser is fuzzed through every door that remote text has to it; the command is run against a
server that sends the worst of it. What is expected is written out here, and not asked of the code that is tested.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from urllib.parse import quote

import pytest

from fastidm.cli import main
from fastidm.cli.progress import LiveReporter, PlainReporter
from fastidm.errors import redact
from fastidm.events import Finished, Progress, Retrying, Started
from fastidm.net.errors import trouble_of
from fastidm.storage.naming import name_from_disposition, name_from_url
from tests.support.command import Outcome, call, run
from tests.support.content import content
from tests.support.names import faults_of
from tests.support.oddserver import Exchange, File, Habit, OddServer

MIB = 1 << 20
DATA = content(2 * MIB, seed=61)
SMALL = DATA[:2000]
NAMES = 120_000
"""How many names the seeded generator makes."""

Serve = Callable[[Habit], OddServer]


# --- the sanitiser ---

PIECES = (
    *("..", ".", "/", "\\", "../", "..\\", "%2e%2e%2f", "%2F", "%5c", "%00", "%0d%0a", "%", "C:", "//host/share/", "~/"),
    *("\x00", "\n", "\r\n", "\t", "\x1b[2J", "\x1b]0;x\x07", "\x7f", "\x85", "\x9b31m", "\u2028", "\u2029"),
    *("\u202e", "\u202a", "\u2066", "\u2069", "\u200f", "\u061c", "\u200b", "\ufeff", "\u00ad", "\U000e0041"),
    *("CON", "nul", "Aux.txt", "COM1", "lpt\xb9.tar.gz", "CONIN$", "con ", " .", ". .", "-", "--"),
    *(".bashrc", ".ssh", ".desktop", ".LNK", ".url", ".scf", ".webloc", ".library-ms", ".part", ".fastidm", ".tar.gz"),
    *('"', "'", ";", "=", "*", "?", "<", ">", "|", ":", "&", "$(x)", "`x`", "utf-8''", "=?UTF-8?B?eA==?="),
    *("e\u0301", "\u0301", "\u1100\u1161", "\u212a", "ﬀ", "漢", "🙂", "\U0010ffff", "\ud800", "\udc80", "ä", "\xa0", "\u3000"),
    *("a" * 40, "漢" * 40, "🙂" * 30, "a" * 260 + ".iso", " " * 250, "." * 250, "x" * 233 + ".lnk" + "y" * 60),
    *("report", "file", "photo.jpg", "disk.iso", "x.exe"),
)


def hostile_names(count: int, seed: int) -> Iterator[str]:
    chance = random.Random(seed)
    for _ in range(count):
        parts = []
        for _ in range(chance.randrange(1, 7)):
            most = chance.choice((0x300, 0x110000))
            parts.append(chance.choice(PIECES) if chance.random() < 0.7 else chr(chance.randrange(most)))
        yield "".join(parts)


@pytest.mark.row("H61")
@pytest.mark.row("H62")
@pytest.mark.row("H63")
@pytest.mark.row("H64")
def test_no_name_of_a_hundred_thousand_is_anything_but_a_plain_file_in_the_folder() -> None:
    doors: tuple[Callable[[str], str | None], ...] = (
        lambda text: name_from_disposition(f'attachment; filename="{text}"'),
        lambda text: name_from_disposition(f"attachment; filename*=UTF-8''{quote(text, errors='replace')}"),
        lambda text: name_from_disposition(text.encode("utf-8", "replace").decode("latin-1")),
        lambda text: name_from_url(f"http://host/{text}"),
    )
    bad: dict[str, tuple[str, list[str]]] = {}
    seen = set()
    for number, text in enumerate(hostile_names(NAMES, seed=61)):
        name = doors[number % len(doors)](text)
        if name is None:
            continue
        seen.add(name)
        if faults := faults_of(name):
            bad[text] = name, faults
    assert not bad, dict(list(bad.items())[:5])
    assert len(seen) > NAMES // 4, "most of them are names, and different ones"


@pytest.mark.row("H61")
def test_what_is_made_of_a_hostile_name_can_be_created_and_is_one_file(folder: Path) -> None:
    names = {name_from_url(f"http://host/{text}") for text in hostile_names(1500, seed=62)}
    for name in names:
        (folder / (name + " (123).fastidm")).touch()
    assert len(os.listdir(folder)) == len(names)
    assert os.listdir(folder.parent) == [folder.name]


# --- the command ---


def named(header: str) -> Habit:
    """Serves SMALL with this Content-Disposition; the text goes out in UTF-8."""
    return File(SMALL, lines=("Content-Disposition: " + header.encode().decode("latin-1"),))


def the_file(folder: Path, outcome: Outcome, data: bytes = SMALL) -> Path:
    """The one file that a download left, with nothing beside its folder."""
    assert outcome.code == 0, outcome
    assert os.listdir(folder.parent) == [folder.name]
    (file,) = folder.iterdir()
    assert file.read_bytes() == data
    assert not file.stat().st_mode & 0o111
    return file


@pytest.mark.parametrize(
    ("header", "name"),
    [
        pytest.param(header, name, marks=pytest.mark.row(row))
        for row, header, name in (
            ("H61", 'attachment; filename="../../evil.bin"', "evil.bin"),
            ("H61", 'attachment; filename="/etc/evil.bin"', "evil.bin"),
            ("H61", "attachment; filename=..\\..\\evil.bin", "evil.bin"),
            ("H61", "attachment; filename*=UTF-8''%2e%2e%2f%2e%2e%2fevil.bin", "evil.bin"),
            ("H61", "attachment; filename*=UTF-8''..%5Cevil.bin", "evil.bin"),
            ("H61", 'attachment; filename="%2e%2e%2fevil.bin"', "%2e%2e%2fevil.bin"),
            ("H61", 'attachment; filename=".."', "a.bin"),
            ("H61", 'attachment; filename="-rf"', "_rf"),
            ("H62", 'attachment; filename=".bashrc"', "bashrc"),
            ("H62", "attachment; filename*=UTF-8''%2Ebashrc", "bashrc"),
            ("H62", 'attachment; filename="../.ssh/.profile"', "profile"),
            ("H62", 'attachment; filename="pay.desktop"', "pay.desktop.download"),
            ("H62", 'attachment; filename="other.iso.fastidm"', "other.iso.fastidm.download"),
            ("H63", 'attachment; filename="x\x1b[2Jy.bin"', "x_[2Jy.bin"),
            ("H63", "attachment; filename*=UTF-8''x%0A%1B%5B31m.bin", "x__[31m.bin"),
            ("H63", 'attachment; filename="evil\u202egpj.exe"', "evil_gpj.exe"),
            ("H63", "attachment; filename*=iso-8859-1''x%9B2J.bin", "x_2J.bin"),
            ("H63", 'attachment; filename="a:b*c<d>|e.bin. "', "a_b_c_d__e.bin"),
            ("H63", 'attachment; filename="CON.txt"', "_CON.txt"),
        )
    ],
)
def test_a_hostile_name_ends_as_a_plain_file_in_the_folder(header: str, name: str, odd: Serve, folder: Path) -> None:
    server = odd(named(header))
    assert the_file(folder, call("--quiet", server.url + "/a.bin", cwd=folder)).name == name


@pytest.mark.row("H61")
def test_a_hostile_url_ends_as_a_plain_file_in_the_folder(odd: Serve, folder: Path) -> None:
    server = odd(File(SMALL))
    for path, name in (
        ("/%2e%2e%2f%2e%2e%2fevil.bin", "evil.bin"),
        ("/..%5c.bashrc", "bashrc"),
        ("/%1b%5b2J.bin", "_[2J.bin"),
        ("/%2e%2e", "download"),
    ):
        file = the_file(folder, call("--quiet", server.url + path, cwd=folder))
        assert file.name == name
        file.unlink()


@pytest.mark.row("H64")
@pytest.mark.parametrize(
    ("long", "name"),
    [("x" * 300 + ".iso", "x" * 237 + ".iso"), ("漢" * 100 + ".tar.gz", "漢" * 78 + ".tar.gz"), ("🙂" * 90, "🙂" * 60)],
)
def test_a_name_that_is_too_long_is_shortened_and_downloads_with_a_journal(
    long: str, name: str, odd: Serve, folder: Path
) -> None:
    server = odd(File(DATA, lines=(f"Content-Disposition: attachment; filename*=UTF-8''{quote(long)}",)))
    assert the_file(folder, call("--quiet", server.url + "/a.bin", cwd=folder), DATA).name == name


@pytest.mark.row("H65")
def test_a_name_that_is_taken_is_not_replaced(odd: Serve, folder: Path) -> None:
    (folder / "taken.bin").write_text("mine")
    server = odd(named('attachment; filename="taken.bin"'))
    outcome = call(server.url + "/a.bin", cwd=folder)
    assert outcome.code == 12
    assert "taken.bin exists" in outcome.complaint
    assert os.listdir(folder) == ["taken.bin"]
    assert (folder / "taken.bin").read_text() == "mine"


@pytest.mark.row("H65")
def test_a_name_that_is_taken_gets_a_number_when_that_is_asked_for(odd: Serve, folder: Path) -> None:
    (folder / "taken.tar.gz").write_text("mine")
    server = odd(named('attachment; filename="taken.tar.gz"'))
    for number in (1, 2):
        assert call("--rename", server.url + "/a.bin", cwd=folder).code == 0
        assert (folder / f"taken ({number}).tar.gz").read_bytes() == SMALL
    assert sorted(os.listdir(folder)) == ["taken (1).tar.gz", "taken (2).tar.gz", "taken.tar.gz"]
    assert (folder / "taken.tar.gz").read_text() == "mine"


@pytest.mark.row("F20")
@pytest.mark.parametrize("same", [True, False], ids=["the same URL twice", "two URLs of one name"])
def test_of_two_downloads_to_one_name_one_is_the_file_and_the_other_says_so(same: bool, odd: Serve, folder: Path) -> None:
    servers = [odd(File(DATA)), odd(File(DATA[::-1]))]
    urls = [server.url + "/a.bin" for server in servers]
    if same:
        urls[1] = urls[0]
    outcome = call("--json", *urls, cwd=folder)
    (done,), (error,) = outcome.of("done"), outcome.of("error")
    assert outcome.code == error["exit_code"] in (11, 12)
    the_file(folder, replace(outcome, code=0), DATA if same or done["task"] == 1 else DATA[::-1])

    outcome = call("--json", "--rename", *urls, cwd=folder)
    assert outcome.code == 0
    assert {event["path"] for event in outcome.of("done")} == {str(folder / f"a ({number}).bin") for number in (1, 2)}
    for event in outcome.of("done"):
        assert Path(event["path"]).read_bytes() == (DATA if same or event["task"] == 1 else DATA[::-1])
    assert len(os.listdir(folder)) == 3


# --- the terminal ---

HOSTILE = "x\x1b]0;owned\x07\x1b[2J\x9b5A\u202egpj.bin"
OWN_SEQUENCES = re.compile(r"\x1b\[(\?7[lh]|\d*A|J|K|[\d;]*m)|\r|\n")
"""What the live block itself may send: wrapping off and on, up, erase, colours."""


class _Terminal(StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def assert_tame(text: str) -> None:
    """Nothing in `text` but our own sequences and what can be seen."""
    rest = OWN_SEQUENCES.sub("", text)
    assert rest.isprintable(), ascii(rest)


def hostile_habits() -> dict[str, Habit]:
    """Servers that put `HOSTILE` wherever a server can put text."""
    field = HOSTILE.encode().decode("latin-1")

    def phrase(exchange: Exchange) -> None:
        lines = (f"HTTP/1.1 404 {field}", f"X-{field}: {field}", "Content-Length: 0", "", "")
        exchange.connection.sendall("\r\n".join(lines).encode("latin-1"))

    def version(exchange: Exchange) -> None:
        exchange.connection.sendall(f"HTTP/{field} 200 OK\r\n\r\n".encode("latin-1"))
        exchange.close()

    def chunks(exchange: Exchange) -> None:
        exchange.head(200, "Transfer-Encoding: chunked")
        exchange.send(f"{field}\r\n".encode("latin-1"))
        exchange.close()

    return {
        "name": named(f'attachment; filename="{HOSTILE}"'),
        "phrase": phrase,
        "version": version,
        "chunks": chunks,
        "location": lambda exchange: exchange.answer(302, f"Location: {field}://{field}/{field}"),
        "location path": lambda exchange: exchange.answer(302, f"Location: /{field}"),
        "location host": lambda exchange: exchange.answer(302, f"Location: http://{field}/"),
        "length": lambda exchange: exchange.head(200, f"Content-Length: {field}"),
        "range": lambda exchange: exchange.answer(206, f"Content-Range: bytes {field}", f"ETag: {field}", body=SMALL),
        "retry": lambda exchange: exchange.answer(503, f"Retry-After: {field}"),
        "realm": lambda exchange: exchange.answer(401, f'WWW-Authenticate: Basic realm="{field}"'),
    }


@pytest.mark.row("H63")
@pytest.mark.parametrize("where", hostile_habits())
def test_no_word_of_a_server_reaches_the_terminal_as_it_was_sent(
    where: str, odd: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = odd(hostile_habits()[where])
    command = ("--retries", "1", "--overwrite", server.url + "/a.bin")
    outcomes = [call(*how, *command, cwd=folder) for how in ((), ("--json",), ("--quiet",))]
    for outcome in outcomes:
        assert outcome.code in (0, 3, 4, 5, 6, 14, 17, 18), outcome
        assert_tame(outcome.stderr)
        assert_tame(outcome.stdout)
        assert outcome.stderr.count("\n") <= 2, "one line each"
    for event in outcomes[1].events:
        assert_tame(json.dumps(event, ensure_ascii=False).replace("\\n", "\n"))

    terminal = _Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.chdir(folder)
    assert main.run([str(word) for word in command]) == outcomes[0].code
    assert_tame(terminal.getvalue())
    assert "\x1b[?7l" in terminal.getvalue(), "the live block was drawn"


@pytest.mark.row("H63")
def test_each_place_that_prints_or_passes_on_remote_text_escapes_it_by_itself() -> None:
    assert_tame(trouble_of(56, HOSTILE)[1])
    assert_tame(main.error_line(HOSTILE, HOSTILE))
    assert_tame(redact(f"http://host/{HOSTILE}"))
    for live in (False, True):
        stream = StringIO()
        plain = PlainReporter(stream, unicode=True, clock=itertools.count(0.0, 10.0).__next__)
        reporter = LiveReporter(stream, unicode=True, colour=True, environment={}) if live else plain
        reporter.begin(["http://host/a"], None)
        reporter.event(1, Started(HOSTILE, f"/{HOSTILE}", 10, 0, True))
        reporter.event(1, Retrying(HOSTILE, HOSTILE, 1.0, 1))
        reporter.event(1, Progress(HOSTILE, f"/{HOSTILE}", 10, 5, 1.0, 5.0, 1, ((0, 10, 5),)))
        reporter.event(1, Finished(HOSTILE, f"/{HOSTILE}", 10, 1.0, 10.0, 10, 0, 1, 0, HOSTILE, False, HOSTILE, HOSTILE))
        reporter.close()
        assert_tame(stream.getvalue())
        assert "gpj.bin" in stream.getvalue()


@pytest.mark.row("R8")
@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "COLUMNS": "0"},
    ],
)
def test_names_that_this_locale_cannot_show_are_shown_escaped(env: dict[str, str], odd: Serve, folder: Path) -> None:
    server = odd(File(SMALL))
    outcome = run("-o", "na\u00efve \u6f22.bin", server.url + "/a.bin", cwd=folder, env=env)
    the_file(folder, outcome)
    assert_tame(outcome.stderr)
    assert "Traceback" not in outcome.stderr


@pytest.mark.row("R9")
@pytest.mark.parametrize(
    "url", ["-http://127.0.0.1:9/x", "http://127.0.0.1:9/a\nb", "http://127.0.0.1:9/\ufeffx", "\ufeffhttp://h/"]
)
def test_a_url_of_another_program_is_data_and_never_an_option(url: str, folder: Path) -> None:
    """There is no list of URLs to read: who has one gives them as arguments, behind `--`."""
    outcome = call("--", url, cwd=folder)
    assert outcome.code == 2
    assert_tame(outcome.complaint)
    assert os.listdir(folder) == []
