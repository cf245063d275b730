"""Files to be served: the same bytes for the same name and size, and no two pages alike.

Rules of this module: each 4 KiB page holds its own number, so a page in a wrong place changes the checksum; everything else
is one random megabyte again and again, because making it must not take longer than fetching it.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import NamedTuple

BLOCK = 1 << 20
PAGE = 4096


class Content(NamedTuple):
    """A file in the served folder."""

    name: str
    size: int
    sha256: str


def make(folder: Path, name: str, size: int) -> Content:
    """Write the file `name` of `size` bytes."""
    import numpy

    generator = random.Random(name)
    block = bytearray(generator.randbytes(BLOCK))
    numbers = numpy.frombuffer(block, dtype="<u8")[:: PAGE // 8]
    digest = hashlib.sha256()
    with open(folder / name, "wb") as file:
        for at in range(0, size, BLOCK):
            numbers[:] = numpy.arange(at // PAGE, (at + BLOCK) // PAGE, dtype="<u8")
            data = memoryview(block)[: min(BLOCK, size - at)]
            digest.update(data)
            file.write(data)
    return Content(name, size, digest.hexdigest())


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differs(folder: Path, wanted: list[Content]) -> str:
    """ "" if `folder` holds every file of `wanted` with the right content, else what is wrong."""
    for content in wanted:
        path = folder / content.name
        if not path.is_file():
            return f"{content.name} is missing"
        if path.stat().st_size != content.size:
            return f"{content.name} has {path.stat().st_size} bytes, not {content.size}"
        if sha256_of(path) != content.sha256:
            return f"{content.name} has wrong content"
    return ""
