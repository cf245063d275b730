"""The data file of a running download: its blocks are reserved, it has one owner, and it is never somebody else's file.

Rules of this module:

* Nothing is followed: a link, a pipe, a device or a folder where the part file belongs is `UnsafePathError`, and what
  is behind it stays as it was. A file that an earlier run left is removed only by who holds its lock.
* The lock (`flock`) lasts as long as the descriptor, so it dies with the process.
* Blocks are reserved by the kernel or not at all: an emulation would write every block. If the disk is too small,
  what was reserved is given back, because ext4 keeps it.
* Mapping is allowed only where reserved blocks keep a full disk from killing the process: ext4, XFS, tmpfs.
* A sync that failed once has failed for ever: the kernel tells it one time and then says that all is well.
* What only Linux has is called through `_call`, which answers ENOSYS elsewhere, and each caller goes on without.
  `ctypes` is loaded for files of more than `SMALL` bytes only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys

from fastidm.errors import LockedError, NoSpaceError, StorageError, UnsafePathError, printable

SMALL = 1 << 20
"""Up to so many bytes a file goes the short way: nothing is reserved, mapped or journalled."""

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAP_SAFE = frozenset({0xEF53, 0x58465342, 0x01021994})  # statfs(2): ext2/3/4, XFS, tmpfs
_NO_RESERVING = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNSAFE = frozenset({errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO})


class PartChanged(Exception):
    """The part file that an earlier run left is missing, has another length or another name: nothing to build on."""


class PartFile:
    """An open, locked part file, made by `create` or `open`. One call at a time; any thread will do.

    Attributes: `path`; `fd`, -1 when closed; `size` in bytes, -1 if unknown; `device`, `inode` and `birth_ns`
    (nanoseconds since 1970, 0 if unknown), which tell this very file; `map_allowed`, whether it may be mapped.
    """

    def __init__(self, path: str, fd: int, size: int) -> None:
        state = os.fstat(fd)
        self.path = path
        self.fd = fd
        self.size = size
        self.device = state.st_dev
        self.inode = state.st_ino
        self.birth_ns = 0
        self.map_allowed = False
        self._reserved = False
        self._sync_error = 0

    @classmethod
    def create(cls, path: str, size: int | None, *, io: str) -> PartFile:
        """A new part file of `size` bytes with real blocks where the file system can (None: it grows). Helper thread.

        A stale one in its place is removed. `io` is the option of that name.

        Raises `NoSpaceError`, `LockedError`, `UnsafePathError`, `OSError`; then nothing is left behind.
        """
        drop(path)
        try:
            fd = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise _locked(path) from None
        part = cls(path, fd, -1 if size is None else size)
        try:
            _lock(fd, path)
            if size:
                part._reserve()
                part._look(io)
        except LockedError:
            part.close()  # whoever holds the lock is about to remove it
            raise
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
            fd = _open_locked(path)
        except FileNotFoundError:
            raise PartChanged(path) from None
        try:
            state = os.fstat(fd)
            if state.st_size != size or state.st_nlink != 1:
                raise PartChanged(path)
            part = cls(path, fd, size)
            part._look(io)
        except BaseException:
            os.close(fd)
            raise
        return part

    def _reserve(self) -> None:
        folder = os.statvfs(os.path.dirname(self.path) or ".")
        free = folder.f_bavail * folder.f_frsize
        known = folder.f_blocks > 0  # some network file systems say 0 of 0
        if known and self.size > folder.f_bfree * folder.f_frsize:
            raise _too_small(self, free)
        error = _fallocate(self.fd, self.size) if self.size > SMALL else errno.ENOSYS
        if error in _NO_RESERVING:
            if known and self.size > free:
                raise _too_small(self, free)
            try:
                os.ftruncate(self.fd, self.size)
                return
            except OSError as failure:
                error = failure.errno or errno.EIO
        if error in _FULL:
            raise _too_small(self, free, os.strerror(error))
        if error:
            raise OSError(error, os.strerror(error), self.path)

    def _look(self, io: str) -> None:
        """Learn what can be known about a file of known size: when it was born, and whether it may be mapped."""
        if self.size > SMALL:
            self.birth_ns = _birth_ns(self.fd)
            self._reserved = self._has_all_blocks() and _file_system(self.fd) in _MAP_SAFE
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

    def write_out(self) -> None:
        """Ask the kernel to start writing what is dirty, so that the next `sync` is short. A hint; promises nothing."""
        if self.size > SMALL:
            from ctypes import c_int64

            _call("sync_file_range", self.fd, c_int64(0), c_int64(0), 2)

    def sync(self) -> None:
        """Wait until everything written before this call is on disk. Helper thread: may take seconds.

        Raises `OSError`; after the first failure always, since the lost pages look clean to the kernel.
        """
        if not self._sync_error:
            try:
                getattr(os, "fdatasync", os.fsync)(self.fd)
                return
            except OSError as error:
                self._sync_error = error.errno or errno.EIO
        raise OSError(self._sync_error, os.strerror(self._sync_error), self.path)

    def close(self) -> None:
        """Close and unlock; the file stays. Idempotent."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            try:
                fcntl.flock(fd, fcntl.LOCK_UN)  # by hand: a map that still exists would keep the lock
            finally:
                os.close(fd)

    def remove(self) -> None:
        """Remove the file, unless another one has taken its place, and close."""
        try:
            if self.fd >= 0 and _is_at(self.fd, self.path):
                os.unlink(self.path)
        finally:
            self.close()


