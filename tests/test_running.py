"""One task: what happens between its machine and the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fastidm.core import checkpoints
from fastidm.core.phase import Phase
from fastidm.events import DownloadStatus
from fastidm.options import Options
from fastidm.queue import Queue
from fastidm.storage.target import Target
from tests.support.content import content
from tests.support.servers import Nginx, wait_until


def test_nothing_is_published_after_a_checkpoint_has_failed(
    tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint fails when the last byte has come, and the rename already waits for its turn at the disk."""
    with Queue() as manager:
        options = Options(directory=str(tmp_path), limit_rate=10_000_000)
        task = manager.add(nginx.add("poisoned.bin", content(3_000_000)), options)

        def checkpoint(target: Target, rows: bytes) -> None:
            assert task._running is not None
            machine = task._running.machine
            wait_until(lambda: machine.phase is Phase.FINISHING, "the last byte")
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(Target, "checkpoint", checkpoint)
        monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
        manager.run()
    assert task.status is DownloadStatus.FAILED
    assert task.error is not None
    assert task.error.exit_code == 10
    assert not (tmp_path / "poisoned.bin").exists()
