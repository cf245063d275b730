"""mypy and pyright see of the public names what `public.py` says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FILE = HERE / "public.py"


def said(tool: str, tmp_path: Path) -> dict[int, str]:
    """Line -> the type that a tool reveals there, or "error"."""
    command = {
        "mypy": ["-m", "mypy", "--strict", "--no-error-summary", "--config-file=", f"--cache-dir={tmp_path}", str(FILE)],
        "pyright": ["-m", "basedpyright", str(FILE)],
    }[tool]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=HERE.parent.parent)
    found: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if match := re.search(r"public\.py:(\d+)(?::\d+)?.*?(?:Revealed type is|Type of .* is) [\"'](.*)[\"']", line):
            found[int(match[1])] = re.sub(r"\b(?:fastidm|builtins)\.(?:\w+\.)*", "", match[2])
        elif match := re.search(r"public\.py:(\d+)(?::\d+)?(?: -|:) error:", line):
            found[int(match[1])] = "error"
    assert found, done.stdout + done.stderr
    return found


@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_a_type_checker_sees_what_the_comments_say(tool: str, tmp_path: Path) -> None:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    wanted = {number: line.partition("  # ")[2] for number, line in enumerate(lines, 1) if "  # " in line}
    assert said(tool, tmp_path) == wanted
