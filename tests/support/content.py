"""Known bytes for tests: every byte tells where it belongs, so that a misplaced run of them is seen.

The same bytes that the demo server sends: `content(n)` is what `/n.bin` of it holds.
"""

from __future__ import annotations

import hashlib

from fastidm.demo import content as _demo


def content(size: int, seed: int = 0) -> bytes:
    """`size` bytes; a longer content begins with a shorter one of the same `seed`. About 1 ms per MiB."""
    return _demo.content(0, size, seed)


def sha256(data: bytes) -> str:
    """The SHA-256 of `data`, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def first_difference(found: bytes, wanted: bytes) -> int | None:
    """The offset of the first byte that differs (or is missing), None when both are equal.

    For assertions about large data: `assert first_difference(a, b) is None` fails with a number, not with megabytes.
    """
    if found == wanted:
        return None
    low, high = 0, min(len(found), len(wanted))
    if found[:high] == wanted[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found[low:middle] != wanted[low:middle] else (middle, high)
    return low
