"""What goes wrong on disk, as one of our errors.

Rules of this module: an OSError is mapped once, here, and stays as the cause; a message has one path and one reason, and its
hint says what to do next.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType

from fastidm.errors import FastidmError, NoSpaceError, StorageError, UnsafePathError, printable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The file does not fit: the disk or a quota is full, or the limit of the file size is reached."""

_UNSAFE = frozenset({errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO})
_ELSEWHERE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})


def storage_error(error: BaseException, path: str) -> FastidmError:
    """`error` as one of ours; one of ours stays what it is. What is no OSError is a defect, and is raised again.

    Parameters: `path`, the file that is named if the error names none.
    """
    if isinstance(error, FastidmError):
        return error
    if not isinstance(error, OSError):
        raise error
    name = printable(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else path)
    reason = error.strerror or str(error)
    if error.errno == errno.EFBIG:
        return NoSpaceError(f"{name} would be larger than is allowed", "see ulimit -f, or choose another disk with -d")
    if error.errno in FULL:
        return NoSpaceError(f"cannot write {name}: {reason}", "free some space, then run the same command again")
    if error.errno in _UNSAFE:
        return UnsafePathError(f"cannot use {name}: {reason}", "choose another name with -o")
    if error.errno == errno.ENOENT:
        return StorageError(f"cannot write {name}: {reason}", "create that folder, or choose another with -d")
    if error.errno in _ELSEWHERE:
        return StorageError(f"cannot write {name}: {reason}", "choose a folder that can be written to with -d")
    return StorageError(f"cannot write {name}: {reason}", "check the disk, then run the same command again")


class mapped:
    """Whatever OSError comes out of the block, as one of our errors that names its own path, else `path`.

    A class, since each small file enters it three times, and a generator costs twice as much.
    """

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and isinstance(error, OSError):
            raise storage_error(error, self._path) from error
