"""What a byte costs on its way from libcurl's block into the file: blocks of 16 KiB (HTTP/1.1) and 1.4 KiB (HTTP/3)."""

from __future__ import annotations

from typing import Any

import pytest

from fastidm.core.segments import tile
from fastidm.storage.sink import MAP, PWRITE

SIZE = 64 << 20
ROUND = 8 << 20


@pytest.mark.parametrize("block", [16 << 10, 1400])
@pytest.mark.parametrize("mode", [PWRITE, MAP], ids=["pwrite", "map"])
def test_sink_call(benchmark: Any, sink_type: type, part_file: int, mode: int, block: int) -> None:
    """8 MiB in blocks; the file's blocks are reserved, and its pages are there after the first rounds."""
    data = memoryview(bytes(block))
    calls = ROUND // block

    def prepare() -> tuple[tuple[Any, Any], dict[str, Any]]:
        sink = sink_type(part_file, tile(SIZE, [], 4), SIZE, [], mode=mode)
        sink.arm(0, 0)
        return (sink, data), {}

    def feed(sink: Any, data: memoryview) -> None:
        for _ in range(calls):
            sink(data)
        sink.flush()
        sink.close()

    benchmark.extra_info["bytes"] = calls * block
    benchmark.pedantic(feed, setup=prepare, rounds=30, warmup_rounds=3)
