"""What the command writes: JSON lines, one summary line, or nothing; and never a secret, wherever it writes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import stat
import subprocess
import termios
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fastidm.events import Failed, Finished, Progress, Retrying, Started
from tests.support.command import PROGRAM, Command, Outcome, call, environment, run
from tests.support.content import content, sha256
from tests.support.oddserver import Exchange, File, Gate, Habit, OddServer, Proxy
from tests.support.servers import Nginx

MIB = 1 << 20
SIZE = 4 * MIB
DATA = content(SIZE, seed=41)
CANARY = "c4n4ry"
Serve = Callable[[Habit], OddServer]

KINDS: dict[str, Any] = {each.kind: each for each in (Started, Progress, Retrying, Finished, Failed)}
TYPES: dict[str, Any] = {
    "str": str, "bool": bool, "int": int, "float": (int, float), "tuple": list, "None": type(None),
}  # fmt: skip


def assert_fits_the_documentation(outcome: Outcome) -> None:
    """Each line of stdout is an object with exactly the fields of its event, of their types; the last one ends the task."""
    for event in outcome.events:
        declared = {field.name: field.type for field in fields(KINDS[event["event"]])}
        assert set(event) == {"event", "task"} | set(declared)
        for name, kinds in declared.items():
            allowed = [TYPES[kind.strip()] for kind in kinds.partition("[")[0].split("|")]
            assert any(isinstance(event[name], kind) for kind in allowed), f"{name} of {event}"
    assert outcome.events[-1]["event"] in ("done", "error")
    assert len(outcome.of("done") + outcome.of("error")) == 1


# --- for programs ---


def test_json_tells_a_download_from_start_to_end(odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        if len(exchange.server.exchanges) == 1:
            exchange.answer(503, "Retry-After: 0")
        else:
            file(exchange)

    digest = sha256(DATA)
    url = odd(habit).url + "/a.bin"
    outcome = run("--json", "--checksum", f"sha256:{digest}", url, cwd=folder)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert_fits_the_documentation(outcome)
    (retry,), (start,), done = outcome.of("retry"), outcome.of("start"), outcome.done
    assert (retry["delay"], retry["failures"]) == (0, 1)
    assert "503" in retry["reason"]
    path = str(folder / "a.bin")
    assert start == {
        "event": "start", "task": 1, "url": url, "path": path, "size": SIZE, "resumed": 0, "ranges": True,
    }  # fmt: skip
    assert (done["url"], done["path"], done["size"], done["received"]) == (url, path, SIZE, SIZE)
    assert done["checksum"] == f"sha256:{digest}"
    assert done["retries"] >= 1
    assert done["rate"] == pytest.approx(SIZE / done["seconds"])
    assert outcome.of("progress")[-1]["received"] == SIZE or len(outcome.of("progress")) == 1


def test_json_tells_a_failure(odd: Serve, folder: Path) -> None:
    outcome = run("--json", odd(lambda exchange: exchange.answer(404)).url + "/a.bin", cwd=folder)
    assert_fits_the_documentation(outcome)
    (error,) = outcome.of("error")
    assert (error["error"], error["exit_code"], outcome.code) == ("not_found", 3, 3)
    assert error["message"] in outcome.complaint


def test_json_tells_that_it_was_stopped(odd: Serve, folder: Path) -> None:
    with Command("--json", odd(Gate(File(DATA), MIB)).url + "/a.bin", cwd=folder) as command:
        command.wait_for("start")
        command.send(signal.SIGINT)
        outcome = command.finish()
    assert_fits_the_documentation(outcome)
    assert outcome.events[-1]["exit_code"] == outcome.code == 7


def test_json_of_a_file_of_unknown_length_says_so(odd: Serve, folder: Path) -> None:
    def habit(exchange: Exchange) -> None:
        exchange.head(200)
        exchange.send(DATA)
        exchange.close()

    outcome = run("--json", odd(habit).url + "/a.bin", cwd=folder)
    assert_fits_the_documentation(outcome)
    (start,) = outcome.of("start")
    assert (start["size"], start["ranges"]) == (None, False)
    assert outcome.done["length_unverified"]


def test_a_reader_of_json_that_goes_away_ends_no_download(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), MIB)
    url = odd(gate).url + "/a.bin"
    first_line = ("sh", "-c", '"$@" | head -n 1 >/dev/null; exit 0', "sh")
    with Command("--json", url, cwd=folder, wrapper=first_line) as command:
        gate.open()
        assert command.finish().stderr == ""
    assert (folder / "a.bin").read_bytes() == DATA


# --- for people ---


def test_quiet_says_nothing_when_all_goes_well(nginx: Nginx, folder: Path) -> None:
    outcome = run("--quiet", nginx.add("a.bin", DATA), cwd=folder)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")


def test_off_a_terminal_there_is_one_summary_line(nginx: Nginx, folder: Path) -> None:
    outcome = run(nginx.add("a.bin", DATA), cwd=folder)
    assert (outcome.code, outcome.stdout) == (0, "")
    (line,) = outcome.stderr.splitlines()
    assert "a.bin  4.0 MiB in " in line
    assert "\x1b" not in line


def test_quiet_still_says_what_went_wrong(special: Nginx, folder: Path) -> None:
    outcome = run("--quiet", special.url + "/gone", cwd=folder)
    assert (outcome.code, outcome.stdout) == (3, "")
    assert outcome.complaint


class Terminal:
    """The command on a terminal of 100 columns; `shown` is what that was sent so far."""

    def __init__(self, *arguments: object, folder: Path, env: dict[str, str]) -> None:
        self.shown = ""
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        variables = environment(folder, {"TERM": "xterm-256color", **env})
        command = [*PROGRAM, *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def read_until(self, text: str) -> None:
        """Read until `text` was shown."""
        deadline = time.monotonic() + 15
        while text not in self.shown:
            assert self._read() and time.monotonic() < deadline, f"{text!r} was not shown: {self.shown!r}"

    def read_to_the_end(self) -> int:
        """Read all that is left; returns the exit code."""
        while self._read():
            pass
        return self.process.wait()

    def _read(self) -> bool:
        assert select.select([self._ours], [], [], 15)[0], f"nothing more is shown: {self.shown!r}"
        try:
            self.shown += os.read(self._ours, 65536).decode(errors="replace")
        except OSError:  # this is how the end of a terminal reads
            return False
        return True


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("env", [{}, ASCII, {"NO_COLOR": "1"}], ids=["Unicode", "ASCII", "no colours"])
def test_on_a_terminal_a_live_display_ends_in_the_summary_line(env: dict[str, str], odd: Serve, folder: Path) -> None:
    gate, digest = Gate(File(DATA), MIB), sha256(DATA)
    arguments = ("--checksum", f"sha256:{digest}", odd(gate).url + "/a.bin")
    with Terminal(*arguments, folder=folder, env=env) as terminal:
        terminal.read_until("25.0 %")
        terminal.read_until("B/s")
        gate.open()
        assert terminal.read_to_the_end() == 0
    shown = terminal.shown
    assert digest in shown.splitlines()[-1]
    assert shown.endswith("\r\n")
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h"), "a cursor that was hidden is shown again"
    assert shown.count("\x1b[?7l") == shown.count("\x1b[?7h"), "and lines wrap again"
    assert shown.isascii() == (env == ASCII)
    assert ("\x1b[3" in shown) == ("NO_COLOR" not in env)


# --- secrets ---


def assert_no_canary(folder: Path, *outcomes: Outcome) -> None:
    """Nothing that was written, to the terminal or to the disk, holds the secret; nor do the names of files."""
    for outcome in outcomes:
        assert CANARY not in outcome.stdout
        assert CANARY not in outcome.stderr
    for path in folder.rglob("*"):
        assert CANARY not in path.name
        assert CANARY.encode() not in path.read_bytes(), path


SECRETS: dict[str, tuple[str, ...]] = {
    "password in the URL": (),
    "query": (),
    "fragment": (),
    "header": ("--header", f"X-Token: {CANARY}"),
    "user": ("--user", f"ann:{CANARY}"),
    "cookie": (),
    "proxy": (),
}


@pytest.mark.parametrize(
    ("how", "kind"), [*(("--json", kind) for kind in SECRETS), ("--io=auto", "password in the URL"), ("--io=auto", "query")]
)
def test_no_secret_is_written_anywhere(
    how: str, kind: str, odd: Serve, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a run that fails, nor by one that is stopped, with its journal and part file, nor by one that ends well."""
    monkeypatch.setenv("FASTIDM_DEBUG", "1")
    gate = Gate(File(DATA), MIB + 1000)
    server, proxy = odd(gate), odd(Proxy(f"ann:{CANARY}"))
    url, arguments = server.url + "/a.bin", SECRETS[kind]
    if kind == "password in the URL":
        url = url.replace("://", f"://ann:{CANARY}@")
    elif kind == "query":
        url += f"?X-Amz-Signature={CANARY}&{CANARY}=1"
    elif kind == "fragment":
        url += f"#{CANARY}"
    elif kind == "proxy":
        arguments = ("--proxy", proxy.url.replace("://", f"://ann:{CANARY}@"))
    elif kind == "cookie":
        (tmp_path / "cookies").write_text(f"127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\t{CANARY}\n")
        arguments = ("--cookie-file", str(tmp_path / "cookies"))
    command = (how, *arguments, url)

    with Command(*command, cwd=folder) as running:
        server.wait_for_requests(1)
        if how == "--json":
            running.wait_for("start")
        running.send(signal.SIGTERM)
        stopped = running.finish()
    assert stopped.code == 7
    if how == "--json":
        assert sorted(os.listdir(folder)) == ["a.bin.fastidm", "a.bin.part"]
    assert_no_canary(folder, stopped)

    server.habit = lambda exchange: exchange.answer(503, "Retry-After: 0")
    busy = call("--retries", "1", *command, cwd=folder)
    server.habit = lambda exchange: exchange.answer(403, f"X-Echo: {CANARY}", body=CANARY.encode())
    refused = call(*command, cwd=folder)
    server.habit = lambda exchange: exchange.answer(302, f"Location: ftp://ann:{CANARY}@example.com/{CANARY}?{CANARY}")
    led_away = call(*command, cwd=folder)
    server.habit = File(DATA, etag='"2"')
    changed = call(*command, cwd=folder)
    assert (busy.code, refused.code, led_away.code) == (5, 4, 17)
    assert changed.code == (8 if how == "--json" else changed.code)
    unresolved = call("--retries", "0", how, *arguments, url.replace("127.0.0.1", "no-such-host.invalid"), cwd=folder)
    misspelt = call(how, *arguments, url.replace("http:", "htp:"), cwd=folder)
    assert misspelt.code == 2
    assert_no_canary(folder, busy, refused, led_away, changed, unresolved, misspelt)

    gate.open()
    server.habit = gate
    done = call(*command, "--overwrite", cwd=folder)
    assert done.code == 0
    assert_no_canary(folder, done)


def test_what_is_unfinished_is_for_its_owner_alone(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), MIB)
    with Command("--json", odd(gate).url + "/a.bin", cwd=folder, wrapper=("sh", "-c", 'umask 0; exec "$@"', "sh")) as command:
        command.wait_for("start")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert modes == {"a.bin.part": 0o600, "a.bin.fastidm": 0o600}
        command.kill()


def test_words_of_a_server_cannot_move_the_cursor(odd: Serve, folder: Path) -> None:
    name = "x\x1b]0;owned\x07\x1b[2Jy.bin"
    server = odd(File(DATA, lines=(f"Content-Disposition: attachment; filename={name}",)))
    for how in ((), ("--json",)):
        outcome = call("--overwrite", *how, server.url + "/a.bin", cwd=folder)
        assert outcome.code == 0
        assert "\x1b" not in outcome.stderr + outcome.stdout + json.dumps(os.listdir(folder), ensure_ascii=False)
