"""A whole run of the command over a scripted manager: what it prints, what it exits with, how it is stopped."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fastidm.cli.arguments import parse
from fastidm.cli.main import Run, how_to_go_on, run
from fastidm.errors import EXIT_CODES, FastidmError, NoSpaceError, NotFoundError, UsageError
from fastidm.events import Event, Failed, Finished, Progress, Retrying, Started
from fastidm.options import MAX_DOWNLOADS, Options

ROOT = Path(__file__).parents[2]
URL = "https://example.com/file.iso"
MIB = 1 << 20
SECRET = "hunter2"

STARTED = Started(URL, "/d/file.iso", 256 * MIB, 0, True)
PROGRESS = Progress(URL, "/d/file.iso", 256 * MIB, 105 * MIB, 8.0 * MIB, 18.9, 2, ((0, 9, 4), (9, 256 * MIB, 9)))
RETRY = Retrying(URL, "503 Service Unavailable", 1.0, 2)
DONE = Finished(URL, "/d/file.iso", 256 * MIB, 4.1, 62.4 * MIB, 256 * MIB, 0, 16, 0, None, False, URL, None)
ERROR = Failed(URL, "not_found", 3, "the server has no such file: " + URL, "check the address")


class ScriptedTask:
    def __init__(self) -> None:
        self.error: FastidmError | None = None
        self.result: Finished | None = None


class ScriptedManager:
    """Plays a script: (index of the task, event), or something to call."""

    def __init__(self, *script: tuple[int, Event] | Callable[[], None]) -> None:
        self.script = script
        self.added: list[tuple[str, Options]] = []
        self.tasks: list[ScriptedTask] = []
        self.stops = 0
        self.ran = self.closed = False

    def __call__(self, observer: Callable[[Any, Event], None], max_downloads: int) -> ScriptedManager:
        self.observer, self.max_downloads = observer, max_downloads
        return self

    def add(self, url: str, options: Options) -> ScriptedTask:
        self.added.append((url, options))
        self.tasks.append(ScriptedTask())
        return self.tasks[-1]

    def run(self) -> None:
        self.ran = True
        for step in self.script:
            if self.stops:
                return
            if isinstance(step, tuple):
                self.observer(self.tasks[step[0]], step[1])
            else:
                step()

    def stop(self) -> None:
        self.stops += 1

    def close(self) -> None:
        self.closed = True


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def fail(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/fastidm"])


@pytest.fixture(autouse=True)
def _handlers_are_given_back() -> Iterator[None]:
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT)
    before = [signal.getsignal(number) for number in watched]
    yield
    assert [signal.getsignal(number) for number in watched] == before


# --- how it ends ---


def test_a_finished_file_is_exit_code_0_and_one_summary_line(capsys: pytest.CaptureFixture[str]) -> None:
    manager = ScriptedManager((0, STARTED), (0, PROGRESS), (0, DONE))
    assert run(["-n", "4", URL], manager) == 0
    assert manager.added == [(URL, Options(connections=4))]
    assert manager.closed
    assert capsys.readouterr() == ("", "/d/file.iso  256.0 MiB in 4.1 s, 62.4 MiB/s, 16 connections\n")


@pytest.mark.parametrize(("flags", "expected"), [([], MAX_DOWNLOADS), (["--max-downloads", "16"], 16)])
def test_as_many_files_run_at_the_same_time_as_is_asked_for(flags: list[str], expected: int) -> None:
    manager = ScriptedManager((0, DONE))
    assert run([*flags, URL], manager) == 0
    assert manager.max_downloads == expected


@pytest.mark.parametrize("code", sorted(set(EXIT_CODES) - {0, 7}))
def test_a_failed_file_is_its_exit_code_and_one_line(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    event = Failed(URL, EXIT_CODES[code][0], code, "it went\nwrong", "do \x1b[31mthis")
    assert run([URL], ScriptedManager((0, STARTED), (0, event))) == code
    assert capsys.readouterr() == ("", f"fastidm: error: {URL}: it went\\nwrong; do \\x1b[31mthis\n")


@pytest.mark.parametrize("flag", ["--quiet", "--json"])
def test_quiet_and_json_hide_progress_but_no_error(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([flag, URL], ScriptedManager((0, STARTED), (0, PROGRESS), (0, RETRY), (0, ERROR))) == 3
    assert capsys.readouterr().err == f"fastidm: error: {ERROR.message}; check the address\n"
    assert run([flag, URL], ScriptedManager((0, STARTED), (0, PROGRESS), (0, DONE))) == 0
    assert capsys.readouterr().err == ""


def test_of_several_files_the_first_on_the_command_line_that_failed_gives_the_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    urls = [f"https://example.com/{n}" for n in "abc"]
    late = Failed(urls[2], "no_space", 9, "the disk is full", "")
    early = Failed(urls[1], "not_found", 3, f"not found: {urls[1]}", "")
    assert run([*urls], ScriptedManager((2, late), (0, DONE), (1, early))) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"fastidm: error: {urls[2]}: the disk is full", "the file is named if the message does not"
    assert lines[2] == f"fastidm: error: not found: {urls[1]}"


def test_an_error_without_an_event_is_told_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    manager = ScriptedManager((0, STARTED))
    manager.script = (lambda: setattr(manager.tasks[0], "error", NoSpaceError("the disk is full", "make room")),)
    assert run([URL], manager) == 9
    assert capsys.readouterr().err == f"fastidm: error: {URL}: the disk is full; make room\n"


@pytest.mark.parametrize(("error", "code"), [(UsageError("bad URL"), 2), (NotFoundError("gone"), 3)])
def test_an_error_that_the_manager_raises_is_one_line(
    error: FastidmError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    manager = ScriptedManager((0, STARTED), fail(error))
    assert run([URL], manager) == code
    assert capsys.readouterr().err == f"fastidm: error: {error.message}\n"
    assert manager.closed


def test_a_defect_is_one_line_and_a_traceback_only_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run([URL], ScriptedManager((0, STARTED), fail(KeyError("no\nsuch")))) == 1
    assert capsys.readouterr().err == "fastidm: internal error: KeyError: 'no\\nsuch'\n"
    monkeypatch.setenv("FASTIDM_DEBUG", "1")
    assert run([URL], ScriptedManager((0, STARTED), fail(KeyError("no")))) == 1
    assert "Traceback" in capsys.readouterr().err


# --- stopping ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_in_good_order_and_says_how_to_go_on(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    manager = ScriptedManager((0, STARTED), (0, PROGRESS), lambda: os.kill(os.getpid(), number), (0, DONE))
    assert run(["-n", "4", "-o", "my file", URL], manager) == 7
    assert manager.stops == 1
    expected = f"fastidm: stopped at 41 %; to go on: fastidm -n 4 -o 'my file' {URL}\n"
    assert capsys.readouterr() == ("", expected)


def test_a_download_that_ended_in_spite_of_the_signal_is_done() -> None:
    manager = ScriptedManager((0, STARTED), (0, DONE), interrupt)
    assert run(["-q", URL], manager) == 0


def test_a_signal_before_the_start_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    manager = ScriptedManager((0, STARTED), (0, DONE))
    add = manager.add
    manager.add = lambda url, options: (interrupt(), add(url, options))[1]  # type: ignore[method-assign]
    assert run([URL], manager) == 7
    assert not manager.ran
    assert capsys.readouterr().err == f"fastidm: stopped; to go on: fastidm {URL}\n"


def test_the_files_that_are_done_are_left_out_when_going_on(capsys: pytest.CaptureFixture[str]) -> None:
    urls = [f"https://example.com/{n}" for n in "abc"]
    manager = ScriptedManager((1, DONE), (0, STARTED), interrupt)
    assert run(["-q", *urls], manager) == 7
    expected = f"fastidm: stopped, 1 of 3 files are done; to go on: fastidm -q {urls[0]} {urls[2]}\n"
    assert capsys.readouterr().err == expected


def test_it_is_said_when_the_server_cannot_resume(capsys: pytest.CaptureFixture[str]) -> None:
    started = Started(URL, "/d/file.iso", 9, 0, ranges=False)
    assert run([URL], ScriptedManager((0, started), (0, PROGRESS), interrupt)) == 7
    assert "only send the file from its beginning" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--user", f"ann:{SECRET}", URL],
        ["--header", f"Authorization: {SECRET}", URL],
        ["--proxy", f"http://ann:{SECRET}@h:1", URL],
        [f"https://ann:{SECRET}@example.com/f"],
        [f"{URL}?signature={SECRET}"],
        [f"{URL}#{SECRET}"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("flags", [[], ["--json"], ["--quiet"]], ids=" ".join)
def test_nothing_that_is_printed_holds_a_secret(
    arguments: list[str], flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*flags, *arguments], ScriptedManager((0, STARTED), (0, PROGRESS), interrupt)) == 7
    out, err = capsys.readouterr()
    assert SECRET not in out + err
    assert err == "fastidm: stopped at 41 %; run the same command again to go on\n"


def test_going_on_does_not_restart() -> None:
    command = parse(["--restart", URL])
    assert how_to_go_on(command, ["--restart", URL]) == f"to go on: fastidm {URL}"
    command = parse(["--restart", "-u", "a:b", URL])
    assert how_to_go_on(command, []) == "run the same command again without --restart to go on"


def test_going_on_is_said_for_a_module_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/lib/fastidm/__main__.py"])
    assert how_to_go_on(parse([URL]), [URL]) == f"to go on: python3 -m fastidm {URL}"


def test_a_command_that_cannot_be_shown_is_not_shown() -> None:
    arguments = ["-A", "\x1b[2J", URL]
    assert how_to_go_on(parse(arguments), arguments) == "run the same command again to go on"


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hang_up = ScriptedManager(lambda: os.kill(os.getpid(), signal.SIGHUP), (0, DONE))
        assert run(["-q", URL], hang_up) == 0
        assert hang_up.stops == 0
    finally:
        signal.signal(signal.SIGHUP, before)


PRELUDE = """
import os, signal, sys, time
from fastidm.cli.main import run
from fastidm.events import Finished, Progress, Started
class Manager:
    def __init__(self, observer, max_downloads): self.observer = observer
    def add(self, url, options): self.task = self; self.error = self.result = None; return self
    def stop(self): pass
    def close(self): pass
    def tell(self, n):
        self.observer(self, Progress("u", "/d/f", 100, n, 1.0, 1.0, 1, ((0, 100, n),)))
