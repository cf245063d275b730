"""What the storage code did to the disk, step by step: the words in which a recorder writes and a model reads.

Rules of this module: data only. A file is named by its inode number, since names come and go. What a part file holds is told
by byte ranges, as all that is ever written to it is right; what a journal holds is told by whole pages.
"""

from __future__ import annotations

from typing import NamedTuple

FOLDER = 0
"""Stands for the inode of the one folder in which everything happens."""

Ranges = list[tuple[int, int]]
"""Sorted, disjoint [start, stop) of bytes."""


class Entry(NamedTuple):
    """A change of the folder: `name` now is `inode`, None: is gone. `source`: the name that it had until then (rename)."""

    name: str
    inode: int | None
    source: str | None = None


class Size(NamedTuple):
    """The file has another length."""

    inode: int
    size: int


class Data(NamedTuple):
    """Right bytes [start, stop) were written to a part file."""

    inode: int
    start: int
    stop: int


class Page(NamedTuple):
    """A page of a journal is different now; `stored` through the map, by one instruction, else by a write."""

    inode: int
    number: int
    before: bytes
    after: bytes
    stored: bool


class SyncBegins(NamedTuple):
    """The kernel was asked to bring a file, or the FOLDER, to the disk."""

    inode: int


class SyncEnds(NamedTuple):
    """It says that it has, or that it failed."""

    inode: int
    ok: bool


class Promise(NamedTuple):
    """A checkpoint has said that these bytes of this part file survive from here on; it replaces the one before."""

    inode: int
    claims: Ranges


class Finished(NamedTuple):
    """The run has said that the download is complete: exit code 0."""

    name: str


Step = Entry | Size | Data | Page | SyncBegins | SyncEnds | Promise | Finished
