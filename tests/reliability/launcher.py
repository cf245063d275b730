"""The command on a machine that is not as good as this one: `python -m tests.reliability.launcher PATCHES -- arguments`.

Rules of this module: PATCHES are words of `PATCHES` below, with commas between them, each with a value behind "=" if it takes
one. A patch replaces one call at the edge to the system by one that answers as a worse system does, and nothing else.
Those that tell something print a JSON line, as `--json` does. `python -m fastidm` in front of the arguments is passed over,
so that the words up to `--` can stand before a whole command, like `prlimit`.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from fastidm.storage import linux, owned
from fastidm.storage.partfile import PartFile

BTRFS = 0x9123683E
FUSE = 0x65735546
TMPFS = 0x01021994


def wrapper(patches: str) -> tuple[str, ...]:
    """The words to put before the command; see `tests.support.command.Command`."""
    return (sys.executable, "-m", "tests.reliability.launcher", patches, "--")


def _tell(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def _quick(value: str) -> None:
    """Progress is told, and checkpoints are made, as soon as anything is new: no test needs to wait for the usual time."""
    from fastidm import running
    from fastidm.cli import main
    from fastidm.core import checkpoints

    main.JSON_INTERVAL = running.EVENT_SECONDS = 0.0
    checkpoints.SECONDS = 0.2


def _fallocate(value: str) -> None:
    """fallocate(2) fails with this error; the classic one is EOPNOTSUPP."""
    linux.fallocate = lambda fd, size: getattr(errno, value)


def _sparse_map(value: str) -> None:
    """fallocate(2) says yes and reserves nothing, and the file is mapped in spite of it."""

    def fallocate(fd: int, size: int) -> int:
        os.ftruncate(fd, size)
        return 0

    linux.fallocate = fallocate
    linux.file_system = lambda fd: TMPFS
    PartFile._has_all_blocks = lambda self: True  # type: ignore[method-assign]


def _free(value: str) -> None:
    """The loop is never the limit, so a server on the same machine gets all its connections."""
    from fastidm.core import connections

    connections.SATURATED = 2.0


def _blind(value: str) -> None:
    """statvfs(2) does not know how much is free, as on some network file systems."""
    real = os.statvfs

    def statvfs(path: Any) -> os.statvfs_result:
        known = list(real(path))
        known[2:5] = 0, 0, 0
        return os.statvfs_result(known)

    os.statvfs = statvfs


def _file_system(value: str) -> None:
    """statfs(2) says that it is this file system, a number."""
    linux.file_system = lambda fd: int(value, 0)


def _no_mmap(value: str) -> None:
    """Files cannot be mapped, as with FUSE's direct I/O."""
    import mmap

    class NoMap:
        def __init__(self, fd: int, *arguments: object, **more: object) -> None:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    mmap.mmap = NoMap  # type: ignore[assignment, misc]
    linux.file_system = lambda fd: FUSE


def _no_holes(value: str) -> None:
    """lseek(2) does not know where holes are: the file is data to its end."""
    real = os.lseek

    def lseek(fd: int, position: int, how: int) -> int:
        if how in (os.SEEK_HOLE, os.SEEK_DATA):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, position, how)

    os.lseek = lseek


def _sync_fails(value: str) -> None:
    """The first fdatasync(2) of the part file fails with this error; later ones are fine, as the kernel forgets."""
    real = owned.sync
    failed = []

    def sync(fd: int) -> None:
        if not failed and os.readlink(f"/proc/self/fd/{fd}").endswith(".part"):
            failed.append(fd)
            raise OSError(getattr(errno, value), os.strerror(getattr(errno, value)))
        real(fd)

    owned.sync = sync


def _sync_once(value: str) -> None:
    """Only the first fdatasync(2) of the part file ever returns."""
    real = owned.sync
    done = []

    def sync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".part"):
            done.append(fd)
            if len(done) > 1:
                time.sleep(600)
        real(fd)

    owned.sync = sync


def _sync_takes(value: str) -> None:
    """Each fdatasync(2) of the part file takes so many seconds more. Tells `sync` when one begins."""
    real = owned.sync

    def sync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".part"):
            _tell("sync")
            time.sleep(float(value))
        real(fd)

    owned.sync = sync


def _unsynced_most(value: str) -> None:
    """The disk may be so many bytes behind."""
    from fastidm.core import checkpoints

    checkpoints.UNSYNCED_MOST = int(value)


