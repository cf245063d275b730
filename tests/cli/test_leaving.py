"""The process ends at once, and nothing is lost by that."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def ended(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


FINALIZED = """
import sys
class Witness:
    def __del__(self):
        sys.__stderr__.write("finalized")
witness = Witness()
"""
LEAVE = "from fastidm.cli.leaving import leave\n"


@pytest.mark.parametrize("code", [0, 7, 20])
def test_the_code_and_what_was_written_arrive_and_nothing_is_finalized(code: int) -> None:
    done = ended(f"{FINALIZED}{LEAVE}import atexit\natexit.register(print, 'asked')\nprint('x' * 100000)\nleave({code})")
    assert (done.returncode, done.stdout, done.stderr) == (code, "x" * 100000 + "\nasked\n", "")


@pytest.mark.parametrize(
    "watch",
    ["sys.setprofile(lambda *_: None)", "sys.settrace(lambda *_: None)", "import cProfile; cProfile.Profile().enable()"],
)
def test_who_watches_gets_the_usual_end(watch: str) -> None:
    done = ended(f"import os, sys\nos._exit = lambda code: os.abort()\n{LEAVE}{watch}\nleave(3)")
    assert (done.returncode, done.stderr) == (3, "")


def test_a_thread_that_is_no_daemon_is_waited_for() -> None:
    work = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.3), print('done'))).start()\n"
    begun = time.monotonic()
    done = ended(f"{LEAVE}{work}leave(5)")
    assert (done.returncode, done.stdout) == (5, "done\n")
    assert time.monotonic() - begun >= 0.3


def test_where_nothing_can_be_written_the_interpreter_says_so() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", f"{LEAVE}print('x')\nleave(0)"], cwd=ROOT, stdout=full,
                              env={**os.environ, "PYTHONUNBUFFERED": ""}, stderr=subprocess.PIPE, check=False)  # fmt: skip
    assert done.returncode == 120
    assert b"No space left" in done.stderr


def test_without_streams_it_ends_all_the_same() -> None:
    assert ended(f"{LEAVE}import sys\nsys.stdout = sys.stderr = None\nleave(4)").returncode == 4


def test_the_command_leaves_that_way() -> None:
    done = ended(f"{FINALIZED}sys.argv = ['fastidm', '--version']\nfrom fastidm.__main__ import command\ncommand()")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("fastidm ")