"""


def _environment(**more: str) -> dict[str, str]:
    # Unbuffered, the interpreter would have nothing left to write when it ends, where such programs used to complain.
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | more


def child(body: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    code = f"{PRELUDE}\n{body}\nsys.exit(run(sys.argv[1:], Manager))"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, timeout=30, check=False,
        **({"capture_output": True, "env": _environment()} | more),
    )  # fmt: skip


def test_the_second_signal_ends_the_process_at_once() -> None:
    hanging = """
def hang(self):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
Manager.run = hang
"""
    result = child(hanging, URL)
    assert (result.returncode, result.stdout, result.stderr) == (7, "", "")


def test_a_reader_of_json_that_went_away_does_not_stop_the_download(tmp_path: Path) -> None:
    body = """
def talk(self):
    for n in range(3):
        self.tell(n)
        time.sleep(0.51)
    self.observer(self, Finished("u", "/d/f", 100, 1.0, 1.0, 100, 0, 1, 0, None, False, "u", None))
    open(os.environ["REACHED"], "w").close()
Manager.run = talk
"""
    read, write = os.pipe()
    os.close(read)
    reached = tmp_path / "reached"
    try:
        result = child(
            body, "--json", URL, stdout=write, stderr=subprocess.PIPE, capture_output=False,
            env=_environment(REACHED=str(reached)),
        )  # fmt: skip
        assert (result.returncode, result.stderr) == (0, "")
        assert reached.exists()
    finally:
        os.close(write)


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_text_for_a_reader_that_went_away_is_no_error(flag: str) -> None:
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "fastidm", flag], cwd=ROOT, env=_environment(), stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_text_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "fastidm", "--version"],
            cwd=ROOT,
            env=_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert result.returncode == 10
    assert result.stderr.startswith(b"fastidm: error: cannot write to standard output: ")
    assert result.stderr.count(b"\n") == 1


def test_without_stdout_and_stderr_it_downloads_all_the_same() -> None:
    body = """
