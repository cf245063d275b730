"""A checkpoint: what is packed and written, and the same with the waits for the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastidm.core.segments import restore
from fastidm.storage import owned
from fastidm.storage.journal import ROWS, Identity, Journal, hash_url

TOTAL = 1 << 40
SALT = bytes(16)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    identity = Identity(
        total=TOTAL,
        etag='"a"',
        last_modified="",
        url="https://example.org/big.iso",
        url_salt=SALT,
        url_hash=hash_url("https://example.org/big.iso", SALT),
        device=1,
        inode=2,
        birth_ns=3,
    )
    made = Journal.create(str(tmp_path / "big.iso.fastidm"), identity)
    made.begin_epoch()
    yield made
    made.remove()


def half_done(count: int) -> bytes:
    """Rows of `count` segments, each half written."""
    share = TOTAL // count
    return bytes(
        restore(TOTAL, [(n * share, n * share + share // 2) for n in range(count)], [n * share for n in range(1, count)], ROWS)
    )


@pytest.mark.parametrize("count", [16, 128, ROWS - 2])
def test_checkpoint_without_sync(benchmark: Any, monkeypatch: pytest.MonkeyPatch, journal: Journal, count: int) -> None:
    monkeypatch.setattr(owned, "sync", lambda fd: None)
    monkeypatch.setattr(owned, "sync_folder", lambda path: None)
    benchmark(journal.checkpoint, half_done(count))


def test_checkpoint_synced(benchmark: Any, journal: Journal) -> None:
    benchmark.pedantic(journal.checkpoint, (half_done(16),), rounds=20, warmup_rounds=1)
