"""What the micro benchmarks share. They are run by `make bench-micro`, never with the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastidm.storage.sink import PureSink, Sink

MIB = 1 << 20


@pytest.fixture(params=["c", "pure"])
def sink_type(request: pytest.FixtureRequest) -> type:
    """The sink in C, and the one in Python."""
    if request.param == "pure":
        return PureSink
    if Sink is PureSink:
        pytest.skip("the C sink is not built")
    return Sink


@pytest.fixture
def part_file(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a preallocated file of 64 MiB."""
    fd = os.open(tmp_path / "file.part", os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(fd, 0, 64 * MIB)
    yield fd
    os.close(fd)