Manager.run = lambda self: self.observer(self, Finished("u", "/d/f", 100, 1.0, 1.0, 100, 0, 1, 0, None, False, "u", None))
"""
    for flags in ([], ["--json"], ["--quiet"]):
        result = child("os.close(1); os.close(2); sys.stdout = sys.stderr = None" + body, *flags, URL)
        assert result.returncode == 0


def test_version_loads_almost_nothing() -> None:
    code = """
import sys
sys.argv = ["fastidm", "--version"]
from fastidm.__main__ import main
code = main()
print(*(name for name in ("argparse", "dataclasses", "typing", "re", "enum", "numpy", "asyncio") if name in sys.modules))
sys.exit(code)
"""
    result = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, env=_environment_without_site(), text=True,
                            capture_output=True, check=False)  # fmt: skip
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    assert lines[0].startswith("fastidm ")
    assert lines[-1] == ""


@pytest.mark.parametrize(("pure", "sinks"), [("1", {"pure Python"}), ("0", {"C", "pure Python"})])
def test_version_names_the_sink(pure: str, sinks: set[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "fastidm", "--version"], cwd=ROOT, env=_environment(FASTIDM_PURE=pure), text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert result.stdout.splitlines()[-1] in {f"sink {sink}" for sink in sinks}


def test_a_wrong_argument_is_answered_without_loading_the_engine() -> None:
    code = """
