"""Runs the command again and again in children of one warm process, and has them killed at a chosen point.

Rules of this module:

* The parent has loaded everything and does nothing but fork: a run costs milliseconds instead of the start of an interpreter.
* A seam is a function of the product that touches the disk or the table. Each call of it is two points: before and after.
  At the wished point the child sends itself SIGKILL, so not one more instruction of Python is executed.
* Checkpoints come much more often than usual, so that a short download has many.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.support.command import SECONDS, environment


class Launcher:
    """The warm process, as seen by a test: a context manager.

    Parameters: `home`, its folder; `pure`, whether the sink is the one in Python.
    """

    def __init__(self, home: Path, *, pure: bool) -> None:
        env = environment(home, {"FASTIDM_PURE": "1" if pure else ""})
        self._log = home / "log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.launcher", str(self._log)],
            env=env, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=SECONDS)

    def run(
        self, *arguments: object, cwd: Path, seam: str = "", point: int = 0, without: str = ""
    ) -> tuple[int, Counter[str]]:
        """One run. It is killed at the `point`-th point of `seam`, if it comes there; point 0: it is not.

        `without`: "PartFile.sync" makes the mistake not to sync the data.

        Returns the exit code (negative: the signal) and, of a run that was not killed, how many points each seam had.
        """
        wish = {"arguments": list(map(str, arguments)), "cwd": str(cwd), "seam": seam, "point": point, "without": without}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        code, points = json.loads(self._process.stdout.readline())
        return code, Counter(points)

    @property
    def log(self) -> str:
        """What the last run wrote."""
        return self._log.read_text()


def serve(log: str) -> None:
    """The warm process: a wish per line of stdin, an answer per line of stdout."""
    from fastidm import engine
    from fastidm.cli import main as cli
    from fastidm.core import checkpoints
    from fastidm.storage import journal  # noqa: F401  (loaded before the first fork)
    from fastidm.storage.partfile import PartFile

    engine.TICK, checkpoints.SECONDS = 0.005, 0.01
    for line in sys.stdin:
        wish = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reading)
                os.chdir(wish["cwd"])
                for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
                    target = os.open(log if number else os.devnull, flags | os.O_CREAT | (os.O_TRUNC if number else 0), 0o600)
                    os.dup2(target, number)
                    os.close(target)
                points = Points(wish["seam"], wish["point"])
                points.install()
                if wish["without"] == "PartFile.sync":
                    PartFile.sync = lambda self: None  # type: ignore[method-assign]
                code = cli.run(wish["arguments"])
                os.write(writing, json.dumps(points.passed).encode())
            finally:
                os._exit(code)
        os.close(writing)
        with open(reading, "rb") as pipe:
            passed = json.loads(pipe.read() or b"{}")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([code, passed]), flush=True)


class Points:
    """Counts the points of each seam, and kills at one."""

    def __init__(self, seam: str, point: int) -> None:
        self.passed: Counter[str] = Counter()
        self._deadly = seam, point

    def install(self) -> None:
        from fastidm.core import segments
        from fastidm.engine import Engine
        from fastidm.storage import journal, linux, owned, place
        from fastidm.storage.journal import Journal
        from fastidm.storage.partfile import PartFile
        from fastidm.storage.sink import PureSink

        seams: tuple[tuple[str, Any, str], ...] = (
            ("write", PureSink, "_write_file"),
            ("write into the map", PureSink, "_write_map"),
            ("move a position", PureSink, "_advance"),
            ("flush", Engine, "_settle"),
            ("new row", segments, "put_row"),
            ("give up a row", segments, "clear_row"),
            ("new row beside the old ones", journal, "put_row"),
            ("reserve", linux, "fallocate"),
            ("begin an epoch", Journal, "begin_epoch"),
            ("disarm", Journal, "_disarm"),
            ("write to the journal", journal, "_write"),
            ("sync", owned, "sync"),
            ("sync the folder", owned, "sync_folder"),
            ("check the part file", PartFile, "check"),
            ("publish", place, "publish"),
            ("link", os, "link"),
            ("rename", os, "rename"),
            ("unlink", os, "unlink"),
        )
        for name, owner, attribute in seams:
            setattr(owner, attribute, self._around(name, getattr(owner, attribute)))

    def _around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self._pass(name)
            result = function(*arguments, **more)
            self._pass(name)
            return result

        return call

    def _pass(self, name: str) -> None:
        self.passed[name] += 1
        if (name, self.passed[name]) == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1])
