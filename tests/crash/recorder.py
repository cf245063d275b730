"""Records what the storage code does to one folder: every write, store, sync and change of a name, in their order.

Rules of this module:

* The code that runs is the real one, on real files; only `os` and `fallocate` are looked at. Syncs are recorded and not done.
* Stores into the map of a journal are seen by comparing the file after each bytecode instruction that may store: what is
  recorded is what a SIGKILL at that place would leave. This needs the Python sink.
* A file that is unlinked goes to a side folder, so that its inode, which journals name, can be put in place again.
* The recording is proved: `check` replays it and compares the result with the folder.
"""

from __future__ import annotations

import dis
import errno
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self
from unittest.mock import patch

from fastidm.storage import linux
from fastidm.storage.naming import JOURNAL_SUFFIX, PART_SUFFIX
from fastidm.storage.pages import JOURNAL_SIZE, PAGE
from tests.crash.trace import FOLDER, Data, Entry, Page, Size, Step, SyncBegins, SyncEnds

_WATCHED = ("core/segments.py", "storage/journal.py", "storage/sink.py")


class Killed(BaseException):
    """The process is gone: nothing of ours catches this."""


class Recorder:
    """A context manager: while it is entered, what happens in `folder` becomes `trace`.

    Parameters: `folder`; `side`, an empty folder on the same file system; `stores=False`, for many short runs: stores are
    only seen when something else happens.
    """

    def __init__(self, folder: Path, side: Path, *, stores: bool = True) -> None:
        self.folder, self.side = folder, side
        self.trace: list[Step] = []
        self.content = b""
        """What the part files that are made from now on are to hold."""
        self.contents: dict[int, bytes] = {}
        """The same of every part file so far."""
        self.while_syncing: Callable[[], None] | None = None
        """Called once, in the middle of the next sync of a part file: what the engine's thread does meanwhile."""
        self.failures = 0
        """So many of the next syncs of part files fail."""
        self.early_failures = 0
        """So many of the next ranges that are handed down tell of an error: what was dirty is lost, as by a failed sync."""
        self.syncs_to_live = -1
        """In the sync after so many others the process is killed; negative: in none."""
        self._stores = stores
        self._journals: dict[int, tuple[int, bytes]] = {}  # descriptor, what was there at the last look
        self._sizes: dict[int, int] = {}
        self._real = {name: getattr(os, name) for name in _HOOKS}
        self._fallocate = linux.fallocate
        self._patches = ExitStack()
        self._tracer = sys.gettrace()

    def __enter__(self) -> Self:
        for name, hook in _HOOKS.items():
            self._patches.enter_context(patch.object(os, name, _bound(hook, self)))
        self._patches.enter_context(patch.object(linux, "fallocate", self._allocate))
        self._patches.enter_context(patch.object(linux, "begin_writing", self._begin_writing))
        if self._stores:
            sys.settrace(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stores:
            sys.settrace(self._tracer)
        self.look()
        self._patches.close()
        for file, _seen in self._journals.values():
            os.close(file)
        self._journals.clear()

    def path_of(self, inode: int) -> str:
        """Where a file can be found now, whatever happened to its names."""
        for entry in (*os.scandir(self.folder), *os.scandir(self.side)):
            if entry.inode() == inode:
                return str(entry.path)
        raise FileNotFoundError(inode)

    def adopt(self, path: Path, content: bytes = b"") -> int:
        """A file that is there already, as it is after a power cut; `content` for a part file. Returns its inode."""
        state = os.stat(path)
        self._sizes[state.st_ino] = state.st_size
        if path.name.endswith(JOURNAL_SUFFIX):
            self._open_journal(path, state.st_ino)
        else:
            self.contents[state.st_ino] = content
        return state.st_ino

    def add(self, step: Step) -> None:
        """Something that the recorder cannot see itself."""
        self.look()
        self.trace.append(step)

    def look(self, stored: bool = True) -> None:
        """Record what has changed in the journals."""
        for inode, (fd, before) in self._journals.items():
            after = os.pread(fd, 2 * JOURNAL_SIZE, 0)
            if after == before:
                continue
            self._journals[inode] = fd, after
            for number in range(-(-max(len(after), len(before)) // PAGE)):
                old, new = (image[number * PAGE : (number + 1) * PAGE] for image in (before, after))
                if len(after) != self._sizes[inode] and len(new) != len(old):
                    self._resized(inode, min(len(after), (number + 1) * PAGE))
                if new and new != old:
                    self.trace.append(Page(inode, number, old.ljust(PAGE, b"\0"), new.ljust(PAGE, b"\0"), stored))

    def names(self) -> dict[str, int]:
        """What the folder really holds."""
        return {entry.name: entry.inode() for entry in os.scandir(self.folder)}

    # ------------------------------------------------------------------ what is seen

    def _inode(self, fd: int) -> int | None:
        inode = os.fstat(fd).st_ino
        return inode if inode in self._sizes else None

    def _resized(self, inode: int, size: int) -> None:
        if size != self._sizes[inode]:
            self._sizes[inode] = size
            self.trace.append(Size(inode, size))

    def _open_journal(self, path: Any, inode: int) -> None:
        fd = self._real["open"](path, os.O_RDONLY | os.O_CLOEXEC)
        self._journals[inode] = fd, os.pread(fd, 2 * JOURNAL_SIZE, 0)

    def _name(self, path: Any) -> str | None:
        folder, name = os.path.split(os.fspath(path))
        return name if folder == str(self.folder) else None

    def _open(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        fd: int = self._real["open"](path, flags, *rest, **more)
        name = self._name(path) if isinstance(path, (str, os.PathLike)) else None
        if name and flags & os.O_CREAT and (inode := os.fstat(fd).st_ino) not in self._sizes:
            self.look()
            self._sizes[inode] = 0
            self.trace.append(Entry(name, inode))
            if name.endswith(JOURNAL_SUFFIX):
                self._open_journal(path, inode)
            else:
                assert name.endswith(PART_SUFFIX), "nothing else is ever made"
                self.contents[inode] = self.content
        return fd

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        inode = self._inode(fd)
        self.look()
        count: int = self._real["pwrite"](fd, data, offset)
        if inode in self._journals:
            self.look(stored=False)
        elif inode is not None:
            assert bytes(data[:count]) == self.contents[inode][offset : offset + count], "a wrong byte was written"
            self._resized(inode, os.fstat(fd).st_size)
            self.trace.append(Data(inode, offset, offset + count))
        return count

    def _truncate(self, fd: int, size: int) -> None:
        inode = self._inode(fd)
        self._real["ftruncate"](fd, size)
        if inode is not None:
            self._resized(inode, size)

    def _allocate(self, fd: int, size: int) -> int:
        inode, error = self._inode(fd), self._fallocate(fd, size)
        if inode is not None:
            self._resized(inode, os.fstat(fd).st_size)
        return error

    def _begin_writing(self, fd: int, start: int, stop: int) -> int:
        """What the kernel is told to begin with it may write at any time anyway: only an error leaves a trace."""
        inode = self._inode(fd)
        assert inode in self.contents, "something else was handed down"
        if self.early_failures == 0:
            return 0
        self.early_failures -= 1
        self.add(SyncBegins(inode))
        self.add(SyncEnds(inode, False))
        return errno.EIO

    def _unlink(self, path: Any) -> None:
        name = self._name(path)
        if name is None:
            self._real["unlink"](path)
            return
        self.look()
        state = os.lstat(path)
        if state.st_nlink > 1:
            self._real["unlink"](path)
        else:
            self._real["rename"](path, self.side / str(state.st_ino))
        self.trace.append(Entry(name, None))

    def _link(self, source: Any, path: Any) -> None:
        self._real["link"](source, path)
        self.look()
        name = self._name(path)
        assert name is not None
        self.trace.append(Entry(name, os.lstat(path).st_ino))

    def _rename(self, source: Any, path: Any) -> None:
        old, name = self._name(source), self._name(path)
        assert old is not None and name is not None
        if os.path.lexists(path):
            self._real["link"](path, self.side / str(os.lstat(path).st_ino))
        self._real["rename"](source, path)
        self.look()
        self.trace.append(Entry(name, os.lstat(path).st_ino, old))

    def _sync(self, fd: int) -> None:
        if os.path.samestat(os.fstat(fd), os.stat(self.folder)):
            inode: int | None = FOLDER
        else:
            inode = self._inode(fd)
        assert inode is not None, "something else was synced"
        self.add(SyncBegins(inode))
        self.syncs_to_live -= 1
        if self.syncs_to_live == -1:
            raise Killed
        fails = False
        if inode in self.contents:
            meanwhile, self.while_syncing = self.while_syncing, None
            if meanwhile:
                meanwhile()
            fails = self.failures > 0
            self.failures -= fails
        self.add(SyncEnds(inode, not fails))
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    # ------------------------------------------------------------------ stores

    def _watch(self, frame: FrameType, event: str, argument: Any) -> Any:
        places = _after_stores(frame.f_code)
        if not places:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False

        def local(frame: FrameType, event: str, argument: Any) -> Any:
            if event != "opcode" or frame.f_lasti in places:
                self.look()
            return local

        return local


_HOOKS: dict[str, Callable[..., Any]] = {
    "open": Recorder._open,
    "pwrite": Recorder._pwrite,
    "ftruncate": Recorder._truncate,
    "unlink": Recorder._unlink,
    "link": Recorder._link,
    "rename": Recorder._rename,
    "replace": Recorder._rename,
    "fsync": Recorder._sync,
    "fdatasync": Recorder._sync,
}


def _bound(hook: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    return lambda *arguments, **more: hook(recorder, *arguments, **more)


@cache
def _after_stores(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions that follow one which stores into something."""
    if not code.co_filename.endswith(_WATCHED):
        return frozenset()
    listed = list(dis.get_instructions(code))
    following = pairwise(listed)
    return frozenset(after.offset for before, after in following if before.opname in ("STORE_SUBSCR", "STORE_SLICE"))
