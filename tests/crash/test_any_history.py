"""Any history of a download: bytes, edits, checkpoints, failing syncs, kills, power cuts, damage, and runs that go on.

Rules of this module:

* Real files and the real storage code; only the power cuts come from the model.
* What is believed at the start of a run is compared with the part file, byte by byte. Whatever happened before, it is right,
  and what the last checkpoint promised is in it, unless somebody has damaged the files.
* Whatever happened before, the next run goes on by itself and ends with the right file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from fastidm.core.segments import merge
from fastidm.errors import StorageError
from fastidm.storage.pages import JOURNAL_SIZE, LIVE, LIVE_SIZE, PAGE, common
from tests.crash.driver import NAME, Run
from tests.crash.judge import JOURNAL, PART, boot
from tests.crash.model import Disk, subtract
from tests.crash.rebuild import rebuild
from tests.crash.recorder import Recorder
from tests.crash.scenarios import DATA, SIZE
from tests.crash.trace import Ranges
from tests.support.content import first_difference

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Hundreds of folders are made and removed, which takes a disk longer than all the rest."""
SEED = st.integers(0, 2**32)
TURNS = st.integers(0, 5)
running = precondition(lambda self: self.run is not None)
resting = precondition(lambda self: self.run is None)
interrupted = precondition(lambda self: self.run is None and (self.folder / JOURNAL).exists() and (self.folder / PART).exists())


