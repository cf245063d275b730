"""huggingface_hub, the real one, downloads from a hub of our own through fastidm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import file_download, hf_hub_download

from fastidm.integrations.huggingface_hub import accelerated
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Habit, OddServer

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]


class Hub:
    """As much of the hub as serves one file."""

    def __init__(self, data: bytes) -> None:
        self.agents: list[str] = []
        self._size = len(data)
        self._lines = (f'ETag: "{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit: " + "a" * 40)
        self._file = File(data, etag=None, lines=self._lines)

    def __call__(self, exchange: Exchange) -> None:
        if exchange.method == "HEAD":
            exchange.head(200, f"Content-Length: {self._size}", "Accept-Ranges: bytes", *self._lines)
            return
        self.agents.append(exchange.headers.get("user-agent", ""))
        self._file(exchange)


def test_a_model_is_downloaded_over_many_connections(odd: Serve, tmp_path: Path) -> None:
    data = content(24 * MIB)
    hub = Hub(data)
    server = odd(hub)
    original = file_download.http_get
    with accelerated(connections=4):
        path = hf_hub_download("some/model", "weights.bin", endpoint=server.url, cache_dir=tmp_path, token=False)
    assert Path(path).read_bytes() == data
    assert len(hub.agents) > 4
    assert len({exchange.number for exchange in server.exchanges if exchange.method == "GET"}) > 1
    assert file_download.http_get is original


def test_outside_of_the_block_nothing_is_changed(odd: Serve, tmp_path: Path) -> None:
    data = content(MIB)
    hub = Hub(data)
    with pytest.raises(RuntimeError, match="ours"), accelerated():
        raise RuntimeError("ours")
    path = hf_hub_download("some/model", "weights.bin", endpoint=odd(hub).url, cache_dir=tmp_path, token=False)
    assert Path(path).read_bytes() == data
    assert not any("fastidm" in agent for agent in hub.agents)
