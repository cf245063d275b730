"""What a run after the crash would believe, and whether it may.

Rules of this module:

* A journal is read by the real code, each distinct image of it once. Whether its part file is the right one, which takes
  nothing but names and numbers, is repeated here; `test_power_cuts.py` shows on a share of the cuts, by the real code on
  real files, that it is repeated rightly.
* A hole in the part file counts as data here: not every file system can tell the difference.
* A SIGKILL may fall between the words of a long store. With `ascending` they are taken to be stored in order.
* A violation is a sentence; a list without one is the proof.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest.mock import patch

from fastidm.core.segments import merge
from fastidm.storage import linux
from fastidm.storage.journal import Journal, JournalDamaged
from fastidm.storage.naming import JOURNAL_SUFFIX, PART_SUFFIX
from tests.crash.driver import NAME
from tests.crash.model import Disk, Image, Survivor, subtract
from tests.crash.recorder import Recorder
from tests.crash.trace import Entry, Finished, Page, Promise, Ranges, Step, SyncEnds

PART, JOURNAL = NAME + PART_SUFFIX, NAME + JOURNAL_SUFFIX
BOOT, NEXT_BOOT, LAST_BOOT = b"before the crash", b"after the crash ", b"after the second"
MOST_TORN = 12
"""Ways in which one long store is torn."""


@contextmanager
def boot(id: bytes) -> Iterator[None]:
    """The machine has this boot id."""
    with patch.object(linux, "boot_id", lambda: id):
        yield


class Read(NamedTuple):
    """A journal, as the next run reads it."""

    claims: Ranges
    total: int
    part: tuple[int, int]
    """Inode and birth time of the part file that it belongs to."""


class Reader:
    """Reads journals, by the real code, in a file of its own."""

    def __init__(self, scratch: Path) -> None:
        self._path = str(scratch / JOURNAL)
        self._known: dict[tuple[bytes, Image], Read | None] = {}

    @property
    def count(self) -> int:
        """Distinct journals that were read."""
        return len(self._known)

    def read(self, image: Image, id: bytes) -> Read | None:
        """None: damaged, worth nothing. Whatever else is raised is a defect."""
        key = id, image
        if key not in self._known:
            self._known[key] = self._read(b"".join(image), id)
        return self._known[key]

    def _read(self, data: bytes, id: bytes) -> Read | None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
        os.close(fd)
        with boot(id):
            try:
                journal = Journal.open(self._path)
            except JournalDamaged:
                return None
            try:
                _, claims = journal.believed(part_size=journal.identity.total)
            finally:
                journal.close()
        identity = journal.identity
        return Read(claims, identity.total, (identity.inode, identity.birth_ns))


class Judge:
    """Replays the trace of a recorder, crashes it, and collects the `violations`.

    `cuts` and `kills` count the crashes, `believing` the cuts after which something is claimed.
    """

    def __init__(self, recorder: Recorder, reader: Reader, seed: int = 0, next_boot: bytes = NEXT_BOOT) -> None:
        self.recorder, self.reader, self._next_boot = recorder, reader, next_boot
        self.random = Random(seed)
        self.disk = Disk()
        self.violations: list[str] = []
        self.losses: list[str] = []
        """Where a kill makes the next run fetch again what was claimed before."""
        self._claimed: Ranges = []
        self.cuts = self.kills = self.believing = 0
        self._births: dict[int, int] = {}
        self._promises: dict[int, Ranges] = {}
        self._finished = False
        self._at = 0

    def steps(self) -> Iterator[Step]:
        """Apply the trace step by step, and hand each one over after it was applied."""
        for at, step in enumerate(self.recorder.trace):
            self._at = at
            if isinstance(step, Promise):
                self._promises[step.inode] = step.claims
            elif isinstance(step, Finished):
                self._finished = True
            else:
                self.disk.apply(step, self.recorder.contents)
            yield step

    def cut_everywhere(self, times: int) -> None:
        """Cut the power `times` times after every step."""
        self._cut(times)
        for _ in self.steps():
            self._cut(times)

    def kill_everywhere(self, *, ascending: bool) -> None:
        """SIGKILL after every step, and within each store that is longer than a word.

        Parameter: `ascending`, whether such a store goes from the first word to the last, or in any order.
        """
        for step in self.steps():
            if isinstance(step, SyncEnds) and not step.ok:
                continue  # nobody has been told yet; the process can do nothing about a kill at this very moment
            alive = self.disk.alive()
            claims = self._kill(alive)
            if NAME not in alive.names and not self.disk.failed and subtract(self._claimed, claims):
                self.losses.append(f"step {self._at} ({_shown(step)}): {self._claimed} were claimed, {claims} are left")
            elif not isinstance(step, Entry):
                self._claimed = claims
            if isinstance(step, Page) and step.stored:
                for torn in _torn(step, self.random, ascending):
                    pages = list(alive.journals[step.inode])
                    pages[step.number] = torn
                    self._kill(alive._replace(journals={**alive.journals, step.inode: tuple(pages)}))

    # ------------------------------------------------------------------ one crash

    def believed(self, left: Survivor, id: bytes) -> tuple[Ranges, int]:
        """Claims, and the part file that they are about; the same decisions as those of `Target.prepare`."""
        journal, part = left.names.get(JOURNAL), left.names.get(PART, 0)
        read = self.reader.read(left.journals[journal], id) if journal is not None else None
        second_name = list(left.names.values()).count(part) > 1
        if read is None or not part or second_name or left.sizes[part] != read.total:
            return [], 0
        return (read.claims, part) if (part, self._birth(part)) == read.part else ([], 0)

    def _birth(self, inode: int) -> int:
        if inode not in self._births:
            fd = os.open(self.recorder.path_of(inode), os.O_RDONLY)
            self._births[inode] = linux.birth_ns(fd)
            os.close(fd)
        return self._births[inode]

    def _cut(self, times: int) -> None:
        for number in range(times):
            self.cuts += 1
            in_order = number % 2 == 0
            left = self.disk.cut(self.random, in_order)
            claims, part = self.believed(left, self._next_boot)
            self.believing += bool(claims)
            if claims and not self.disk.files[part].kept(claims, left.random):
                self._violated(f"power cut: {claims} are claimed and not all on the disk")
            self._check_bounds(claims, left, part)
            final = left.names.get(NAME)
            if final is not None and not self._whole(final, left):
                self._violated("power cut: the final name on an incomplete file")
            if self._finished and final is None:
                self._violated("power cut: a finished file is gone")
            if in_order and final is None:
                # An entry of the folder that came before another may be lost alone only in theory: then so are promises.
                for inode, promised in self._promises.items():
                    if subtract(promised, claims if inode == part else []):
                        self._violated(f"power cut: {promised} were checkpointed, {claims} are left")

    def _kill(self, alive: Survivor) -> Ranges:
        self.kills += 1
        claims, part = self.believed(alive, BOOT)
        if claims:
            file = self.disk.files[part]
            # After a failed sync, whatever was dirty then may be read back from the disk as it was before.
            missing = subtract(claims, merge(file.durable + file.writes, file.sizes[-1]))
            if missing:
                self._violated(f"kill: {missing} are claimed and not in the file")
        self._check_bounds(claims, alive, part)
        final = alive.names.get(NAME)
        if final is not None and self.disk.files[final].written() != [(0, len(self.disk.files[final].content or b""))]:
            self._violated("kill: the final name on an incomplete file")
        return claims

    def _whole(self, inode: int, left: Survivor) -> bool:
        file = self.disk.files[inode]
        size = len(file.content or b"")
        return left.sizes[inode] == size and file.kept([(0, size)], left.random)

    def _check_bounds(self, claims: Ranges, left: Survivor, part: int) -> None:
        if claims and (claims[0][0] < 0 or claims[-1][1] > left.sizes[part]):
            self._violated(f"{claims} are claimed of {left.sizes[part]} bytes")

    def _violated(self, what: str) -> None:
        self.violations.append(f"step {self._at} ({_shown(self.recorder.trace[self._at])}): {what}")


def _torn(step: Page, random: Random, ascending: bool) -> Iterator[bytes]:
    """A store of several words, half done, in some of the ways."""
    words = [(step.before[at : at + 8], step.after[at : at + 8]) for at in range(0, len(step.after), 8)]
    changed = [index for index, (before, after) in enumerate(words) if before != after]
    if len(changed) > 1:
        for _ in range(MOST_TORN):
            if ascending:
                done = set(changed[: random.randrange(1, len(changed))])
            else:
                done = {index for index in changed if random.random() < 0.5} or {random.choice(changed)}
            yield b"".join(after if index in done else before for index, (before, after) in enumerate(words))


def _shown(step: Step) -> str:
    if isinstance(step, Page):
        return f"Page(inode={step.inode}, number={step.number}, stored={step.stored})"
    return str(step)
