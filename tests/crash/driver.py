"""Downloads without a network: the real target, table and sinks, moved by hand as the engine moves them.

Rules of this module: the order of calls is that of the engine, which takes the snapshot before a checkpoint begins, and goes
on receiving while the disk works. Nothing here knows about crashes, except that `die` leaves everything as a SIGKILL does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from random import Random

from fastidm.core.segments import SegmentTable, restore
from fastidm.options import Options
from fastidm.storage.journal import Journal, JournalDamaged
from fastidm.storage.naming import JOURNAL_SUFFIX
from fastidm.storage.pages import ROWS, claims_of
from fastidm.storage.partfile import SMALL
from fastidm.storage.sink import ARMED, FAILED, PWRITE, PureSink
from fastidm.storage.target import Content, Target
from tests.crash.recorder import Recorder
from tests.crash.trace import Finished, Promise, Ranges

NAME = "a.bin"
URL = "https://host/a.bin?token=secret"
OVERLAP = 4096


class Run:
    """One run of a download of `content` to NAME in the recorder's folder, from `prepare` to its end.

    Parameters: `tag`, the server's ETag, which stands for this content; `gather`, bytes that a sink writes at once;
    `anew`, discard what is there.
    """

    def __init__(
        self, recorder: Recorder, content: bytes, random: Random, *, tag: str = '"1"', gather: int = 16384, anew: bool = False,
        overwrite: bool = False,
    ) -> None:  # fmt: skip
        self.recorder, self.content, self.random, self.gather = recorder, content, random, gather
        self.size = len(content)
        self.dirty: list[PureSink] = []
        self.sinks: list[PureSink] = []
        recorder.content = content
        self.target = Target(str(recorder.folder / NAME), URL, Options(io="pwrite", sync=True, overwrite=overwrite))
        found = self.target.prepare()
        self.resumed = found.claims if found and not anew else []
        cuts = [self.size * part // 4 + 77 * part for part in (1, 2, 3)] if self.size > SMALL else []
        if found is None or anew:
            if found is not None:
                recorder.add(Promise(os.fstat(self.target.fd).st_ino, []))
            self.target.begin(Content(self.size, tag, None), bytes(restore(self.size, (), cuts, len(cuts) + 1)))
        else:
            assert found.content.etag == tag, "two contents would be mixed"
            self.target.resume(bytes(restore(self.size, found.claims, cuts, ROWS)))
        self.inode = os.fstat(self.target.fd).st_ino
        self.table = SegmentTable(self.target.table)
        for row in self.table.order:
            self._open_sink(row)

    def _open_sink(self, row: int) -> None:
        if self.table.remaining(row):
            sink = PureSink(self.target.fd, self.target.table, self.size, self.dirty, gather=self.gather, mode=PWRITE)
            start, _, position = self.table[row]
            sink.arm(row, max(start, position - OVERLAP))
            self.sinks.append(sink)

    @property
    def complete(self) -> bool:
        return self.table.complete()

    def receive(self, most: int = 40_000) -> None:
        """One turn of the loop: some connections bring some bytes, and what was gathered is written out."""
        live = [sink for sink in self.sinks if sink.state == ARMED]
        for sink in self.random.sample(live, min(len(live), self.random.randint(1, 2))):
            count = self.random.randint(1, most)
            while count > 0 and sink.state == ARMED:
                block = self.content[sink.cursor : sink.cursor + min(count, 16384)]
                if sink(block) is not None:
                    break
                count -= len(block)
        for sink in self.dirty:
            sink.flush()
        self.dirty.clear()
        assert all(sink.state != FAILED for sink in self.sinks), self.sinks

    def split(self) -> None:
        """A new connection takes the back of the largest rest."""
        row = max(self.table.order, key=self.table.remaining)
        if self.table.remaining(row) > 1000 and self.table.room():
            position = self.table.position(row)
            new = self.table.split(row, self.random.randint(position + 500, self.table.stop(row) - 400))
            self._open_sink(new)

    def melt(self) -> None:
        """Finished segments melt; a connection that has reached its end leaves its row."""
        for sink in [sink for sink in self.sinks if sink.state != ARMED]:
            sink.close()
            self.sinks.remove(sink)
        self.table.melt(sink.row for sink in self.sinks)

    def checkpoint(self, meanwhile: int = 2) -> None:
        """As the engine does it; `meanwhile`, turns of the loop while the part file is synced."""
        rows = bytes(self.target.table)

        def go_on() -> None:
            for _ in range(meanwhile):
                self.receive()
            self.melt()

        self.recorder.while_syncing = go_on
        try:
            self.target.checkpoint(rows)
        finally:
            self.recorder.while_syncing = None
        self.promise(claims_of(rows, self.size))

    def hand_down(self) -> None:
        """Everything that is written, several times over."""
        self.target.hand_down(claims_of(bytes(self.target.table), self.size))

    def hand_down_now(self) -> int:
        """The same as sinks do it; returns what they are told, the first error if there is one."""
        answers = [self.target.hand_down_now(*claim) for claim in claims_of(bytes(self.target.table), self.size)]
        return max(answers, default=0)

    def promise(self, claims: Ranges) -> None:
        """From here on no power cut may lose these bytes."""
        self.recorder.add(Promise(self.inode, claims))

    def receive_all(self) -> None:
        """The rest of the file, with splits."""
        while not self.complete:
            self.receive()
            if self.random.random() < 0.2:
                self.split()
            if self.random.random() < 0.3:
                self.melt()

    def finish(self) -> None:
        """To the final name."""
        self._close_sinks()
        self.target.finish(self.size, None, lambda: False)
        self.recorder.add(Finished(NAME))

    def stop(self) -> None:
        """Stopped in good order."""
        self._close_sinks()
        self.target.close()

    def die(self) -> None:
        """Killed: not one more instruction; the kernel closes the files and gives back the locks."""
        part, journal = self.target._let_go()
        for fd in (part.fd if part else -1, part._lock if part else -1, journal._fd if journal else -1):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_UN)  # the map holds a duplicate
                os.close(fd)
        if part:
            part.fd = -1
        if journal:
            journal._fd = -1
        self._close_sinks()

    def _close_sinks(self) -> None:
        for sink in self.sinks:
            sink.close()
        self.sinks.clear()
        self.dirty.clear()
        self.table._words.release()


def journal_claims(folder: Path) -> Ranges:
    """What the journal in `folder` claims, before holes in the part file are taken from it."""
    try:
        journal = Journal.open(str(folder / (NAME + JOURNAL_SUFFIX)))
    except (FileNotFoundError, JournalDamaged):
        return []
    try:
        return journal.believed(part_size=journal.identity.total)[1]
    finally:
        journal.close()


def look(path: Path) -> Ranges | None:
    """What the next run finds at `path`, None: nothing; it closes everything again."""
    target = Target(str(path), URL, Options(io="pwrite"))
    try:
        found = target.prepare()
        return None if found is None else found.claims
    finally:
        target.close()
