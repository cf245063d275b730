"""huggingface_hub, the real one, downloads from a hub of our own through fastidm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import file_download, hf_file_system, hf_hub_download
from tqdm import tqdm

from fastidm.integrations.huggingface_hub import accelerated
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Habit, OddServer

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]


class Hub:
    """As much of the hub as serves one file."""

    def __init__(self, data: bytes) -> None:
        self.ranges: list[str | None] = []
        """Of each request for the file; the library itself sends none."""
        self.blocks: list[str | None] = []
        self._size = len(data)
        self._lines = (f'ETag: "{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit: " + "a" * 40)
        self._file = File(data, etag=None, lines=self._lines)

    def __call__(self, exchange: Exchange) -> None:
        if exchange.method == "HEAD":
            exchange.head(200, f"Content-Length: {self._size}", "Accept-Ranges: bytes", *self._lines)
            return
        self.ranges.append(exchange.headers.get("range"))
        self.blocks.append(exchange.headers.get("x-block"))
        self._file(exchange)


def test_a_model_is_downloaded_over_many_connections(odd: Serve, tmp_path: Path) -> None:
    data = content(24 * MIB)
    hub = Hub(data)
    server = odd(hub)
    original = file_download.http_get
    with accelerated(connections=4):
        path = hf_hub_download("some/model", "weights.bin", endpoint=server.url, cache_dir=tmp_path, token=False)
    assert Path(path).read_bytes() == data
    assert len(hub.ranges) > 4
    assert None not in hub.ranges
    assert len({exchange.number for exchange in server.exchanges if exchange.method == "GET"}) > 1
    assert file_download.http_get is original


def test_outside_of_the_block_nothing_is_changed(odd: Serve, tmp_path: Path) -> None:
    data = content(MIB)
    hub = Hub(data)
    with pytest.raises(RuntimeError, match="ours"), accelerated():
        raise RuntimeError("ours")
    path = hf_hub_download("some/model", "weights.bin", endpoint=odd(hub).url, cache_dir=tmp_path, token=False)
    assert Path(path).read_bytes() == data
    assert hub.ranges == [None]


def test_its_progress_is_shown_by_the_bar_that_was_asked_for(odd: Serve, tmp_path: Path) -> None:
    data, moved = content(8 * MIB), []

    class Bar(tqdm):
        def __init__(self, *args: Any, **named: Any) -> None:
            moved.append(("total", named.get("total")))
            super().__init__(*args, **named)

        def update(self, n: float | None = 1) -> bool | None:
            moved.append(("update", n))
            return super().update(n)

    with accelerated():
        hf_hub_download(
            "some/model", "weights.bin", endpoint=odd(Hub(data)).url, cache_dir=tmp_path, token=False, tqdm_class=Bar
        )
    assert moved[0] == ("total", len(data))
    assert sum(count for what, count in moved if what == "update") == len(data)


def test_blocks_may_overlap(odd: Serve, tmp_path: Path) -> None:
    original = file_download.http_get
    first, second = accelerated(headers={"X-Block": "first"}), accelerated(headers=["X-Block: second"])
    hub = Hub(content(1000))
    first.__enter__()
    second.__enter__()
    assert hf_file_system.http_get is file_download.http_get is not original
    first.__exit__(None, None, None)
    hf_hub_download("some/model", "x", endpoint=odd(hub).url, cache_dir=tmp_path, token=False)
    assert hub.blocks == ["second"]
    second.__exit__(None, None, None)
    assert hf_file_system.http_get is file_download.http_get is original


def test_a_part_is_fetched_by_the_original(odd: Serve, tmp_path: Path) -> None:
    hub = Hub(content(1000))
    with accelerated(), open(tmp_path / "part", "wb") as file, pytest.raises(OSError, match="Consistency"):
        file_download.http_get(odd(hub).url + "/x", file, headers={"Range": "bytes=10-19"})
    assert (tmp_path / "part").read_bytes() == content(1000)[10:20]
