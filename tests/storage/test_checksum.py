"""Digests of files on disk: right, without touching the descriptor's offset, and soon over when that is wished."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from fastidm.errors import InterruptedDownload
from fastidm.storage.checksum import BLOCK, file_digest


def never() -> bool:
    return False


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 1])
@pytest.mark.parametrize("algorithm", ["sha256", "md5", "blake2b"])
def test_the_digest_is_that_of_the_whole_content(tmp_path: Path, size: int, algorithm: str) -> None:
    content = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    assert file_digest(str(path), algorithm, never) == hashlib.new(algorithm, content).hexdigest()


def test_an_open_descriptor_is_read_from_the_start_and_keeps_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR)
    try:
        os.lseek(fd, 7, os.SEEK_SET)
        assert file_digest(fd, "sha256", never) == hashlib.sha256(b"0123456789").hexdigest()
        assert os.lseek(fd, 0, os.SEEK_CUR) == 7
    finally:
        os.close(fd)


def test_it_stops_within_one_block_when_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8 * BLOCK))
    answers = iter([False, False, True])
    with pytest.raises(InterruptedDownload):
        file_digest(str(path), "sha256", lambda: next(answers))
    assert next(answers, "asked no more") == "asked no more"


def test_reads_that_bring_less_than_asked_for_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(10_000)
    (tmp_path / "file").write_bytes(content)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real(fd, [buffers[0][:999]], offset))
    assert file_digest(str(tmp_path / "file"), "sha256", never) == hashlib.sha256(content).hexdigest()


def test_a_missing_file_and_an_unknown_algorithm_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_digest(str(tmp_path / "none"), "sha256", never)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError):
        file_digest(str(tmp_path / "file"), "sha0", never)
