"""What came beyond a segment is compared with the segment behind it, as soon as that is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastidm.storage.seams import Seams

DATA = bytes(range(256)) * 40


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "part").write_bytes(DATA)
    fd = os.open(tmp_path / "part", os.O_RDONLY)
    yield fd
    os.close(fd)


def everything(start: int, stop: int) -> bool:
    return True


def test_what_is_the_same_is_well_and_is_forgotten(fd: int) -> None:
    seams = Seams()
    seams.keep(100, DATA[100:4196])
    assert seams
    assert seams.broken(lambda start, count: os.pread(fd, count, start), everything) is None
    assert not seams


@pytest.mark.parametrize("at", [100, 2000, 4195])
def test_the_first_difference_is_told(fd: int, at: int) -> None:
    other = bytearray(DATA)
    other[at] ^= 1
    seams = Seams()
    seams.keep(5000, DATA[5000:5100])
    seams.keep(100, bytes(other[100:4196]))
    assert seams.broken(lambda start, count: os.pread(fd, count, start), everything) == at


def test_what_cannot_be_compared_yet_waits(fd: int) -> None:
    seams, written = Seams(), 150
    seams.keep(100, bytes(100))
    assert seams.broken(lambda start, count: os.pread(fd, count, start), lambda start, stop: stop <= written) is None
    assert seams
    written = 200
    assert seams.broken(lambda start, count: os.pread(fd, count, start), lambda start, stop: stop <= written) == 100


def test_nothing_is_no_seam_and_a_new_beginning_has_none(fd: int) -> None:
    seams = Seams()
    seams.keep(100, b"")
    assert not seams
    seams.keep(100, b"x")
    seams.clear()
    assert seams.broken(lambda start, count: os.pread(fd, count, start), everything) is None


def test_a_file_that_is_shorter_than_it_should_be_differs(fd: int) -> None:
    seams = Seams()
    seams.keep(len(DATA) - 10, DATA[-10:] + b"more")
    assert seams.broken(lambda start, count: os.pread(fd, count, start), everything) == len(DATA) - 10
