"""Fuzz with atheris: `python -m tests.fuzz [TARGET]... [--seconds N]`; without targets all of them.

Each runs in a process of its own, as libFuzzer ends the process that it runs in. What breaks a promise is printed as bytes that
a test can hold. Exit code 0: nothing did.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

COUNT = re.compile(r"number_of_executed_units: *(\d+)")


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["fastidm"]):
        from tests.fuzz.corpus import SEEDS
        from tests.fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory(prefix="fastidm-fuzz-") as folder:
        seeds = Path(folder, "seeds")
        seeds.mkdir()
        for number, seed in enumerate(SEEDS[name]):
            (seeds / f"{number}").write_bytes(seed)
        limits = [f"-max_total_time={seconds}", "-max_len=16384", "-timeout=20", "-rss_limit_mb=1024"]
        quiet = ["-print_final_stats=1", "-verbosity=0", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], *limits, *quiet, str(seeds)], TARGETS[name])
        atheris.Fuzz()


def run(name: str, seconds: int) -> bool:
    """Fuzz one target in a child process and say how it went. Returns whether it kept its promises."""
    in_memory = "/dev/shm"  # where a sync costs nothing
    home = in_memory if os.access(in_memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fastidm-fuzz-", dir=home) as folder:  # libFuzzer's end removes nothing
        command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(seconds), "--here"]
        child = subprocess.run(command, env={**os.environ, "TMPDIR": folder}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        found = [path for path in Path(folder).rglob("*") if path.name.startswith(("crash-", "timeout-", "oom-"))]
        inputs = [path.read_bytes() for path in found]
    output = child.stdout.decode(errors="replace")
    count = COUNT.search(output)
    how = "good" if child.returncode == 0 else "BROKEN"
    print(f"{name:<20} {int(count[1]) if count else 0:>12,} inputs  {how}", flush=True)
    if child.returncode:
        print(output)
        for data in inputs:
            print(f"{name} does not keep its promise for {data!r}", flush=True)
    return child.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", metavar="TARGET", nargs="*")
    parser.add_argument("--seconds", type=int, default=20, help="for each target (default 20)")
    parser.add_argument("--here", action="store_true", help="one target, in this process")
    arguments = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed: pip install '.[fuzz]', or make fuzz", file=sys.stderr)
        return 2
    if arguments.here:
        fuzz(arguments.targets[0], arguments.seconds)
        return 0
    from tests.fuzz.corpus import SEEDS

    unknown = set(arguments.targets) - set(SEEDS)
    if unknown:
        print(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(SEEDS)}", file=sys.stderr)
        return 2
    kept = [run(name, arguments.seconds) for name in arguments.targets or SEEDS]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
