"""A folder as a crash left it: real files, with the very inodes that the journals name.

Rules of this module: what the model says is put on the file system byte by byte, then the real code may look at it.
"""

from __future__ import annotations

import os
from random import Random

from fastidm.storage.pages import PAGE
from tests.crash.model import Disk, File, Survivor, subtract
from tests.crash.recorder import Recorder
from tests.crash.trace import Ranges


def rebuild(recorder: Recorder, disk: Disk, left: Survivor, *, data: bool) -> dict[int, Ranges]:
    """Make the recorder's folder what is `left`. `data`: with lost pages as zeros, else part files hold all their bytes.

    Returns what each part file really holds.
    """
    for entry in list(os.scandir(recorder.folder)):
        os.replace(entry.path, recorder.side / str(entry.inode()))
        if os.path.lexists(entry.path):  # both were names of one file: then rename(2) does nothing
            os.unlink(entry.path)
    held = {}
    for name, inode in sorted(left.names.items()):
        path = recorder.folder / name
        elsewhere = recorder.path_of(inode)
        if elsewhere.startswith(str(recorder.side)):
            os.rename(elsewhere, path)
        else:
            os.link(elsewhere, path)
        file, size = disk.files[inode], left.sizes[inode]
        fd = os.open(path, os.O_RDWR)
        if file.content is None:
            os.pwrite(fd, b"".join(left.journals[inode]), 0)
        elif data:
            held[inode] = surviving(file, left.random)
            os.ftruncate(fd, 0)
            os.ftruncate(fd, size)
            for start, stop in file.written():  # what is lost of it is zeros here and no hole: some file systems do that
                if start < size:
                    os.pwrite(fd, bytes(min(stop, size) - start), start)
            for start, stop in held[inode]:
                if start < size:
                    os.pwrite(fd, file.content[start : min(stop, size)], start)
        elif os.fstat(fd).st_size != size:
            os.pwrite(fd, file.content[:size], 0)
        os.ftruncate(fd, size)
        os.close(fd)
    return held


def surviving(file: File, random: Random | None) -> Ranges:
    """The bytes of a part file that the disk has, each dirty page kept or lost by chance, or all lost."""
    held = list(file.durable)
    if random is not None:
        for start, stop in subtract(file.written(), file.durable):
            pages = [page * PAGE for page in range(start // PAGE, (stop - 1) // PAGE + 1) if random.random() < 0.5]
            held += [(max(start, at), min(stop, at + PAGE)) for at in pages]
    return sorted(held)
