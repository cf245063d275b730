"""Start-up: interpreters that import something and end. `bare` is what Python itself costs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

STATEMENTS = {
    "bare": "pass",
    "fastidm": "import fastidm",
    "arguments": "import fastidm.cli.arguments",
    "pycurl": "import pycurl",
    "engine": "import fastidm.engine",
    "command": "import fastidm.cli.main",
}


@pytest.mark.parametrize("what", STATEMENTS)
def test_import(benchmark: Any, what: str) -> None:
    command = [sys.executable, "-c", STATEMENTS[what]]
    benchmark.pedantic(subprocess.run, (command,), {"check": True}, rounds=15, warmup_rounds=2)


def test_version(benchmark: Any) -> None:
    command = [sys.executable, "-m", "fastidm", "--version"]
    benchmark.pedantic(subprocess.run, (command,), {"check": True, "stdout": subprocess.DEVNULL}, rounds=15, warmup_rounds=2)
