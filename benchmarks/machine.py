"""What the measurements ran on. Rules of this module: it names no host and no user; what cannot be found out is left out."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path


def describe(output: Path) -> dict[str, str]:
    """Facts as (name, text), in the order in which they are shown."""
    facts = {
        "processor": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _memory(),
        "virtual": "yes (hypervisor flag)" if "hypervisor" in _flags() else "no hypervisor flag",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _system(),
        "file system": file_system(output),
        "Python": platform.python_version(),
        "load at the start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "C library": " ".join(platform.libc_ver()).strip(),
    }
    return {name: text for name, text in facts.items() if text}


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    path = os.path.realpath(folder)
    for line in lines:
        _, point, name, *_ = line.split()
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def fastidm_version(root: Path) -> str:
    import subprocess

    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return ""  # no git
    return done.stdout.strip() if done.returncode == 0 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.processor() or sys.platform


def _flags() -> list[str]:
    found = re.search(r"^flags\s*:\s*(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1].split() if found else []


def _memory() -> str:
    found = re.search(r"^MemTotal:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return f"{int(found[1]) / (1 << 20):.1f} GiB" if found else ""


def _system() -> str:
    found = re.search(r'^PRETTY_NAME="(.*)"$', _read("/etc/os-release"), re.MULTILINE)
    return found[1] if found else ""
