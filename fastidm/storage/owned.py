"""Plain files that are ours alone: made, opened, locked, synced and removed. Part file and journal are such files.

Rules of this module:

* Nothing is followed: a link, a pipe, a device or a folder in the place is `UnsafePathError`, and what is behind it stays
  as it was.
* A file that is there already is changed or removed only by who holds its lock (`flock`). The lock lasts as long as the
  descriptor, so it dies with the process.
* A forked child shares its parent's locks. It gives up its share at once, so that they die with the parent alone.
* A lock counts only if the file is still the one at its path: it may have been removed before it was locked.
* `LockedError` names the finished file, the one that the user knows; `UnsafePathError` the file that is in the way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from fastidm.errors import LockedError, UnsafePathError, printable
from fastidm.storage.naming import JOURNAL_SUFFIX, PART_SUFFIX

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_PLAIN = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})  # what open(2) says of links, folders, pipes and sockets
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
_ATTEMPTS = 16
_held: dict[int, tuple[int, int]] = {}
"""Descriptors of the files that this process has locked, with device and inode."""


def create(path: str) -> int:
    """A descriptor of a new, empty, locked file of mode 0600.

    Raises `FileExistsError` and other `OSError`; `LockedError` if another process took the new file for a stale one.
    """
    fd = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _lock(fd, path)
        if not is_at(fd, path):
            raise locked(path)
        facts = os.fstat(fd)
    except LockedError:
        os.close(fd)  # whoever holds the lock is about to remove it
        raise
    except BaseException:
        remove(fd, path)
        os.close(fd)
        raise
    _held[fd] = (facts.st_dev, facts.st_ino)
    return fd


def open_locked(path: str, *, linked: bool) -> int:
    """A descriptor of the file at `path`, checked and locked. `linked`: it may have other names (hard links).

    Raises `FileNotFoundError` and other `OSError`, `LockedError`, `UnsafePathError`.
    """
    for _ in range(_ATTEMPTS):
        before = os.lstat(path)
        if not stat.S_ISREG(before.st_mode):  # looked at first, as opening a device can have effects
            raise _unsafe(path, "is not a plain file")
        try:
            fd = os.open(path, _OPEN)
        except OSError as error:
            if error.errno in _NOT_PLAIN:
                raise _unsafe(path, "is not a plain file") from error
            if isinstance(error, PermissionError) and before.st_uid != os.geteuid():
                raise _unsafe(path, "belongs to another user") from error
            raise
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise _unsafe(path, "is not a plain file")
            if not _is_ours(facts, path):
                raise _unsafe(path, "belongs to another user")
            if facts.st_nlink > 1 and not linked:
                raise _unsafe(path, "has a second name")
            _lock(fd, path)
            if is_at(fd, path):
                _held[fd] = (facts.st_dev, facts.st_ino)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # removed or renamed between open and lock by the one who held it: look again
    raise locked(path)


def write(fd: int, data: bytearray) -> None:
    """Write all of it at the front. Raises `OSError`."""
    with memoryview(data) as left:
        at = 0
        while at < len(left):
            at += os.pwrite(fd, left[at:], at)


def check_free(path: str) -> bool:
    """That no process holds the file at `path`; returns whether there is one. Raises as `drop` does, and changes nothing."""
    try:
        os.close(open_locked(path, linked=True))
    except FileNotFoundError:
        return False
    return True


def drop(path: str, *, linked: bool = True) -> None:
    """Remove the file that an earlier run left at `path`, if there is one.

    Raises `LockedError` if a process is using it; `UnsafePathError` if it is no plain file of this user; `OSError`.
    """
    try:
        fd = open_locked(path, linked=linked)
    except FileNotFoundError:
        return
    try:
        os.unlink(path)
    finally:
        os.close(fd)


def remove(fd: int, path: str) -> None:
    """Remove the file that is open as `fd`, unless another one has taken its place. Raises `OSError`."""
    if is_at(fd, path):
        os.unlink(path)


def close(fd: int) -> None:
    """Close and unlock."""
    _held.pop(fd, None)
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)  # by hand: without /proc a map that still exists holds the lock, see `without_lock`
    finally:
        os.close(fd)


def without_lock(fd: int) -> int:
    """Another descriptor of the same file, which does not carry the lock: for maps, as a forked child inherits those.

    Raises `OSError`.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return os.dup(fd)  # no /proc: then a child that lives on holds the lock with its maps


def is_at(fd: int, path: str) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def sync(fd: int) -> None:
    """Wait until what was written to the file is on disk. Raises `OSError`."""
    getattr(os, "fdatasync", os.fsync)(fd)  # fdatasync is not everywhere


def sync_folder(folder: str) -> None:
    """Wait until the names in `folder` are on disk. Raises `OSError`."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        os.sync()  # the folder may be written but not read
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:  # file systems that know no such thing
            raise
    finally:
        os.close(fd)


def locked(path: str) -> LockedError:
    """The error that says that another process is downloading to the target that the file at `path` belongs to."""
    return LockedError(f"another process is downloading {target_name(path)}", "wait for it, or choose another name with -o")


def target_name(path: str) -> str:
    """The finished file that the part file or journal at `path` belongs to, as it may be printed."""
    suffix = next((suffix for suffix in (JOURNAL_SUFFIX, PART_SUFFIX) if path.endswith(suffix)), "")
    return printable(path.removesuffix(suffix))


def _lock(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise locked(path) from None


def _is_ours(facts: os.stat_result, path: str) -> bool:
    """Whether a file that could be opened for writing belongs to us, or to everybody who may write in this folder.

    FAT and the like keep no owners: all files and folders belong to whom the mount says (`uid=`). Elsewhere, somebody whose
    folder we use could replace every file in it anyway.
    """
    return facts.st_uid == os.geteuid() or facts.st_uid == os.stat(os.path.dirname(path) or ".").st_uid


def _unsafe(path: str, why: str) -> UnsafePathError:
    return UnsafePathError(f"{printable(path)} {why}", "remove it, or choose another name with -o")


def _give_up() -> None:
    """In a forked child: the descriptors stay taken, as somebody may still close them, but lead nowhere."""
    ours = {file for fd, file in _held.items() if _file(fd) == file}  # else it was closed, and the number is another file's
    _held.clear()
    if not ours:
        return
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in map(int, os.listdir("/dev/fd")):
        if _file(fd) in ours:  # a map has a duplicate of its own
            os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)


def _file(fd: int) -> tuple[int, int] | None:
    try:
        facts = os.fstat(fd)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up)
