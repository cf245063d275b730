"""`make bench-compare BASE=REV`: two revisions against each other, and what got slower beyond the noise.

Rules of this module: both revisions lie in a temporary folder as worktrees of git, each with a C sink of its own, built in the
same way. Scenarios and micro benchmarks are those of this checkout for both, so what is compared is the product alone. The two
take turns within one measurement. Slower means: by more than the medians may differ by chance, and by more than a floor of 3 %
(micro benchmarks: 10 %).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from benchmarks import build, figures
from benchmarks.measure import ROOT
from benchmarks.model import Run, positive, usable
from benchmarks.scenarios import all_scenarios
from benchmarks.suite import Suite
from benchmarks.tools import fastidm

SCENARIOS = ("plain", "tls", "collapsing", "small", "cold")
FLOOR, MICRO_FLOOR = 0.03, 0.10
FIGURES = ("wall", "cpu", "rss")


class Change(NamedTuple):
    """How a figure went from `base` to `head`, 0 where it could not be measured; by chance it may move by the share `noise`."""

    name: str
    base: float
    head: float
    noise: float

    @property
    def share(self) -> float:
        return self.head / self.base - 1 if self.base else 0.0

    @property
    def word(self) -> str:
        if not self.base or not self.head:
            return "new" if self.head else "MISSING"
        if abs(self.share) <= self.noise:
            return ""
        return "SLOWER" if self.share > 0 else "faster"


def compare_values(name: str, base: Sequence[float], head: Sequence[float], floor: float = FLOOR) -> Change:
    """The medians of two series, and what chance may do to them."""
    noise = max(floor, figures.noise(base) + figures.noise(head))
    medians = [found.median if (found := figures.spread(values)) else 0.0 for values in (base, head)]
    return Change(name, medians[0], medians[1], noise)


def compare_runs(runs: Sequence[Run], base: str = "base", head: str = "head") -> list[Change]:
    """Each figure of each scenario in which both were run."""
    changes = []
    for scenario in dict.fromkeys(run.scenario for run in runs):
        of = {tool: list(usable([r for r in runs if r.scenario == scenario and r.tool == tool])) for tool in (base, head)}
        if of[base] and of[head]:
            for name in (*FIGURES, *(("first_request",) if of[base][0].first_request is not None else ())):
                before, after = ([getattr(run, name) for run in of[tool]] for tool in (base, head))
                changes.append(compare_values(f"{scenario} {name}", before, after))
    return changes


def compare_micro(base: Sequence[Mapping[str, Any]], head: Sequence[Mapping[str, Any]]) -> list[Change]:
    """From the JSON of pytest-benchmark, several rounds of each: the best median counts, the others had bad neighbours.

    The benchmarks are the same for both: what `head` cannot run any more is missing, and what `base` could not run is new.
    """
    best = [_best_medians(rounds) for rounds in (base, head)]
    apart = [_best_medians(rounds, max) for rounds in (base, head)]
    changes = []
    for name in best[0].keys() | best[1].keys():
        noise = sum(apart[n][name] / best[n][name] - 1 for n in (0, 1) if name in best[n])
        changes.append(Change(name, best[0].get(name, 0.0), best[1].get(name, 0.0), max(MICRO_FLOOR, noise)))
    return sorted(changes)


def _best_medians(rounds: Sequence[Mapping[str, Any]], choose: Any = min) -> dict[str, float]:
    found: dict[str, float] = {}
    for told in rounds:
        for one in told["benchmarks"]:
            median = one["stats"]["median"]
            found[one["name"]] = choose(found.get(one["name"], median), median)
    return found


@contextmanager
def worktree(revision: str, folder: Path) -> Iterator[Path]:
    """`revision` checked out at `folder`, with its C sink and the benchmarks of this checkout."""
    _git("worktree", "add", "--detach", "--quiet", str(folder), revision)
    try:
        shutil.rmtree(folder / "benchmarks", ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=ignored)
        _build_sink(folder)
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _build_sink(folder: Path) -> None:
    source = folder / "fastidm" / "_hotpath.c"
    compiler = build.compiler()
    if not source.exists() or compiler is None:
        print(f"{folder.name}: without the C sink", file=sys.stderr)
        return
    modules = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["setuptools"].get("ext-modules", [{}])
    flags = modules[0].get("extra-compile-args", ["-O2"])
    target = folder / "fastidm" / f"_hotpath{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [compiler, *flags, "-shared", "-fPIC", "-isystem", sysconfig.get_path("include"), str(source), "-o", str(target)]
    subprocess.run(command, check=True)


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout.strip()


def _tool(label: str, root: Path) -> SimpleNamespace:
    return SimpleNamespace(label=label, version=lambda: label, command=fastidm.command, many=fastidm.many, root=root)


def _micro(root: Path, output: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "benchmarks/micro", f"--benchmark-json={output}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if not output.exists():
        print(done.stdout[-2000:], file=sys.stderr)
        return {"benchmarks": []}
    told: dict[str, Any] = json.loads(output.read_text())
    return told


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="Compare two revisions of fastidm.")
    parser.add_argument("base")
    parser.add_argument("head", nargs="?", default="HEAD")
    parser.add_argument("--scenario", metavar="NAME", nargs="+", choices=list(all_scenarios()), default=list(SCENARIOS))
    parser.add_argument("--repeat", metavar="N", type=positive, default=9)
    parser.add_argument("--size", metavar="BYTES", type=positive, default=0)
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("build/benchmarks"), help="the file system to measure"
    )
    parser.add_argument("--no-micro", action="store_true", help="leave the micro benchmarks out")
    asked = parser.parse_args(arguments)
    names = {}
    for one in (asked.base, asked.head):
        try:
            names[one] = _git("rev-parse", "--short", "--verify", f"{one}^{{commit}}")
        except (OSError, subprocess.CalledProcessError):
            parser.error(f"git knows no revision {one}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # worktrees and folders are to go, whoever ends it
    try:
        return compared(asked, names)
    except KeyboardInterrupt:
        print("interrupted: nothing was compared", file=sys.stderr)
        return 130


def compared(asked: argparse.Namespace, names: Mapping[str, str]) -> int:
    """Measure both and print what became of it; returns the exit status."""
    asked.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compare-", dir=asked.output) as name:
        folder = Path(name).resolve()
        with worktree(asked.base, folder / "base") as base, worktree(asked.head, folder / "head") as head:
            (folder / "programs").mkdir()
            build.build(folder / "programs")
            (folder / "downloads").mkdir()
            tools: dict[str, Any] = {"base": _tool("base", base), "head": _tool("head", head)}
            suite = Suite(tools, folder / "downloads", asked.repeat, size=asked.size)
            suite.restrict = False
            suite.tell = lambda text: print(text, file=sys.stderr)
            runs: list[Run] = []
            suite.run((all_scenarios()[one] for one in asked.scenario), runs.append)
            rounds: dict[str, list[dict[str, Any]]] = {"base": [], "head": []}
            for turn in range(0 if asked.no_micro else 3):
                for which, root in (("base", base), ("head", head)):
                    rounds[which].append(_micro(root, folder / f"{which}{turn}.json"))
    changes = compare_runs(runs) + compare_micro(rounds["base"], rounds["head"])
    for run in runs:
        if run.failure:
            print(f"FAILED  {run.scenario}, {run.tool}: {run.failure}")
    print(f"{'':8}{'from ' + names[asked.base]:>14}{'to ' + names[asked.head]:>14}{'change':>9}{'noise':>8}")
    for change in changes:
        numbers = f"{change.base:14.6g}{change.head:14.6g}{100 * change.share:+8.1f}%{100 * change.noise:7.1f}%"
        print(f"{change.word:8}{numbers}  {change.name}")
    broken = any(run.failure for run in runs) or not changes
    return 1 if broken or any(change.word in ("SLOWER", "MISSING") for change in changes) else 0


if __name__ == "__main__":
    sys.exit(main())
