"""A file system of its own, on a disk whose power can be cut: loop devices, root and a mkfs are needed.

Rules of this module:

* The disk is an image file in a second, outer file system. To cut the power is to freeze the outer one (FIFREEZE), which
  stops everything that is written to the disk at one instant, and to copy the image. What the inner file system still
  had in memory is not in the copy. No tool for snapshots is needed, nor a file system that has them.
* It is the kindest of all power cuts: the disk has kept all that it was given, in that order. `model.py` knows worse ones.
* Whatever happens, the outer file system is thawed, and everything is unmounted.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

_FREEZE, _THAW = 0xC0045877, 0xC0045878
_MIB = 1 << 20
_INNER = {"ext4": 48 * _MIB, "xfs": 320 * _MIB}
_MKFS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}


class Disk:
    """A mounted file system of `kind` at `folder`. A context manager; skips the test where that cannot be had."""

    def __init__(self, base: Path, kind: str) -> None:
        self.folder = base / "disk"
        self._base, self._kind = base, kind
        self._outer = base / "outer"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            pytest.skip("to mount a file system takes root")
        for tool in ("mount", _MKFS["ext4"][0], _MKFS[self._kind][0]):
            if shutil.which(tool) is None:
                pytest.skip(f"there is no {tool}")
        with self._stack:
            self._make(self._base / "outer.img", _INNER[self._kind] + 64 * _MIB, "ext4")
            self._stack.enter_context(mounted(self._base / "outer.img", self._outer))
            self._make(self._outer / "inner.img", _INNER[self._kind], self._kind)
            self._stack.enter_context(mounted(self._outer / "inner.img", self.folder))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def cut(self) -> Iterator[Path]:
        """What is on the disk when the power is cut now, mounted: a folder. The disk itself goes on."""
        copy = self._base / "copy.img"
        outer = os.open(self._outer, os.O_RDONLY)
        try:
            fcntl.ioctl(outer, _FREEZE, 0)
            try:
                # The copy is on another file system: on the frozen one nothing can be made.
                _run("cp", "--sparse=always", str(self._outer / "inner.img"), str(copy))
            finally:
                fcntl.ioctl(outer, _THAW, 0)
        finally:
            os.close(outer)
        # Two file systems with one identity cannot be mounted together, says XFS.
        with mounted(copy, self._base / "copy", *(("nouuid",) if self._kind == "xfs" else ())) as folder:
            yield folder
        copy.unlink()

    def _make(self, image: Path, size: int, kind: str) -> None:
        with open(image, "wb") as file:
            file.truncate(size)
        _run(*_MKFS[kind], str(image))


@contextmanager
def mounted(image: Path, folder: Path, *options: str) -> Iterator[Path]:
    """The file system in `image`, at `folder`. Mounting it repairs it, as after a power cut."""
    folder.mkdir(exist_ok=True)
    try:
        _run("mount", "-o", ",".join(("loop", *options)), str(image), str(folder))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot mount an image: {error.stderr.strip()}")
    try:
        yield folder
    finally:
        _run("umount", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