import sys
from fastidm.cli.main import run
code = run(["--nonsense"])
print(*(name for name in ("pycurl", "numpy", "fastidm.engine", "fastidm.manager") if name in sys.modules))
sys.exit(code)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (2, "\n")


def _environment_without_site() -> dict[str, str]:
    # -S leaves out site-packages and what its .pth files load; the path itself is still needed.
    return _environment(PYTHONPATH=os.pathsep.join(path for path in sys.path if path))


# --- JSON ---


def test_json_lines_have_the_fields_of_their_events(capsys: pytest.CaptureFixture[str]) -> None:
    events = [STARTED, PROGRESS, RETRY, ERROR]
    run(["--json", URL], ScriptedManager(*((0, event) for event in events)))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["start", "progress", "retry", "error"]
    for line, event in zip(lines, events, strict=True):
        assert line == {"event": event.kind, "task": 1} | json.loads(json.dumps(vars(event)))
        assert set(line) == {"event", "task"} | {f.name for f in fields(event)}
    run(["--json", URL], ScriptedManager((0, DONE)))
    assert json.loads(capsys.readouterr().out)["event"] == "done"


def test_the_documented_schema_is_the_real_one() -> None:
    import fastidm.cli.main as module

    documented = {}
    for line in (module.__doc__ or "").splitlines():
        words = line.replace(": [[start, stop, position], ...]", "").replace("?", "").split()
        if line.startswith("    ") and words:
            documented[words[0]] = set(words[1:])
    kinds: list[type[Event]] = [Started, Progress, Retrying, Finished, Failed]
    assert documented == {kind.kind: {f.name for f in fields(kind)} for kind in kinds}


def test_json_tells_progress_at_most_twice_a_second_and_the_rest_always() -> None:
    from fastidm.cli.main import JsonReporter

    now = 5.0
    out = io.StringIO()
    reporter = JsonReporter(io.StringIO(), out, lambda: now)
    for _ in range(100):
        reporter.event(1, PROGRESS)
        reporter.event(2, PROGRESS)
        reporter.event(1, RETRY)
        now += 0.1
    kinds = [(line["task"], line["event"]) for line in map(json.loads, out.getvalue().splitlines())]
    assert kinds.count((1, "retry")) == 100
    assert 16 <= kinds.count((1, "progress")) <= 20
    assert 16 <= kinds.count((2, "progress")) <= 20


def test_json_stays_json_whatever_the_server_sends(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = Progress(URL, "/d/\udcff\n\u2028\x00", None, 1, float("nan"), float("inf"), 1, ())
    run(["--json", URL], ScriptedManager((0, hostile)))
    out = capsys.readouterr().out
    assert out.isascii()
    first = json.loads(out.splitlines()[0], parse_constant=lambda name: pytest.fail(name))
    assert (first["rate"], first["eta"]) == (None, None)
    assert first["path"] == "/d/\udcff\n\u2028\x00"


def test_json_ends_every_task_with_done_or_error(capsys: pytest.CaptureFixture[str]) -> None:
    urls = ["https://ann:pw@example.com/a", "https://example.com/b"]
    assert run(["--json", *urls], ScriptedManager((0, STARTED), (1, DONE), interrupt)) == 7
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["task"], last["event"], last["error"], last["exit_code"]) == (1, "error", "interrupted", 7)
    assert last["url"] == "https://***@example.com/a"


# --- who is shown what ---


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "encoding", "kind", "looks"),
    [
        ({"TERM": "xterm"}, "utf-8", "LiveReporter", (True, True)),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "utf-8", "LiveReporter", (True, False)),
        ({"TERM": "xterm", "NO_COLOR": ""}, "utf-8", "LiveReporter", (True, True)),
        ({"TERM": "xterm"}, "ascii", "LiveReporter", (False, True)),
        ({"TERM": "xterm"}, "iso-8859-1", "LiveReporter", (False, True)),
        ({"TERM": "dumb"}, "utf-8", "PlainReporter", (False, None)),
        ({}, "utf-8", "PlainReporter", (False, None)),
    ],
)
def test_the_terminal_decides_how_it_looks(
    environment: dict[str, str], encoding: str, kind: str, looks: tuple[bool, bool | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(Terminal, "encoding", encoding)
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    reporter: Any = Run(parse([URL]), [URL]).reporter
    assert (type(reporter).__name__, (reporter.unicode, getattr(reporter, "colour", None))) == (kind, looks)
