"""The final name: whether a file may get it, and giving it to the finished part file.

Rules of this module:

* Nothing is replaced unless that was asked for, not even a file that came up a moment ago.
* A folder, pipe or device is never replaced. A link is replaced as such and never followed.
* Paths are absolute; `shown` is the path as the user wrote it, for messages.
"""

from __future__ import annotations

import errno
import os
import stat
from time import monotonic

from fastidm.errors import ExistsError, UnsafePathError, printable
from fastidm.storage import linux
from fastidm.storage.naming import JOURNAL_SUFFIX, NAME_MAX

_PATH_MAX = 4096
_SEEN_SECONDS = 1.0
_seen: dict[str, tuple[float, int]] = {}
"""Folders that were good a moment ago: when that was, and how long names may be there."""
_NO_LINKS = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK})


def check_folder(path: str, shown: str) -> None:
    """That the folder of `path` can be written to, and that the name and its suffixes fit.

    Raises `UnsafePathError`, `OSError`.
    """
    folder, name = os.path.split(path)
    try:
        size, name_size = (len(path), len(name)) if path.isascii() else (len(os.fsencode(path)), len(os.fsencode(name)))
    except UnicodeEncodeError:
        name = ""
    if name in ("", ".", "..") or "\0" in path:
        raise UnsafePathError(f"'{printable(shown)}' cannot name a file", "choose another name with -o")
    longest = _longest_name(folder)
    room = min(longest, _PATH_MAX - 1 - size + name_size) - len(JOURNAL_SUFFIX)
    if name_size > room:
        hint = f"choose one of at most {room} bytes with -o" if room > 0 else "choose another folder with -d"
        raise UnsafePathError(f"the name {printable(shown)} is too long", hint)


def _longest_name(folder: str) -> int:
    """Bytes that a name in this folder may have; raises `OSError` for one that cannot be written to.

    What was found holds for a moment: of a thousand files most go into the same folder, and whoever opens one there is told
    all the same.
    """
    now = monotonic()
    checked, longest = _seen.get(folder, (float("-inf"), 0))
    if now - checked < _SEEN_SECONDS:
        return longest
    if not stat.S_ISDIR(os.stat(folder).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        reason = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(reason, os.strerror(reason), folder)
    try:
        longest = os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        longest = NAME_MAX
    if len(_seen) > 64:
        _seen.clear()
    _seen[folder] = now, longest
    return longest


def check_name(path: str, shown: str, *, overwrite: bool) -> None:
    """That the name is free, or that what has it may be replaced. Raises `ExistsError`, `UnsafePathError`, `OSError`."""
    mode = _mode(path)
    if mode and not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise _not_plain(path)
    if mode and not overwrite:
        raise _exists(shown)


def check_plain(path: str) -> bool:
    """That the name is free or a plain file's; returns whether there is one. Raises `UnsafePathError`, `OSError`."""
    mode = _mode(path)
    if mode and not stat.S_ISREG(mode):
        raise _not_plain(path)
    return mode != 0


def publish(part_path: str, path: str, shown: str, *, overwrite: bool) -> None:
    """Rename the part file to its final name. Raises `ExistsError`, `UnsafePathError`, `OSError`."""
    check_name(path, shown, overwrite=overwrite)
    if overwrite:
        os.replace(part_path, path)
        return
    try:
        os.link(part_path, path)
    except FileExistsError:
        raise _exists(shown) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise _exists(shown) from None
        os.rename(part_path, path)  # no hard links here: a moment remains in which it could replace
    else:
        os.unlink(part_path)


def same_file(one: str, other: str) -> bool:
    """Whether both are names of one file; links are not followed."""
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except OSError:
        return False


def give_usual_permissions(fd: int, path: str) -> None:
    """Those of the file at `path` that is to be replaced, so that what was private stays so; else 0666 less the umask.

    Where that is not known, or there are no permissions, the file stays as it is.
    """
    replaced, umask = _mode(path), linux.umask()
    try:
        if stat.S_ISREG(replaced):
            os.fchmod(fd, replaced & 0o777)
        elif umask is not None:
            os.fchmod(fd, 0o666 & ~umask)
    except OSError:
        pass


def _mode(path: str) -> int:
    """The mode of what has this name; 0: nothing has it."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def _not_plain(path: str) -> UnsafePathError:
    return UnsafePathError(f"{printable(path)} is not a plain file", "choose another name with -o")


def _exists(shown: str) -> ExistsError:
    return ExistsError(f"{printable(shown)} exists", "choose another name with -o or --rename, or replace it with --overwrite")
