"""`python -m benchmarks`: measure, and write a report."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import build, claims, figures, machine, measure
from benchmarks.model import GIB, Extra, Run, Scenario, Unable, positive, usable
from benchmarks.report import lines, write
from benchmarks.scenarios import all_scenarios
from benchmarks.suite import Suite
from benchmarks.tools import all_tools, is_ours

QUICK_TOOLS = (
    "fastidm",
    "fastidm_mmap",
    "fastidm_pwrite",
    "fastidm_synced",
    "fastidm_api",
    "curl",
    "aria2c",
    "aria2_next",
    "floor",
    "disk",
    "libcurl",
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure fastidm and its peers; see benchmarks/README.md."
    )
    mode = made.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="small files, 3 repetitions, the main tools; the default")
    mode.add_argument("--full", action="store_true", help="large files, 9 repetitions, every tool that is installed")
    made.add_argument("--scenario", metavar="NAME", nargs="+", action="extend", default=[], help="only these")
    made.add_argument("--tool", metavar="NAME", nargs="+", action="extend", default=[], help="only these")
    made.add_argument("--repeat", metavar="N", type=positive, default=0, help="repetitions")
    made.add_argument("--size", metavar="BYTES", type=positive, default=0, help="of every scenario; claims are not judged then")
    made.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("build/benchmarks"),
        help="for the report and, on the same file system, the downloads",
    )
    made.add_argument("--seed", metavar="N", type=int, default=0, help="of the random order")
    made.add_argument("--root", metavar="DIR", type=Path, default=measure.ROOT, help="the checkout whose fastidm is measured")
    again = "measure nothing, write the report of these JSON lines again; of a scenario that several have, the last counts"
    made.add_argument("--report", metavar="FILE", type=Path, nargs="+", help=again)
    made.add_argument("--page", metavar="FILE", type=Path, help="with --report: a page of the docs, pictures beside it")
    made.add_argument("--list", action="store_true", help="scenarios and tools, and which are missing")
    return made


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_args(arguments)
    if asked.page and not asked.report:
        parser().error("--page wants --report: which lines shall be on it?")
    if unknown := [path for path in asked.report or () if not path.is_file()]:
        parser().error(f"no such file: {unknown[0]}")
    if asked.report:
        print(write.write_page(asked.report, asked.page) if asked.page else write.write(*asked.report))
        return 0
    scenarios, tools = all_scenarios(), all_tools()
    for kind, given, known in (("scenario", asked.scenario, scenarios), ("tool", asked.tool, tools)):
        for name in given:
            if name not in known:
                print(f"no such {kind}: {name}; there are {', '.join(known)}", file=sys.stderr)
                return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers and folders are to go, whoever ends it
    if platform.system() != "Linux":
        print("the suite measures on Linux alone", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="fastidm-programs-") as programs:
        missing = build.build(Path(programs))
        if asked.list:
            return listing(scenarios, tools)
        return measured(asked, scenarios, tools, missing)


def listing(scenarios: dict[str, Scenario], tools: dict[str, ModuleType]) -> int:
    print("scenarios:")
    for name, scenario in scenarios.items():
        print(f"  {name:<14} {scenario.title}{' (full only)' if scenario.full_only else ''}")
    print("tools:")
    for name, tool in tools.items():
        print(f"  {name:<14} {tool.label:<22} {tool.version() or 'MISSING'}")
    return 0


def measured(
    asked: argparse.Namespace, scenarios: dict[str, Scenario], tools: dict[str, ModuleType], missing: dict[str, str]
) -> int:
    chosen = {
        name: tool for name, tool in tools.items() if (name in asked.tool if asked.tool else asked.full or name in QUICK_TOOLS)
    }
    versions = {name: tool.version() for name, tool in chosen.items()}
    present = {name: tool for name, tool in chosen.items() if versions[name]}
    wanted = [
        s for name, s in scenarios.items() if (name in asked.scenario if asked.scenario else asked.full or not s.full_only)
    ]
    repetitions = asked.repeat or (9 if asked.full else 3)
    chosen_tools = ", chosen tools" if asked.tool else ""
    seed = asked.seed or random.randrange(1, 1 << 31)
    asked.output.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    folder = asked.output / now.strftime("%Y-%m-%d-%H%M%S")
    folder.mkdir()
    path = folder / "runs.jsonl"
    meta = {
        "kind": "meta",
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "mode": f"{'full' if asked.full else 'quick'}{chosen_tools}, {repetitions} repetitions, order by seed {seed}",
        "revision": machine.fastidm_version(asked.root),
        "machine": machine.describe(asked.output),
        "tools": {name: about(name, tool, name in chosen) for name, tool in tools.items()},
        "missing": missing,
    }
    lines.write(path, meta)
    for name in chosen.keys() - present.keys():
        print(f"missing: {chosen[name].label}", file=sys.stderr)
    runs: list[Run] = []

    def take(run: Run) -> None:
        runs.append(run)
        lines.write(path, run.record())
        print(f"  {told(run)}", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="downloads-", dir=asked.output) as scratch:
        suite = Suite(present, Path(scratch).resolve(), repetitions, asked.full, asked.size, seed, asked.root.resolve())
        suite.restrict = not asked.tool
        suite.tell = lambda text: print(text, file=sys.stderr)
        interrupted = False
        try:
            suite.run(wanted, take)
        except KeyboardInterrupt:
            interrupted = True
            print("interrupted; the report has what was measured until now", file=sys.stderr)
    report = write.write(path)
    for verdict in claims.judge(figures.summarise(runs)):
        if verdict.holds is not None:
            print(f"{verdict.word:<14} {verdict.claim.scenario}: {verdict.claim.text} (measured {claims.shown(verdict)})")
    print(f"report: {report} and report.html beside it")
    ours_failed = any(run.failure for run in runs if is_ours(run.tool))
    return 130 if interrupted else 1 if ours_failed or not any(usable(runs)) else 0


def told(run: Run) -> str:
    """One line about one run."""
    what = f"{run.tool:<15} {'warm-up' if run.warmup else run.repetition:>7}  "
    if run.unable or run.failure:
        words = str(run.details.get("words", "")).strip().splitlines()[-1:]
        return what + (f"not run: {run.unable}" if run.unable else f"FAILED: {run.failure} {' '.join(words)}")
    return what + f"{run.wall:7.3f} s  CPU {run.cpu:6.3f} s  {run.rss >> 20:4} MiB  sent {run.sent_ratio:.3f}"


def about(name: str, tool: ModuleType, asked: bool) -> dict[str, Any]:
    """What the report says of a tool."""
    version = tool.version()
    return {"label": tool.label, "version": version, "command": example(tool) if version else "", "asked": asked}


def example(tool: ModuleType) -> str:
    """The command line with a URL and a path that say what they are."""
    try:
        words = tool.command("http://HOST:80/FILE", "DIR/FILE", 16, Extra(size=GIB))
    except Unable as reason:
        return str(reason)
    # Where a program lies on this machine is nobody's business.
    return shlex.join(os.path.basename(word) if os.path.exists(word) else word for word in words)


if __name__ == "__main__":
    sys.exit(main())
