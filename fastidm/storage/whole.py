"""A small file written in one go: all of it is there and has its name, or nothing is there.

Rules of this module: the file has no name while it is written (O_TMPFILE), so that a process that dies leaves nothing, and it
gets its name by a link, which replaces nothing. Permissions are the usual ones from the start. It is one call into C where the
extension is built, because a helper thread that comes back to the interpreter after each system call holds up the loop: with
sixteen files at once that cost more than the calls themselves. `_write_whole` does the same in Python.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from fastidm.storage import owned
from fastidm.storage.sink import SINK_KIND

IMPOSSIBLE = -1
"""What `write_whole` answers where files without a name, or links to them, cannot be made."""


def write(path: str, data: bytearray, *, sync: bool) -> bool:
    """Write `data` to a new file at `path`; with `sync` it is on disk, the name not yet, when this returns.

    Returns False where that cannot be done so. Raises `FileExistsError` and other `OSError`; then nothing is left.
    """
    error = write_whole(os.fsencode(os.path.dirname(path)), os.fsencode(path), data, sync)
    if error > 0:
        raise OSError(error, os.strerror(error), path)
    return error != IMPOSSIBLE


def _write_whole(folder: bytes, path: bytes, data: bytearray, sync: bool, /) -> int:
    """0, the errno of what went wrong, or IMPOSSIBLE."""
    try:
        fd = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
    except (OSError, AttributeError):  # AttributeError: not on Linux
        return IMPOSSIBLE
    try:
        owned.write(fd, data)
        if sync:
            owned.sync(fd)
        try:
            # The descriptor of a folder is not used, as the path is absolute; but without one Python does not follow the link.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
        except OSError as error:
            return errno.EEXIST if error.errno == errno.EEXIST else IMPOSSIBLE
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(fd)
    return 0


write_whole: Callable[[bytes, bytes, bytearray, bool], int] = _write_whole
if SINK_KIND == "c":
    from fastidm._hotpath import write_whole
