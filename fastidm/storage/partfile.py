"""The data file of a running download: its blocks are reserved, and what can be known about it is told.

Rules of this module:

* It is a file that is ours alone, see `owned.py`.
* Blocks are reserved by the kernel or not at all: an emulation would write every block. If the disk is too small,
  what was reserved is given back, because ext4 keeps it.
* Mapping is allowed only where reserved blocks keep a full disk from killing the process: ext4, XFS, tmpfs.
* A sync that failed once has failed for ever: the kernel tells it one time and then says that all is well. An error of
  `hand_down` is one of a sync, and its success is none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from threading import Lock

from fastidm.errors import NoSpaceError, StorageError, printable
from fastidm.storage import linux, owned
from fastidm.storage.errors import FULL

SMALL = 1 << 20
"""Up to so many bytes a file goes the short way: nothing is reserved, mapped or journalled."""

_MAP_SAFE = frozenset({0xEF53, 0x58465342, 0x01021994})  # statfs(2): ext2/3/4, XFS, tmpfs
_DEAF = frozenset({0x794C7630})  # overlayfs: what is handed down succeeds, and nothing comes of it
_NO_HANDING_DOWN = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_NO_RESERVING = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})


class PartChanged(Exception):
    """The part file that an earlier run left is missing, has another length or another name: nothing to build on."""


class PartFile:
    """An open, locked part file, made by `create` or `open`. One call at a time but for `hand_down_now`; any thread will do.

    Attributes: `path`; `fd`, -1 when closed; `size` in bytes, -1 if unknown; `device`, `inode` and `birth_ns`
    (nanoseconds since 1970, 0 if unknown), which tell this very file; `map_allowed`, whether it may be mapped.
    """

    def __init__(self, path: str, fd: int, size: int) -> None:
        state = os.fstat(fd)
        self.path = path
        self._lock = fd
        self.fd = owned.without_lock(fd)
        self.size = size
        self.device = state.st_dev
        self.inode = state.st_ino
        self.birth_ns = 0
        self.map_allowed = False
        self._reserved = False
        self._deaf = False
        self._sync_error = 0
        self._handing = Lock()  # while `hand_down_now` is at it

    @classmethod
    def create(cls, path: str, size: int | None, *, io: str) -> PartFile:
        """A new part file of `size` bytes with real blocks where the file system can (None: it grows). Helper thread.

        A stale one in its place is removed. `io` is the option of that name.

        Raises `NoSpaceError`, `LockedError`, `UnsafePathError`, `OSError`; then nothing is left behind.
        """
        owned.drop(path)
        try:
            fd = owned.create(path)
        except FileExistsError:
            raise owned.locked(path) from None
        try:
            part = cls(path, fd, -1 if size is None else size)
        except BaseException:
            owned.remove(fd, path)
            owned.close(fd)
            raise
        try:
            if size:
                part._reserve()
                part._look(io)
        except BaseException:
            os.ftruncate(fd, 0)
            part.remove()
            raise
        return part

    @classmethod
    def open(cls, path: str, size: int, *, io: str = "auto") -> PartFile:
        """The part file of `size` bytes that an earlier run left.

        Raises `PartChanged` if it is missing or not as it was left; `LockedError`, `UnsafePathError`, `OSError`.
        """
        try:
            fd = owned.open_locked(path, linked=True)
        except FileNotFoundError:
            raise PartChanged(path) from None
        try:
            state = os.fstat(fd)
            if state.st_size != size or state.st_nlink != 1:
                raise PartChanged(path)
            part = cls(path, fd, size)
        except BaseException:
            os.close(fd)
            raise
        try:
            part._look(io)
        except BaseException:
            part.close()
            raise
        return part

    def _reserve(self) -> None:
        folder = os.statvfs(os.path.dirname(self.path) or ".")
        free = folder.f_bavail * folder.f_frsize
        known = folder.f_blocks > 0  # some network file systems say 0 of 0
        if known and self.size > folder.f_bfree * folder.f_frsize:
            raise _too_small(self, free)
        error = linux.fallocate(self.fd, self.size) if self.size > SMALL else errno.ENOSYS
        if error in _NO_RESERVING:
            if known and self.size > free:
                raise _too_small(self, free)
            try:
                os.ftruncate(self.fd, self.size)
                return
            except OSError as failure:
                error = failure.errno or errno.EIO
        if error in FULL:
            raise _too_small(self, free, os.strerror(error))
        if error:
            raise OSError(error, os.strerror(error), self.path)

    def _look(self, io: str) -> None:
        """Learn what can be known about a file of known size: when it was born, and whether it may be mapped."""
        if self.size > SMALL:
            self.birth_ns = linux.birth_ns(self.fd)
            kind = linux.file_system(self.fd)
            self._deaf = kind in _DEAF
            self._reserved = self._has_all_blocks() and kind in _MAP_SAFE
            self.map_allowed = self._reserved and io != "pwrite"

    def _has_all_blocks(self) -> bool:
        return os.fstat(self.fd).st_blocks * 512 >= self.size

    def check(self) -> None:
        """Raises `StorageError` if another program removed, replaced or cut the file since it was opened."""
        try:
            there = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            raise _disturbed(self.path, "removed") from None
        if (there.st_dev, there.st_ino) != (self.device, self.inode):
            raise _disturbed(self.path, "replaced")
        if self.size not in (-1, there.st_size) or (self._reserved and not self._has_all_blocks()):
            raise _disturbed(self.path, "cut short")

    def written_until(self, start: int, stop: int) -> int:
        """Where the bytes from `start` on end that may have been written, at most `stop`: a hole certainly was not.

        Reserved blocks count as holes until they are written or, in memory, read. `stop` where nobody can tell.
        """
        try:
            return max(start, min(stop, os.lseek(self.fd, start, os.SEEK_HOLE)))
        except OSError as error:
            return start if error.errno == errno.ENXIO else stop

    def hand_down(self, ranges: Iterable[tuple[int, int]]) -> bool:
        """Have the disk begin with what is written in `ranges`, so that a later `sync` has less to wait for. Helper thread.

        Returns False where that cannot be done. Raises as `sync` does, and then that does as well.
        """
        for start, stop in ranges:
            if self._deaf or self._sync_error:
                break
            self._begin_writing(start, stop)
        self._check_syncs()
        return not self._deaf

    def hand_down_now(self, start: int, stop: int) -> int:
        """The same for one range, whatever a helper thread does meanwhile: 0, the errno, or -1 if it cannot be done."""
        with self._handing:
            if not self._deaf and not self._sync_error:
                self._begin_writing(start, stop)
            return self._sync_error or -self._deaf

    def _begin_writing(self, start: int, stop: int) -> None:
        error = linux.begin_writing(self.fd, start, stop)
        if error in _NO_HANDING_DOWN:
            self._deaf = True
        elif error:
            self._sync_error = error

    def sync(self) -> None:
        """Wait until everything written before this call is on disk. Helper thread: may take seconds.

        Raises `OSError`; after the first failure always, since the lost pages look clean to the kernel.
        """
        if not self._sync_error:
            try:
                owned.sync(self.fd)
            except OSError as error:
                self._sync_error = error.errno or errno.EIO
        with self._handing:
            pass  # what was lost meanwhile, only `hand_down_now` can tell, and it is perhaps about to
        self._check_syncs()

    def _check_syncs(self) -> None:
        if self._sync_error:
            raise OSError(self._sync_error, os.strerror(self._sync_error), self.path)

    def close(self) -> None:
        """Close and unlock; the file stays. Idempotent."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)
            owned.close(self._lock)

    def remove(self) -> None:
        """Remove the file, unless another one has taken its place, and close."""
        try:
            if self.fd >= 0:
                owned.remove(self.fd, self.path)
        finally:
            self.close()


def _disturbed(path: str, how: str) -> StorageError:
    return StorageError(f"{printable(path)} was {how} by another program meanwhile", "run the same command again")


def _too_small(part: PartFile, free: int, reason: str = "too little space") -> NoSpaceError:
    return NoSpaceError(
        f"{printable(part.path)} needs {_amount(part.size)} and {_amount(free)} are free: {reason}",
        "free some space, or choose another folder with -d",
    )


def _amount(size: int) -> str:
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
