"""How the files in `tools/` find what they run, and ask it for its version.

Rules of this module: what is installed beside this Python comes before what is on PATH; nothing is installed from here.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent / "library.py"
ENV = shutil.which("env") or "/usr/bin/env"


@cache
def where(name: str) -> str:
    """The absolute path of the program `name`, "" when there is none."""
    beside = os.path.join(sysconfig.get_path("scripts"), name)
    return beside if os.access(beside, os.X_OK) else shutil.which(name) or ""


@cache
def banner(name: str, flag: str = "--version") -> str | None:
    """The first line that the program says about itself; None when it is missing or does not run."""
    if not where(name):
        return None
    try:
        done = subprocess.run([where(name), flag], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return lines[0][:100] if lines and done.returncode == 0 else None


def package(name: str) -> str | None:
    """Name and version of an installed Python package, else None."""
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def library(name: str, what: str, *arguments: str) -> list[str]:
    """A command that lets the Python library `name` do the work, see library.py."""
    # -P: the folder of the script does not shadow the libraries, some of which have the name of a file of ours.
    return [sys.executable, "-P", str(LIBRARY), name, what, *arguments]
