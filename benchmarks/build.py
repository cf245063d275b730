"""Compiles the suite's own C programs, where there is a compiler.

Rules of this module: a program that cannot be built is None with a reason, never an exception; what needs it says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAVOURS: dict[str, tuple[str, list[str], list[str]]] = {
    "floor": ("floor.c", [], []),
    "floor-tls": ("floor.c", ["-DTLS"], ["-lssl", "-lcrypto"]),
    "floor-many": ("floor_many.c", [], []),
    "disk": ("disk.c", ["-pthread"], []),
    "origin": ("origin.c", [], []),
}


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")


_built: dict[str, Path] = {}


def build(folder: Path) -> dict[str, str]:
    """Compile everything into `folder`, for `program`; returns for each that could not be built the reason."""
    _built.clear()
    missing: dict[str, str] = {}
    cc = compiler()
    for name, (source, flags, libraries) in FLAVOURS.items():
        if cc is None:
            missing[name] = "there is no C compiler"
            continue
        command = [cc, "-O2", "-Wall", "-Wextra", *flags, str(HERE / source), "-o", str(folder / name), *libraries]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            words = next((line for line in done.stderr.splitlines() if "error" in line), "the compiler failed")
            missing[name] = words.strip()[:160]
        else:
            _built[name] = folder / name
    return missing


def program(name: str) -> str:
    """The path of a program that `build` made; "" if it did not."""
    return str(_built.get(name, ""))