def drop(path: str) -> None:
    """Remove the file that an earlier run left at `path`, if there is one.

    Raises `LockedError` if a process is using it; `UnsafePathError` if it is no plain file of this user; `OSError`.
    """
    try:
        fd = _open_locked(path)
    except FileNotFoundError:
        return
    try:
        os.unlink(path)
    finally:
        os.close(fd)


def storage_error(error: OSError, path: str) -> StorageError:
    """`error` as one of ours: one sentence with the path, and what to do next."""
    name = printable(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else path)
    reason = error.strerror or str(error)
    if error.errno == errno.EFBIG:
        return NoSpaceError(f"{name} would be larger than is allowed", "see ulimit -f, or choose another disk with -d")
    if error.errno in _FULL:
        return NoSpaceError(f"cannot write {name}: {reason}", "free some space, then run the same command again")
    if error.errno in _UNSAFE:
        return UnsafePathError(f"cannot use {name}: {reason}", "choose another name with -o")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
        return StorageError(f"cannot write {name}: {reason}", "choose a folder that can be written to with -d")
    return StorageError(f"cannot write {name}: {reason}", "check the disk, then run the same command again")


def _open_locked(path: str) -> int:
    """A descriptor of the plain file at `path` that is ours alone: checked, locked, and still the one at `path`."""
    before = os.lstat(path)
    if not stat.S_ISREG(before.st_mode):
        raise UnsafePathError(f"{printable(path)} is not a plain file", "remove it, or choose another name with -o")
    if before.st_uid != os.geteuid():
        raise UnsafePathError(f"{printable(path)} belongs to another user", "remove it, or choose another name with -o")
    fd = os.open(path, _OPEN)
    try:
        _lock(fd, path)
        opened = os.fstat(fd)
        if (opened.st_dev, opened.st_ino) != (before.st_dev, before.st_ino):
            raise _locked(path)
        return fd
    except BaseException:
        os.close(fd)
        raise


def _lock(fd: int, path: str) -> None:
    """Lock the open file. If its name has gone to another file in the meantime, that one's owner was faster."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _locked(path) from None
    if not _is_at(fd, path):
        raise _locked(path)


def _is_at(fd: int, path: str) -> bool:
    mine = os.fstat(fd)
    try:
        there = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _locked(path: str) -> LockedError:
    return LockedError(f"{printable(path)} is in use by another process", "wait for it, or choose another name with -o")


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


def _call(name: str, *arguments: object) -> int:
    """0 or the errno of the C library's function `name`, which answers 0 or -1; ENOSYS where there is none."""
    if sys.platform != "linux":
        return errno.ENOSYS
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        return errno.ENOSYS
    while function(*arguments) != 0:
        error = ctypes.get_errno()
        if error != errno.EINTR:
            return error
    return 0


def _fallocate(fd: int, size: int) -> int:
    """Reserve the blocks of the first `size` bytes, by fallocate(2) itself: 0, or the errno."""
    from ctypes import c_int64

    error = _call("fallocate64", fd, 0, c_int64(0), c_int64(size))
    return error if error != errno.ENOSYS else _call("fallocate", fd, 0, c_int64(0), c_int64(size))


def _birth_ns(fd: int) -> int:
    """When the file was created, in nanoseconds since 1970, or 0: statx(2) on the descriptor, for STATX_BTIME."""
    from ctypes import c_char

    buffer = bytearray(256)
    if _call("statx", fd, b"", 0x1000, 0x800, (c_char * 256).from_buffer(buffer)):
        return 0
    mask = int.from_bytes(buffer[:4], sys.byteorder)
    seconds = int.from_bytes(buffer[80:88], sys.byteorder, signed=True)
    return seconds * 1_000_000_000 + int.from_bytes(buffer[88:92], sys.byteorder) if mask & 0x800 else 0


def _file_system(fd: int) -> int:
    """The magic number of the file system, or 0: the first word of statfs(2)."""
    from ctypes import c_char, c_long, sizeof

    buffer = bytearray(512)
    if _call("fstatfs", fd, (c_char * 512).from_buffer(buffer)):
        return 0
    return int.from_bytes(buffer[: sizeof(c_long)], sys.byteorder)
