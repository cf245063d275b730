"""What a user is shown while a download runs: a live block on a terminal, plain lines elsewhere.

Rules of this module:

* `cli.drawing` makes the lines; the reporters here only write them, each to one stream.
* The live block needs no cleaning up when the process is killed: the cursor rests on the free line below it.
* Output never stops a download: a terminal that hung up, or a reader that went away, is written to no more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

from fastidm.cli.drawing import Board, TaskView, clean, draw, figures_of, summary, width
from fastidm.cli.reporter import Reporter
from fastidm.errors import redact
from fastidm.events import Event, Failed, Finished, Progress, Retrying, Started

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import TextIO

DRAW_INTERVAL = 0.1
PLAIN_INTERVAL = 5.0
NOTICE_TIME = 3.0
"""Seconds for which a retry is shown in the live block, at least."""


class _Views(Reporter):
    """What the two reporters for people have in common: a view of every task, and the summary line."""

    def __init__(self, stream: TextIO, unicode: bool, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream, clock)
        self.unicode = unicode
        self.views: dict[int, TaskView] = {}

    def begin(self, urls: Sequence[str], output: str | None) -> None:
        self.views = {number: TaskView(_name(url, output)) for number, url in enumerate(urls, 1)}

    def event(self, number: int, event: Event) -> None:
        view = self.views.get(number)
        if view is None:
            return
        if isinstance(event, Progress):
            view.update(event, self.clock())
            self.moved(number, view)
        elif isinstance(event, Started):
            view.started, view.size, view.received = True, event.size, event.resumed
            view.name = os.path.basename(event.path)
            self.moved(number, view)
        elif isinstance(event, Retrying):
            self.retrying(number, view, event)
        elif isinstance(event, Finished | Failed):
            del self.views[number]
            self.ended(event)

    def moved(self, number: int, view: TaskView) -> None:
        """Task `number` went on."""

    def retrying(self, number: int, view: TaskView, event: Retrying) -> None:
        """Task `number` tries something again."""

    def ended(self, event: Finished | Failed) -> None:
        """A task is over. A failure is said by whoever turns it into an exit code."""
        if isinstance(event, Finished):
            self.say(clean(summary(event, _shown_path(event.path)), self.unicode))


class PlainReporter(_Views):
    """For logs and pipes: a line every few seconds for each task, and the summary line."""

    def __init__(self, stream: TextIO, unicode: bool, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream, unicode, clock)
        self._due: dict[int, float] = {}
        self._retried: dict[int, float] = {}

    def begin(self, urls: Sequence[str], output: str | None) -> None:
        super().begin(urls, output)
        self._due = dict.fromkeys(self.views, self.clock() + PLAIN_INTERVAL)

    def moved(self, number: int, view: TaskView) -> None:
        now = self.clock()
        if now < self._due[number] or not view.started:
            return
        self._due[number] = now + PLAIN_INTERVAL
        figures = "  ".join(figure.strip() for figure in figures_of(view, 0))
        self.write(f"{clean(view.name, self.unicode)}  {figures}\n")

    def retrying(self, number: int, view: TaskView, event: Retrying) -> None:
        now = self.clock()
        if now - self._retried.get(number, -60.0) < 1.0:  # sixteen connections that fail together are one piece of news
            return
        self._retried[number] = now
        self.write(clean(f"{view.name}  {_retry_text(event)}", self.unicode) + "\n")


class LiveReporter(_Views):
    """For a terminal: the live block, redrawn in place."""

    def __init__(
        self,
        stream: TextIO,
        unicode: bool,
        colour: bool,
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        super().__init__(stream, unicode, clock)
        self.colour = colour
        self.board = Board(tasks=0)
        self._reflows = _reflows(environment)
        self._drawn: list[str] = []
        self._columns = 0
        self._due = 0.0
        self._closed = False
        self._notices: dict[int, float] = {}

    def begin(self, urls: Sequence[str], output: str | None) -> None:
        super().begin(urls, output)
        self.board.tasks = len(urls)
        self.redraw()

    def moved(self, number: int, view: TaskView) -> None:
        now = self.clock()
        if now >= self._due:
            # From when it was due rather than from now: else events that come a little early would halve the rate.
            self._due = max(self._due, now - DRAW_INTERVAL / 5) + DRAW_INTERVAL
            self.redraw()

    def retrying(self, number: int, view: TaskView, event: Retrying) -> None:
        view.notice = _retry_text(event)
        self._notices[number] = self.clock() + max(NOTICE_TIME, min(event.delay, 30.0))
        self.moved(number, view)

    def ended(self, event: Finished | Failed) -> None:
        if isinstance(event, Finished):
            self.board.done += 1
            self.board.finished_bytes += event.size
        else:
            self.board.failed += 1
        super().ended(event)

    def say(self, line: str) -> None:
        self.redraw(line + "\n")

    def forget(self) -> None:
        self._drawn = []

    def close(self) -> None:
        self._closed = True
        self.redraw()

    def redraw(self, above: str = "") -> None:
        """Draw the block anew, below the lines of `above`, which stay."""
        now = self.clock()
        for number in [n for n, until in self._notices.items() if now >= until]:
            del self._notices[number]
            if number in self.views:
                self.views[number].notice = ""
        columns, rows = self._terminal()
        lines = []
        if not self._closed and self._in_foreground():
            self.board.running = list(self.views.values())
            self.board.rows = max(1, rows - 2)
            self.board.stopping = self.stopping
            # One column stays free: after a letter in the last one, terminals differ in what ESC[K erases.
            lines = draw(self.board, max(1, columns - 1), self.unicode, self.colour)
        up = sum(self._height(line, columns) for line in self._drawn)
        self._drawn = lines
        if not (lines or above or up):
            return
        text = f"\r\x1b[{up}A" if up else ""
        # Lines are overwritten, which flickers less than erasing. Not after a resize: a terminal that has wrapped a line
        # remembers it, and would join it to the next one at the next resize.
        if up and (above or not lines or columns != self._columns):
            text += "\x1b[J"
        text += above
        self._columns = columns
        if lines:
            # ?7l: should the terminal shrink in this very moment, lines are cut and not wrapped.
            text += "\x1b[?7l" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J\x1b[?7h"
        self.write(text)

    def _height(self, line: str, columns: int) -> int:
        """Rows that a drawn line takes now: a terminal that became narrower has wrapped it."""
        if not self._reflows:
            return 1
        text = "".join(part.partition("m")[2] if n else part for n, part in enumerate(line.split("\x1b[")))
        return max(1, -(-width(text) // max(1, columns)))

    def _terminal(self) -> tuple[int, int]:
        try:
            columns, rows = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return columns or 80, rows or 24

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self.stream.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True


def _reflows(environment: Mapping[str, str]) -> bool:
    """Whether the terminal wraps lines anew when it becomes narrower. Most do; these few cut them off."""
    if "TMUX" in environment:
        return True
    term = environment.get("TERM", "")
    return not ("XTERM_VERSION" in environment or "STY" in environment or term.startswith(("linux", "rxvt", "screen")))


def _name(url: str, output: str | None) -> str:
    """What to call a task before its answer says it."""
    if output:
        return os.path.basename(output)
    path = redact(url).partition("?")[0].partition("#")[0].rstrip("/")
    return path.rpartition("/")[2] or path


def _shown_path(path: str) -> str:
    try:
        return path.removeprefix(os.getcwd().rstrip("/") + "/")
    except OSError:  # this folder is gone
        return path


def _retry_text(event: Retrying) -> str:
    if event.failures == 0:  # nobody's failure, and no waiting
        return event.reason
    return f"retry {event.failures} in {event.delay:.1f} s: {event.reason}"