class AnyHistory(RuleBasedStateMachine):
    """The rules are what may happen; `_go_on` holds what must be true."""

    def __init__(self) -> None:
        super().__init__()
        self.run: Run | None = None
        self.promised: Ranges = []
        self._boots = 0
        self._world = ExitStack()
        base = Path(self._world.enter_context(tempfile.TemporaryDirectory(prefix="fastidm-any-history-", dir=MEMORY)))
        self.folder, self.side = base / "here", base / "side"
        self.folder.mkdir()
        self.side.mkdir()
        self._generation = ExitStack()
        self._begin_generation({}, rebooted=True)

    def teardown(self) -> None:
        if self.run is not None:
            self.run.die()
        self._generation.close()
        self._world.close()

    def _begin_generation(self, held: dict[int, Ranges], *, rebooted: bool) -> None:
        """What is in the folder now is on the disk."""
        self._boots += rebooted
        self._generation.enter_context(boot(b"boot %11d" % self._boots))
        self.recorder = self._generation.enter_context(Recorder(self.folder, self.side, stores=False))
        self.disk, self._applied = Disk(), 0
        for name in sorted(os.listdir(self.folder)):  # whatever order the file system has them in
            path = self.folder / name
            inode = self.recorder.adopt(path, DATA)
            image = path.read_bytes() if name == JOURNAL else b""
            content = None if name == JOURNAL else DATA
            ranges = merge(held.get(inode, []), SIZE)
            self.disk.adopt(name, inode, path.stat().st_size, content=content, held=ranges, image=image)

    def _catch_up(self) -> Disk:
        self.recorder.look()
        for step in self.recorder.trace[self._applied :]:
            self.disk.apply(step, self.recorder.contents)
        self._applied = len(self.recorder.trace)
        return self.disk

    def _end_generation(self) -> dict[int, Ranges]:
        """Nothing is recorded until the next one begins. Returns what the part files hold."""
        disk = self._catch_up()
        self._generation.close()
        return {inode: file.written() for inode, file in disk.files.items() if file.content}

    # ------------------------------------------------------------------ a run

    @resting
    @rule(seed=SEED, turns=TURNS, checked=st.booleans(), more=TURNS)
    def go_on(self, seed: int, turns: int, checked: bool, more: int) -> None:
        """A new run, and something for it to lose."""
        part = self.folder / PART
        before = part.read_bytes() if part.exists() else b""
        self.run = Run(self.recorder, DATA, Random(seed), gather=65536)
        for start, stop in self.run.resumed:
            assert first_difference(before[start:stop], DATA[start:stop]) is None
        assert not subtract(self.promised, self.run.resumed)
        self.receive(turns, edits=True)
        if checked:
            self.checkpoint(meanwhile=1)
        self.receive(more, edits=False)

    @running
    @rule(turns=TURNS, edits=st.booleans())
    def receive(self, turns: int, edits: bool) -> None:
        assert self.run is not None
        for _ in range(turns):
            self.run.receive(90_000)
            if edits:
                self.run.split()
                self.run.melt()

    @running
    @rule(meanwhile=st.integers(0, 2))
    def checkpoint(self, meanwhile: int) -> None:
        assert self.run is not None
        claims = [(segment.start, segment.position) for segment in self.run.table.snapshot()]
        self.run.checkpoint(meanwhile)
        self.promised = merge(claims, SIZE)

    @running
    @rule(meanwhile=st.integers(0, 2))
    def sync_fails(self, meanwhile: int) -> None:
        """The engine ends the run; and what the kernel has dropped is read back from the disk, where it never came to."""
        assert self.run is not None
        self.recorder.failures = 1
        with pytest.raises(StorageError):
            self.run.checkpoint(meanwhile)
        inode = self.run.inode
        self.run.stop()
        self.run = None
        file = self._catch_up().files[inode]
        with open(self.folder / PART, "r+b") as part:
            for start, stop in subtract(merge(file.forgotten, SIZE), merge(file.durable + file.writes, SIZE)):
                part.seek(start)
                part.write(bytes(stop - start))
        file.forgotten.clear()

    @running
    @rule()
    def stop(self) -> None:
        assert self.run is not None
        self.run.stop()
        self.run = None

    @running
    @rule()
    def kill(self) -> None:
        assert self.run is not None
        self.run.die()
        self.run = None

    @precondition(lambda self: self.run is not None or os.listdir(self.folder))
    @rule(seed=SEED, in_order=st.booleans())
    def power_cut(self, seed: int, in_order: bool) -> None:
        if self.run is not None:
            self.kill()
        disk = self._catch_up()
        self._end_generation()
        held = rebuild(self.recorder, disk, disk.cut(Random(seed), in_order), data=True)
        if not in_order:
            self.promised = []  # a name may be gone in ways that no real file system shows
        self._begin_generation(held, rebooted=True)

    @running
    @rule()
    def finish(self) -> None:
        assert self.run is not None
        self.run.receive_all()
        self.run.finish()
        self.run = None
        assert os.listdir(self.folder) == [NAME]
        assert first_difference((self.folder / NAME).read_bytes(), DATA) is None
        self._end_generation()
        (self.folder / NAME).unlink()  # and once more from the beginning
        self.promised = []
        self._begin_generation({}, rebooted=False)

    # ------------------------------------------------------------------ damage

    @interrupted
    @rule(how=st.sampled_from(["cut", "hole", "bit", "sector", "journal cut", "no journal", "no part file"]), at=SEED)
    def damage(self, how: str, at: int) -> None:
        """Somebody has been at the files while nothing ran; `at` says where."""
        held = self._end_generation()
        part, journal = self.folder / PART, self.folder / JOURNAL
        match how:
            case "cut":
                os.truncate(part, at % SIZE)
                held = {inode: common(ranges, [(0, at % SIZE)]) for inode, ranges in held.items()}
            case "hole":
                # A hole ends where a block does. What is zero before it, in the last block with data, is seen by nobody but
                # by the comparison of the first bytes that are received, see OVERLAP.
                size = min(at % SIZE, part.stat().st_size) // PAGE * PAGE
                os.truncate(part, size)
                os.truncate(part, SIZE)
                held = {inode: common(ranges, [(0, size)]) for inode, ranges in held.items()}
            case "bit":
                overwrite(journal, at // 8 % JOURNAL_SIZE, lambda old: bytes([old[0] ^ 1 << at % 8]), 1)
            case "sector":  # zeros in the live page, which has no checksum; anything elsewhere
                sector = at % (JOURNAL_SIZE // 512) * 512
                live = LIVE * PAGE <= sector < LIVE * PAGE + LIVE_SIZE
                overwrite(journal, sector, lambda old: bytes(512) if live else Random(at).randbytes(512), 512)
            case "journal cut":
                os.truncate(journal, at % JOURNAL_SIZE)
            case "no journal":
                journal.unlink()
            case "no part file":
                part.unlink()
        self.promised = []
        self._begin_generation(held, rebooted=False)


def overwrite(path: Path, at: int, change: Callable[[bytes], bytes], size: int) -> None:
    """Replace the `size` bytes at offset `at` by what `change` makes of them, unless the file is shorter."""
    with open(path, "r+b") as file:
        file.seek(at)
        old = file.read(size)
        if len(old) == size:
            file.seek(at)
            file.write(change(old))


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=200, stateful_step_count=15, deadline=None)
