"""The digest of a file that is on disk.

Rules of this module: it only reads, and may take seconds, so it belongs into a helper thread; `hashlib` works on
blocks of this size without the interpreter's lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from fastidm.errors import InterruptedDownload

BLOCK = 1 << 20
"""Bytes between two looks at `stop`."""


def file_digest(file: int | str, algorithm: str, stop: Callable[[], bool]) -> str:
    """The digest of a file's content, as lower-case hex. A helper thread's work: 1 GiB takes about a second.

    Parameters: `file`, a path, or an open descriptor, whose offset is neither used nor moved; `algorithm`, a name
    that hashlib knows; `stop`, asked before every MiB whether to give up.

    Raises `InterruptedDownload` when `stop` says so; `OSError`; `ValueError` for an unknown algorithm.
    """
    import hashlib

    digest = hashlib.new(algorithm, usedforsecurity=False)
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC) if isinstance(file, str) else file
    try:
        block = memoryview(bytearray(BLOCK))
        offset = 0
        while True:
            if stop():
                raise InterruptedDownload("stopped while the checksum was computed", "the same command goes on")
            count = os.preadv(descriptor, [block], offset)
            if not count:
                return digest.hexdigest()
            digest.update(block[:count])
            offset += count
    finally:
        if isinstance(file, str):
            os.close(descriptor)
