"""A small file in one go, in C and in Python: all of it with its name, or nothing."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastidm.storage import whole
from tests.storage.test_sink import KINDS

Write = Callable[[bytes, bytes, bytes | bytearray, bool], int]


@pytest.fixture(params=["c", "pure"])
def write_whole(request: pytest.FixtureRequest) -> Write:
    if request.param not in KINDS:
        pytest.skip("the C extension fastidm._hotpath is not built")
    if request.param == "pure":
        return whole._write_whole
    written: Write = importlib.import_module("fastidm._hotpath").write_whole
    return written


def at(folder: Path, name: str = "file") -> tuple[bytes, bytes]:
    return os.fsencode(folder), os.fsencode(folder / name)


@pytest.mark.parametrize("size", [0, 1, 4096, 300_001])
@pytest.mark.parametrize("sync", [True, False])
def test_the_file_has_its_bytes_and_the_usual_permissions(write_whole: Write, tmp_path: Path, size: int, sync: bool) -> None:
    data = bytearray(os.urandom(size))
    umask = os.umask(0o027)
    try:
        assert write_whole(*at(tmp_path), data, sync) == 0
    finally:
        os.umask(umask)
    data.append(0)  # nobody holds it any more
    assert (tmp_path / "file").read_bytes() == data[:-1]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("what", ["file", "folder", "link to nowhere"])
def test_what_has_the_name_is_left_alone(write_whole: Write, tmp_path: Path, what: str) -> None:
    path = tmp_path / "file"
    if what == "file":
        path.write_bytes(b"precious")
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = path.lstat()
    assert write_whole(*at(tmp_path), bytearray(b"x"), False) == errno.EEXIST
    assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path) == ["file"]


def test_where_it_cannot_be_done_that_is_said_and_nothing_is_left(write_whole: Write, tmp_path: Path) -> None:
    descriptors = os.listdir("/dev/fd")
    assert write_whole(*at(tmp_path / "missing"), bytearray(b"x"), False) == whole.IMPOSSIBLE
    assert write_whole(os.fsencode(tmp_path), b"/nowhere/file", bytearray(b"x"), False) == whole.IMPOSSIBLE
    assert write_whole(b"/proc/self", b"/proc/self/file", bytearray(b"x"), False) == whole.IMPOSSIBLE
    assert os.listdir("/dev/fd") == descriptors
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(write_whole: Write, tmp_path: Path) -> None:
    """The kernel's own limit for files stands for the disk: it is told in the same way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        assert write_whole(*at(tmp_path), bytearray(5000), False) == errno.EFBIG
        with pytest.raises(OSError, match="too large"):
            whole.write(str(tmp_path / "file"), bytearray(5000), sync=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.listdir(tmp_path) == []


def test_wrong_arguments_are_refused_and_nothing_leaks(write_whole: Write, tmp_path: Path) -> None:
    data = bytearray(b"x" * 1000)
    for _ in range(3):
        with pytest.raises((TypeError, ValueError)):
            write_whole(os.fsencode(tmp_path), b"a\0b", data, False)
        with pytest.raises((TypeError, ValueError)):
            write_whole(os.fsencode(tmp_path), os.fsencode(tmp_path / "x"), None, False)  # type: ignore[arg-type]
    references = sys.getrefcount(data)
    for number in range(50):
        assert write_whole(*at(tmp_path, str(number)), data, False) == 0
    gc.collect()
    assert sys.getrefcount(data) == references