def _fallocate_takes(value: str) -> None:
    """fallocate(2) takes so many seconds more. Tells `fallocate` when it begins."""
    real = linux.fallocate

    def fallocate(fd: int, size: int) -> int:
        _tell("fallocate")
        time.sleep(float(value))
        return real(fd, size)

    linux.fallocate = fallocate


def _patient(value: str) -> None:
    """A stopping engine waits for the disk as long as it takes."""
    from fastidm import engine

    engine.GRACE = 60.0


def _pwrite_fails(value: str) -> None:
    """ERROR@BYTES: pwrite(2) of the Python sink fails once so many bytes are written. Needs FASTIDM_PURE=1."""
    name, _, most = value.partition("@")
    code, room = getattr(errno, name), [int(most)]
    real = os.pwrite

    def pwrite(fd: int, data: Any, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".part"):
            if room[0] <= 0:
                raise OSError(code, os.strerror(code))
            data = memoryview(data)[: room[0]]
            room[0] -= len(data)
        return real(fd, data, offset)

    os.pwrite = pwrite


def _boot_id(value: str) -> None:
    """The machine has booted anew: its boot id is made of this letter."""
    linux.boot_id = lambda: value.encode() * 16


def _clock_jumps(value: str) -> None:
    """The wall clock is so many seconds further with every look, or back again."""
    real, step = time.time, [float(value)]

    def wrong() -> float:
        step[0] = -step[0]
        return real() + step[0]

    time.time = wrong


def _gaps(value: str) -> None:
    """Tells `gap` at the end: the longest time, in seconds, that the loop was away from its sockets.

    Time in which the loop's thread was ready to run and got no processor is not counted: that is other programs' doing.
    """
    from fastidm.net.transfers import Transfers

    real, real_close = Transfers.wait, Transfers.close
    longest, left = [0.0], [0.0, 0.0]

    def starved() -> float:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9

    def wait(self: Transfers, timeout: float) -> None:
        if left[0]:
            longest[0] = max(longest[0], time.monotonic() - left[0] - (starved() - left[1]))
        assert timeout < 0.1, "the loop would sleep through a tick"
        real(self, timeout)
        left[:] = time.monotonic(), starved()

    def close(self: Transfers) -> None:
        if left[0]:
            left[0] = 0.0
            _tell("gap", seconds=longest[0])
        real_close(self)

    Transfers.wait, Transfers.close = wait, close  # type: ignore[method-assign]


def _order(value: str) -> None:
    """Tells each `step` that matters for a power cut: sync, link, rename, unlink, folder."""
    syncs = owned.sync, owned.sync_folder
    changes = os.link, os.rename, os.replace, os.unlink

    def sync(fd: int) -> None:
        syncs[0](fd)
        _tell("step", what="sync", file=os.readlink(f"/proc/self/fd/{fd}"))

    def sync_folder(folder: str) -> None:
        syncs[1](folder)
        _tell("step", what="folder", file=folder)

    owned.sync, owned.sync_folder = sync, sync_folder
    for change in changes:

        def told(*paths: Any, change: Callable[..., None] = change, **more: Any) -> None:
            change(*paths, **more)
            _tell("step", what=change.__name__, file=os.fsdecode(paths[-1]))

        setattr(os, change.__name__, told)


PATCHES: dict[str, Callable[[str], None]] = {
    "quick": _quick,
    "fallocate": _fallocate,
    "sparse-map": _sparse_map,
    "blind": _blind,
    "free": _free,
    "file-system": _file_system,
    "no-mmap": _no_mmap,
    "unsynced-most": _unsynced_most,
    "no-holes": _no_holes,
    "sync-fails": _sync_fails,
    "sync-once": _sync_once,
    "sync-takes": _sync_takes,
    "fallocate-takes": _fallocate_takes,
    "patient": _patient,
    "pwrite-fails": _pwrite_fails,
    "boot-id": _boot_id,
    "clock-jumps": _clock_jumps,
    "gaps": _gaps,
    "order": _order,
}


def main(words: list[str]) -> int:
    patches, separator, *arguments = words
    assert separator == "--", words
    for patch in sorted(patches.split(","), key=lambda patch: patch.startswith("quick")):  # it loads what others patch
        name, _, value = patch.partition("=")
        PATCHES[name](value)
    if arguments[1:3] == ["-m", "fastidm"]:
        del arguments[:3]
    sys.argv[1:] = arguments
    from fastidm.__main__ import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
