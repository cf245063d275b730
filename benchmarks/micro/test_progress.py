"""Drawing the live block, which happens ten times a second in the thread that receives."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest

from fastidm.cli.drawing import Board, TaskView, draw
from fastidm.cli.progress import LiveReporter
from fastidm.events import Progress

SIZE = 1 << 30


def progress(segments: int, behind: int = 0) -> Progress:
    share = SIZE // segments
    rows = tuple((n * share, (n + 1) * share, n * share + share // 2 - behind) for n in range(segments))
    return Progress("https://example.org/big.iso", "big.iso", SIZE, SIZE // 2, 1e8, 5.0, min(segments, 16), rows)


@pytest.mark.parametrize("segments", [16, 128])
def test_draw(benchmark: Any, segments: int) -> None:
    view = TaskView("big.iso")
    view.update(progress(segments, 4096), 0.0)
    view.update(progress(segments), 0.1)
    assert benchmark(draw, Board([view]), 99, True, True)


def test_event_and_redraw(benchmark: Any) -> None:
    """The whole way: an event comes in, escape sequences go out."""
    reporter = LiveReporter(StringIO(), True, True, iter(range(1 << 40)).__next__, {})  # a clock that makes each event due
    reporter.begin(["https://example.org/big.iso"], None)
    benchmark(reporter.event, 1, progress(16))
