"""What only Linux has, and what is done without it.

Rules of this module: no function raises; each has an answer that says "not known here" or "not possible here", which
callers must live with anyway, as file systems differ as much as systems do. `ctypes` is loaded by the first call that needs
it, which is for files too large for the short way.
"""

from __future__ import annotations

import errno
import os
import sys
from functools import lru_cache

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from ctypes import CDLL

BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"


def fallocate(fd: int, size: int) -> int:
    """Reserve blocks for the first `size` bytes, by fallocate(2) itself: 0, or the errno; ENOSYS where there is none.

    `os.posix_fallocate` is not the same: where the file system cannot reserve, it writes every block.
    """
    from ctypes import c_int64

    error = _call("fallocate64", fd, 0, c_int64(0), c_int64(size))
    return error if error != errno.ENOSYS else _call("fallocate", fd, 0, c_int64(0), c_int64(size))


def give_back(fd: int, start: int, stop: int) -> None:
    """Let go of the blocks of [start, stop), by fallocate(2): the file keeps its length, and reads as zeros there."""
    from ctypes import c_int64

    punch_hole_keep_size = 3
    _call("fallocate64", fd, punch_hole_keep_size, c_int64(start), c_int64(stop - start))


def begin_writing(fd: int, start: int, stop: int) -> int:
    """Have the kernel begin to write what of [start, stop) is in memory alone, by sync_file_range(2): 0, or the errno; ENOSYS
    where there is none. May wait for room in the disk's queue, and says nothing about what is on the disk.

    With SYNC_FILE_RANGE_WRITE alone it tells what went wrong as it began, and leaves what goes wrong later to the next
    fdatasync. The flags that wait would take such an error away from it: the kernel tells it to a descriptor once.
    """
    from ctypes import c_int64

    sync_file_range_write = 2
    return _call("sync_file_range", fd, c_int64(start), c_int64(stop - start), sync_file_range_write)


def birth_ns(fd: int) -> int:
    """When the file was created, in nanoseconds since 1970, or 0: statx(2) on the descriptor, for STATX_BTIME."""
    from ctypes import c_char

    buffer = bytearray(256)
    if _call("statx", fd, b"", 0x1000, 0x800, (c_char * 256).from_buffer(buffer)):
        return 0
    mask = int.from_bytes(buffer[:4], sys.byteorder)
    seconds = int.from_bytes(buffer[80:88], sys.byteorder, signed=True)
    nanoseconds = seconds * 1_000_000_000 + int.from_bytes(buffer[88:92], sys.byteorder)
    return nanoseconds if mask & 0x800 and nanoseconds > 0 else 0


def file_system(fd: int) -> int:
    """The magic number of the file system, or 0: the first word of statfs(2)."""
    from ctypes import c_char, c_long, sizeof

    buffer = bytearray(512)
    if _call("fstatfs", fd, (c_char * 512).from_buffer(buffer)):
        return 0
    return int.from_bytes(buffer[: sizeof(c_long)], sys.byteorder)


def boot_id() -> bytes:
    """16 bytes that change with every boot, or none."""
    return _boot_id(BOOT_ID_PATH)


@lru_cache(maxsize=4)
def _boot_id(path: str) -> bytes:
    try:
        boot = bytes.fromhex(_read(path).decode("ascii").strip().replace("-", ""))
    except (OSError, ValueError):
        return b""
    return boot if len(boot) == 16 and any(boot) else b""


def mount_id(fd: int) -> int | None:
    """The mount that the file is on, or None. From /proc, as Python has no statx.

    A number can be given out again after an unmount within the same boot; what was unmounted was written out before, and
    the caller compares the part file's inode and birth time.
    """
    try:
        return _number(_read(f"/proc/self/fdinfo/{fd}"), b"mnt_id:", 10)
    except (OSError, ValueError):
        return None


def umask() -> int | None:
    """The process's umask, or None. From /proc, as to ask `os.umask` is to set it, for all threads."""
    try:
        return _number(_read("/proc/self/status"), b"Umask:", 8)
    except (OSError, ValueError):
        return None


def _read(path: str) -> bytes:
    """The first bytes of a file of /proc; a file object would cost three times as much. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 512)
    finally:
        os.close(fd)


def _number(text: bytes, key: bytes, base: int) -> int | None:
    """What stands behind `key` at the beginning of a line, or None. Raises ValueError if it is no number."""
    _, found, rest = (b"\n" + text).partition(b"\n" + key)
    return int(rest.partition(b"\n")[0], base) if found else None


@lru_cache(maxsize=1)
def _library() -> CDLL:
    """The C library."""
    from ctypes import CDLL

    return CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> int:
    """0 or the errno of the C library's function `name`, which answers 0 or -1; ENOSYS where there is none."""
    if sys.platform != "linux":
        return errno.ENOSYS
    import ctypes

    function = getattr(_library(), name, None)
    if function is None:
        return errno.ENOSYS
    while function(*arguments) != 0:
        error = ctypes.get_errno()
        if error != errno.EINTR:
            return error
    return 0
