"""The bytes of a file of any length that nobody stores.

Rules of this module: each byte depends on its offset and on `seed`, never on the length of the file, so that a longer
file begins with a shorter one. A run of bytes that landed in a wrong place differs from what belongs there, unless it
is off by exactly a multiple of 256 x 1048583, which no mistake about blocks, pages or segments comes to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

STRETCH = 1_048_583
"""Length of the random block that everything is made of: the first prime above 1 MiB."""


@lru_cache(maxsize=8)
def _block(seed: int) -> bytes:
    import random

    return random.Random(seed).randbytes(STRETCH)


@lru_cache(maxsize=256)
def _exclusive_or(mask: int) -> bytes:
    return bytes(value ^ mask for value in range(256))


def content(start: int, stop: int, seed: int = 0) -> bytes:
    """The bytes [start, stop) of the file; takes about 1 ms per MiB.

    The n-th stretch of `STRETCH` bytes is the block of `seed`, each byte of it combined with n by exclusive or.
    """
    block = _block(seed)
    pieces = []
    while start < stop:
        number, offset = divmod(start, STRETCH)
        length = min(stop - start, STRETCH - offset)
        pieces.append(block[offset : offset + length].translate(_exclusive_or(number & 255)))
        start += length
    return b"".join(pieces)


def slices(size: int, seed: int = 0, step: int = 1 << 20) -> Iterator[bytes]:
    """The whole file of `size` bytes, `step` bytes at a time."""
    for start in range(0, size, step):
        yield content(start, min(start + step, size), seed)


def sha256(size: int, seed: int = 0) -> str:
    """The SHA-256 of the file of `size` bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    for data in slices(size, seed):
        digest.update(data)
    return digest.hexdigest()
