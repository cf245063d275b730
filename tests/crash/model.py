"""The disk behind the page cache: what may be left of it when the power goes.

Rules of this module:

* A sync that succeeded makes durable what had been done to that file before it began, and nothing else. Everything later is,
  page by page and independently of all else, on the disk or not, in any version that it went through.
* A data page is lost whole: 4 KiB. A journal's page may be torn: each sector of 512 bytes is of any version, or garbage.
* Names are kept up to any moment since the last sync of the folder (`in_order`, as journalling file systems do), or any of
  the changes since then are (as POSIX allows). A rename is never half done.
* What was dirty when a sync failed is clean to the kernel from then on: no later sync brings it to the disk.
* A killed process loses none of this, as the page cache lives on. But what a failed sync left clean may be read back old.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from fastidm.core.segments import merge
from fastidm.storage.naming import PART_SUFFIX
from fastidm.storage.pages import PAGE
from tests.crash.trace import FOLDER, Data, Entry, Page, Ranges, Size, Step, SyncBegins, SyncEnds

SECTOR = 512
NOTHING = bytes(PAGE)
_GARBAGE = [Random(seed).randbytes(SECTOR) for seed in range(3)]
_ANY_SIZE = 1 << 62


def subtract(wanted: Ranges, held: Ranges) -> Ranges:
    """What of `wanted` is not in `held`; both sorted and disjoint."""
    missing = []
    for start, stop in wanted:
        for first, last in held:
            if last <= start:
                continue
            if first >= stop:
                break
            if first > start:
                missing.append((start, first))
            start = last
            if start >= stop:
                break
        if start < stop:
            missing.append((start, stop))
    return missing


class Versions:
    """A page of a journal, or another thing that is written whole: what is durable, then all that it has been since."""

    def __init__(self, durable: bytes) -> None:
        self.all = [durable]
        self.marked = 0
        """The version that was current when the sync that is going on began."""
        self.clean = 0
        """Up to this version a failed sync has made the kernel forget what is to be written."""

    def ends(self, ok: bool) -> None:
        if not ok:
            self.clean = self.marked
        elif self.marked > self.clean:
            del self.all[: self.marked]
            self.clean = self.marked = 0

    def survives(self, random: Random) -> bytes:
        """What may be on the disk."""
        if len(self.all) == 1:
            return self.all[0]
        how = random.random()
        if how < 0.25:
            return self.all[0]
        if how < 0.4:
            return self.all[-1]
        if how < 0.5:
            return random.choice(self.all)
        garbage = random.random() < 0.3
        sectors = [random.choice(self.all)[at : at + SECTOR] for at in range(0, PAGE, SECTOR)]
        if garbage:
            sectors[random.randrange(len(sectors))] = random.choice(_GARBAGE)
        return b"".join(sectors)


@dataclass
class File:
    """One inode. `content`, what a part file is to hold; None for a journal."""

    content: bytes | None = None
    sizes: list[int] = field(default_factory=lambda: [0])
    """The durable one, then all since."""
    sizes_marked: int = 0
    durable: Ranges = field(default_factory=list)
    """Of a part file: bytes that are on the disk for certain."""
    writes: Ranges = field(default_factory=list)
    """All since, in their order."""
    writes_marked: int = 0
    forgotten: Ranges = field(default_factory=list)
    """What was dirty when a sync failed."""
    pages: list[Versions] = field(default_factory=list)
    """Of a journal."""

    def sync_begins(self) -> None:
        self.sizes_marked, self.writes_marked = len(self.sizes) - 1, len(self.writes)
        for page in self.pages:
            page.marked = len(page.all) - 1

    def sync_ends(self, ok: bool) -> None:
        for page in self.pages:
            page.ends(ok)
        if ok:
            self.durable = merge(self.durable + self.writes[: self.writes_marked], _ANY_SIZE)
            del self.sizes[: self.sizes_marked]
        else:
            self.forgotten += self.writes[: self.writes_marked]
        del self.writes[: self.writes_marked]

    def written(self) -> Ranges:
        """What the page cache holds, as long as it holds what a failed sync left there."""
        return merge(self.durable + self.forgotten + self.writes, _ANY_SIZE)

    def kept(self, wanted: Ranges, random: Random | None) -> bool:
        """Whether a disk holds `wanted`, that has lost all dirty pages (None), or any of them."""
        missing = subtract(wanted, self.durable)
        if not missing or random is None:
            return not missing
        for start, stop in missing:
            for page in range(start // PAGE, (stop - 1) // PAGE + 1):
                low, high = page * PAGE, (page + 1) * PAGE
                dirty = [(max(a, low), min(b, high)) for a, b in (*self.forgotten, *self.writes) if a < high and b > low]
                held = merge(self.durable + dirty[: random.randint(0, len(dirty))], _ANY_SIZE)
                if subtract([(max(start, low), min(stop, high))], held):
                    return False
        return True


Image = tuple[bytes, ...]
"""A journal: its pages, up to its length."""


class Survivor(NamedTuple):
    """What a cut or a kill has left."""

    names: dict[str, int]
    sizes: dict[int, int]
    journals: dict[int, Image]
    random: Random | None
    """For the dirty pages of the part files; None: all are lost."""


class Disk:
    """The state of the model; `apply` takes it one step on."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.names: dict[str, int] = {}
        """As the running system sees them."""
        self._durable_names: dict[str, int] = {}
        self._entries: list[Entry] = []
        self._entries_marked = 0
        self.failed = False
        """Whether a sync has failed."""

    def adopt(self, name: str, inode: int, size: int, *, content: bytes | None, held: Ranges, image: bytes) -> None:
        """A file that is on the disk when the trace begins."""
        pages = [Versions(image[at : at + PAGE].ljust(PAGE, b"\0")) for at in range(0, len(image), PAGE)]
        self.files[inode] = File(content, [size], durable=held, pages=pages)
        self.names[name] = self._durable_names[name] = inode

    def apply(self, step: Step, content: dict[int, bytes]) -> None:
        """`content`: what part files are to hold, by inode."""
        match step:
            case Entry(name, inode, _):
                if inode is not None and inode not in self.files:
                    self.files[inode] = File(content.get(inode) if name.endswith(PART_SUFFIX) else None)
                self._entries.append(step)
                _enter(self.names, step)
            case Size(inode, size):
                self.files[inode].sizes.append(size)
                self.files[inode].writes = [(a, min(b, size)) for a, b in self.files[inode].writes if a < size]
                self.files[inode].durable = [(a, min(b, size)) for a, b in self.files[inode].durable if a < size]
            case Data(inode, start, stop):
                self.files[inode].writes.append((start, stop))
            case Page(inode, number, _, after, _):
                pages = self.files[inode].pages
                while len(pages) <= number:
                    pages.append(Versions(NOTHING))
                pages[number].all.append(after)
            case SyncBegins(inode):
                if inode == FOLDER:
                    self._entries_marked = len(self._entries)
                else:
                    self.files[inode].sync_begins()
            case SyncEnds(inode, ok):
                self.failed |= not ok
                if inode != FOLDER:
                    self.files[inode].sync_ends(ok)
                elif ok:
                    for entry in self._entries[: self._entries_marked]:
                        _enter(self._durable_names, entry)
                    del self._entries[: self._entries_marked]

    def alive(self) -> Survivor:
        """What is there when the process is killed."""
        sizes = {inode: file.sizes[-1] for inode, file in self.files.items()}
        journals = {
            inode: tuple(page.all[-1] for page in file.pages)[: -(-file.sizes[-1] // PAGE)]
            for inode, file in self.files.items()
            if file.content is None
        }
        return Survivor(dict(self.names), sizes, journals, None)

    def cut(self, random: Random, in_order: bool) -> Survivor:
        """One of the many things that may be there when the power has gone."""
        names = dict(self._durable_names)
        if in_order:
            entries = self._entries[: random.randint(0, len(self._entries))]
        else:
            entries = [entry for entry in self._entries if random.random() < 0.5]
        for entry in entries:
            _enter(names, entry)
        sizes, journals = {}, {}
        for inode in set(names.values()):
            file = self.files[inode]
            size = sizes[inode] = file.sizes[0] if len(file.sizes) == 1 else random.choice(file.sizes)
            if file.content is None:
                count = -(-size // PAGE)
                pages = [page.survives(random) for page in file.pages[:count]]
                journals[inode] = tuple(pages + [NOTHING] * (count - len(pages)))
        return Survivor(names, sizes, journals, None if random.random() < 0.4 else random)


def _enter(names: dict[str, int], entry: Entry) -> None:
    if entry.source is not None:
        if names.pop(entry.source, None) is None:
            return  # it never got that name on this disk
    if entry.inode is None:
        names.pop(entry.name, None)
    else:
        names[entry.name] = entry.inode
