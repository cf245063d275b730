"""What the matrix asks of every test: a test marked with rows ends within the shortest of their deadlines."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec.asyn
import pytest

from fastidm.api import shared_manager
from fastidm.integrations.fsspec import FastidmHTTPFileSystem
from tests.reliability import rows_local, rows_network
from tests.reliability.faultserver import FaultServer

ROWS = {row.id: row for row in (*rows_network.ROWS, *rows_local.ROWS)}
CLONE_NEWNS = 0x00020000


@pytest.fixture(autouse=True)
def within_deadline(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that took longer than its row allows: too late is as wrong as never."""
    ids = [mark.args[0] for mark in request.node.iter_markers("row")]
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    late = [f"{id} has {ROWS[id].deadline:g} s" for id in ids if took > ROWS[id].deadline]
    assert not late, f"this took {took:.1f} s: {', '.join(late)}"


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    """The fault server with its TLS ports, for the whole run."""
    with FaultServer(tmp_path_factory.mktemp("faults")) as server:
        yield server


@pytest.fixture(scope="session")
def own_mounts() -> None:
    """From here on nobody else sees what this thread and its children mount, and it goes with them. Root alone can."""
    libc = ctypes.CDLL(None, use_errno=True)
    private = ["mount", "--make-rprivate", "/"]
    if os.geteuid() or libc.unshare(CLONE_NEWNS) or subprocess.run(private, capture_output=True).returncode:
        pytest.skip("may not have mounts of its own here")
    # Threads that were there before are outside, and see neither the mounts nor where this one changes its folder to.
    shared_manager().close()
    fsspec.asyn.reset_after_fork()
    FastidmHTTPFileSystem.clear_instance_cache()


@pytest.fixture
def small_disk(tmp_path: Path, own_mounts: None) -> Iterator[Path]:
    """A folder with room for 5 MiB, in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False, capture_output=True)


@pytest.fixture
def ext4(tmp_path: Path, own_mounts: None) -> Iterator[Callable[..., Path]]:
    """`disk = ext4(mebibytes, backing)`: an ext4 of that size, on an image whose own disk has `backing` MiB of memory.

    The image is sparse, so ext4 promises more than its disk can keep if `backing` is less.
    """
    below, above = tmp_path / "below", tmp_path / "above"
    below.mkdir()
    above.mkdir()

    def make(mebibytes: int, backing: int) -> Path:
        image = below / "image"
        commands = (
            ["mount", "-t", "tmpfs", "-o", f"size={backing}m", "none", str(below)],
            ["truncate", "-s", f"{mebibytes}M", str(image)],
            ["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", str(image)],
            ["mount", "-o", "loop,errors=remount-ro", str(image), str(above)],
        )
        for command in commands:
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip(f"cannot have a file system of one's own here: {' '.join(command)}")
        (above / "lost+found").rmdir()
        return above

    yield make
    for place in (above, below):
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
