"""The real command as a child process: run it to its end, or start it, await what it tells, and kill it.

Rules of this module: the command is `python -m fastidm` of this checkout, in a folder and with a HOME of the test's own, and
nobody waits by the clock: what the command tells in `--json` is awaited line by line. A command that still runs when its
test ends is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import IO, Any, Self

ROOT = Path(__file__).parents[2]
SECONDS = 15.0
"""Longest wait for anything that a test expects."""

PROGRAM = (sys.executable, "-m", "fastidm")

JsonEvent = dict[str, Any]


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a command: this checkout comes first, `home` is its HOME, and its language is nobody's."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "HOME": str(home), "LC_ALL": "C.UTF-8", **(more or {})}


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (negative: the signal that killed it) and all that it wrote."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    """From the start to the end, the interpreter's own included."""
    arguments: tuple[str, ...] = field(repr=False, default=())

    @cached_property
    def events(self) -> list[JsonEvent]:
        """What `--json` told."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def of(self, kind: str) -> list[JsonEvent]:
        """The events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def done(self) -> JsonEvent:
        """The one `done` event of a download that ended well."""
        assert self.code == 0, self
        (event,) = self.of("done")
        return event

    @property
    def complaint(self) -> str:
        """The one line on stderr of a command that failed; there must be nothing else."""
        lines = self.stderr.splitlines()
        assert len(lines) == 1 and self.stderr.endswith("\n"), self
        assert lines[0].startswith("fastidm: error: "), self
        return lines[0]


class Command:
    """The command, running. A context manager; at its end the process is killed if it still runs.

    Parameters: `arguments`, of the command; `cwd`, where it runs, also its HOME; `env`, further variables;
    `wrapper`, words to put before the command, like `prlimit --fsize=1000`.
    """

    def __init__(
        self, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None, wrapper: tuple[str, ...] = ()
    ) -> None:
        self.arguments = tuple(map(str, arguments))
        self._begun = time.monotonic()
        self.process = subprocess.Popen(
            [*wrapper, *PROGRAM, *self.arguments],
            cwd=cwd, env=environment(cwd, env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._told = threading.Condition()
        self._lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._readers = [threading.Thread(target=self._read, args=(name,)) for name in self._lines]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(f"The command had exit code {self.process.poll()} and had written {self._lines}.")
        if self.process.poll() is None:
            self.process.kill()
        self.finish()

    def wait_for(self, kind: str, where: Callable[[JsonEvent], bool] = lambda event: True) -> JsonEvent:
        """The first `--json` event of `kind` for which `where` is true, as soon as there is one."""
        seen = 0
        with self._told:
            deadline = time.monotonic() + SECONDS
            while True:
                lines = self._lines["stdout"]
                for line in lines[seen:]:
                    event: JsonEvent = json.loads(line)
                    if event["event"] == kind and where(event):
                        return event
                seen = len(lines)
                alive = any(reader.is_alive() for reader in self._readers)
                assert alive and time.monotonic() < deadline, f"no such {kind} event; the command wrote {self._lines}"
                self._told.wait(0.5)

    def wait_for_received(self, count: int) -> JsonEvent:
        """A `progress` event that tells of at least `count` received bytes."""
        return self.wait_for("progress", lambda event: event["received"] >= count)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; returns at once."""
        self.process.send_signal(number)

    def kill(self) -> Outcome:
        """SIGKILL."""
        self.send(signal.SIGKILL)
        outcome = self.finish()
        assert outcome.code == -signal.SIGKILL, outcome
        return outcome

    def finish(self, seconds: float = SECONDS) -> Outcome:
        """Wait for its end, at most `seconds`."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s, having written {self._lines}") from None
        finally:
            self.process.kill()  # the readers end with it
            self.process.wait()
            for reader in self._readers:
                reader.join()
        stdout, stderr = ("".join(self._lines[name]) for name in ("stdout", "stderr"))
        return Outcome(code, stdout, stderr, time.monotonic() - self._begun, self.arguments)

    def _read(self, name: str) -> None:
        pipe: IO[bytes] = getattr(self.process, name)
        with pipe:
            for line in pipe:
                with self._told:
                    self._lines[name].append(line.decode())
                    self._told.notify_all()
        with self._told:
            self._told.notify_all()


def run(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None, wrapper: tuple[str, ...] = ()) -> Outcome:
    """Run the command to its end; parameters as of `Command`."""
    with Command(*arguments, cwd=cwd, env=env, wrapper=wrapper) as command:
        return command.finish()


def call(*arguments: object, cwd: Path) -> Outcome:
    """The same as `run` within this process, several times faster: without the start of an interpreter and its end."""
    from fastidm.cli import main

    begun = time.monotonic()
    with contextlib.chdir(cwd), redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr:
        code = main.run(list(map(str, arguments)))
    return Outcome(code, stdout.getvalue(), stderr.getvalue(), time.monotonic() - begun, tuple(map(str, arguments)))
