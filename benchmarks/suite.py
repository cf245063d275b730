"""Goes through scenarios and tools, and hands on each run as soon as it is there.

Rules of this module: within a repetition every tool has its turn, in random order, so that a slow minute of the machine hits
all of them. First each tool runs once without being measured; where the server is throttled that run fetches 1 MiB only, and
tools of one connection are run once, in a quick measurement not at all. A tool that failed is not run again in that scenario.
What is missing or unable is recorded as such.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from benchmarks import content, machine, measure
from benchmarks.content import Content
from benchmarks.model import MIB, Origin, Run, Scenario, Site
from benchmarks.origins import Missing
from benchmarks.tools import FASTIDM, FLOOR, is_peer

MEMORY = Path("/dev/shm")
SINGLE = "one connection, whose time is known beforehand and long"


@dataclass
class Suite:
    """What is asked for: `scratch` is an empty folder on the file system that is to be measured."""

    tools: dict[str, ModuleType]
    scratch: Path
    repetitions: int
    full: bool = False
    size: int = 0
    """Bytes of every scenario; 0: each has its own."""
    seed: int = 1
    root: Path = measure.ROOT
    """The checkout whose fastidm is measured."""
    restrict: bool = True
    """Whether a scenario's own choice of tools counts; False where the user has chosen."""
    tell: Callable[[str], None] = lambda text: None

    def run(self, scenarios: Iterable[Scenario], take: Callable[[Run], None]) -> None:
        """Run everything; `take` gets each run."""
        chance = random.Random(self.seed)
        for scenario in scenarios:
            self._scenario(scenario, take, chance)

    def _scenario(self, scenario: Scenario, take: Callable[[Run], None], chance: random.Random) -> None:
        total = scenario.size if self.full or scenario.fixed else scenario.quick
        if self.size and not scenario.fixed:
            total = self.size
        served = measure.emptied(self.scratch / "served")
        sizes = scenario.sizes(total)
        self.tell(f"{scenario.name}: {scenario.title}, {sum(sizes) / MIB:g} MiB")
        names = [name for name in self.tools if not self.restrict or makes_sense(scenario, name)]
        folder = self.scratch / "out"
        try:
            files = [content.make(served, f"file{number:04}.bin", size) for number, size in enumerate(sizes)]
            warm = [content.make(served, "warm.bin", min(MIB, total))] if scenario.ideal else files
            if scenario.in_memory:
                folder = _in_memory(sum(sizes))
            with scenario.origin(Site(served, measure.emptied(self.scratch / "server"))) as origin:
                self._rounds(scenario, names, origin, files, warm, folder, take, chance)
        except Missing as reason:
            for name in names:
                take(replace(self._run(scenario, name, 0, sum(sizes)), unable=str(reason)))
        finally:
            for leftover in (served, folder):
                measure.put_away(leftover, self.scratch / "past")

    def _rounds(
        self,
        scenario: Scenario,
        names: Sequence[str],
        origin: Origin,
        files: list[Content],
        warm: list[Content],
        folder: Path,
        take: Callable[[Run], None],
        chance: random.Random,
    ) -> None:
        paced = scenario.ideal is not None and scenario.kind == "one"
        single = [name for name in names if paced and getattr(self.tools[name], "single", False)]
        left = list(names)
        if not self.full and self.restrict:
            for name in single:
                take(replace(self._run(scenario, name, 0, 0), unable=SINGLE))
                left.remove(name)
        for repetition in range(self.repetitions + scenario.extra_repetitions * self.full + 1):
            order = list(left)
            chance.shuffle(order)
            for name in order:
                tool = self.tools[name]
                if name in single and repetition != 1:
                    continue
                measured = repetition > 0
                wanted = files if measured else warm
                plan = scenario if measured or scenario.kind == "many" or not scenario.ideal else replace(scenario, kind="one")
                run = self._run(scenario, name, repetition, sum(file.size for file in wanted))
                run.warmup = not measured
                measure.run_once(
                    plan, tool, run, origin, wanted, folder, self.scratch / "home", getattr(tool, "root", self.root)
                )
                if run.failure or run.unable:
                    left.remove(name)
                take(run)

    def _run(self, scenario: Scenario, name: str, repetition: int, size: int) -> Run:
        ideal = scenario.ideal(size, scenario.connections) if scenario.ideal else None
        return Run(scenario.name, name, self.tools[name].label, repetition, size, ideal=ideal)


def makes_sense(scenario: Scenario, name: str) -> bool:
    """Whether the tool `name` has something to show in `scenario`."""
    if scenario.tools:
        return name in scenario.tools
    return name in (FASTIDM, FLOOR, *scenario.variants) or is_peer(name)


def _in_memory(size: int) -> Path:
    if machine.file_system(MEMORY) != "tmpfs":
        raise Missing("there is no tmpfs at /dev/shm")
    facts = os.statvfs(MEMORY)
    if facts.f_bavail * facts.f_frsize < 2 * size:
        raise Missing("not enough memory in /dev/shm")
    return Path(tempfile.mkdtemp(prefix="fastidm-bench-", dir=MEMORY))
