"""What a user sees of a running download: a live block on a terminal, plain lines elsewhere.

Rules of this module:

* Drawing is pure: `draw` makes lines of text from a `Board`; only the reporters below it write, each to one stream.
* No line is wider than it was told, and nothing that a server chose can move the cursor: it passes through `printable`.
* The live block needs no cleaning up when the process is killed: the cursor rests on the free line below it.
* Output never stops a download: a terminal that hung up, or a reader that went away, is written to no more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from fastidm.errors import printable, redact
from fastidm.events import Event, Failed, Finished, Progress, Retrying, Started

DRAW_INTERVAL = 0.1
PLAIN_INTERVAL = 5.0
NOTICE_TIME = 3.0
"""Seconds for which a retry is shown in the live block, at least."""
ACTIVE_TIME = 1.0
"""Seconds for which a segment counts as active after its position moved."""

LEVELS = 7
"""How many steps there are between all figures on a line and one."""
EIGHTHS = " ▏▎▍▌▋▊▉█"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class TaskView:
    """What is shown of one task."""

    def __init__(self, name: str, size: int | None = None, received: int = 0, *, started: bool = False) -> None:
        self.name = name
        self.size = size
        self.received = received
        self.started = started
        self.rate = 0.0
        self.eta: float | None = None
        self.connections = 0
        self.segments: tuple[tuple[int, int, int], ...] = ()
        self.active: frozenset[int] = frozenset()
        """Positions that moved lately."""
        self.notice = ""
        """The last retry, for as long as it is news."""
        self.beats = 0
        """Updates that brought bytes: what moves the marker of a file of unknown size."""
        self._seen: dict[int, tuple[int, float]] = {}

    def update(self, event: Progress, now: float) -> None:
        """Take over the figures of `event`, at monotonic time `now`."""
        if event.path is not None:
            self.name = os.path.basename(event.path)
        self.beats += event.received != self.received
        self.started = self.started or event.path is not None or event.received > 0
        self.size, self.received, self.rate, self.eta = event.size, event.received, event.rate, event.eta
        self.connections, self.segments = event.connections, event.segments
        seen, active = {}, []
        for start, stop, position in event.segments:
            before, moved = self._seen.get(start, (position, -ACTIVE_TIME))
            if before != position:
                moved = now
            seen[start] = position, moved
            if now - moved < ACTIVE_TIME and position < stop:
                active.append(position)
        self._seen, self.active = seen, frozenset(active)


class Board:
    """All that the live block shows. Parameters: `running`, the tasks that have not ended; `tasks`, how many there are."""

    def __init__(self, running: Sequence[TaskView] = (), tasks: int = 1) -> None:
        self.running = running
        self.tasks = tasks
        self.done = 0
        self.failed = 0
        self.finished_bytes = 0
        self.stopping = False
        self.rows = 24
        """Rows that the block may take."""


def draw(board: Board, columns: int, unicode: bool, colour: bool) -> list[str]:
    """The live block, no line wider than `columns`: one task in two lines; several in one line each, and a total."""
    if board.tasks == 1:
        lines = []
        for view in board.running[:1]:
            lines = _table([(view, _notice(board, view), False)], columns, unicode, colour)
            if view.started:
                lines.append(draw_map(view, columns, unicode, colour))
        return lines[: max(1, board.rows)]
    shown = [view for view in board.running if view.started][: max(0, board.rows - 1)]
    rows = [(view, _notice(board, view), columns >= 40) for view in shown]
    return _table([*rows, _total(board, len(shown))], columns, unicode, colour)


def draw_map(view: TaskView, cells: int, unicode: bool, colour: bool) -> str:
    """The whole file as one row of cells: each shows how much of its part is there, and where bytes arrive."""
    size = view.size
    if size is None:
        return _marker(view, cells, unicode, colour)
    if size == 0:
        return _paint(("█" if unicode else "#") * cells, "36", colour)
    # In units of 1/cells byte a cell is exactly `size` long: no rounding, a cell is full when its last byte is there.
    filled = [0] * cells
    for start, _, position in view.segments:
        begin, end = max(0, start) * cells, min(position, size) * cells
        if end <= begin:
            continue
        first, last = begin // size, (end - 1) // size
        if first == last:
            filled[first] += end - begin
        else:
            filled[first] += (first + 1) * size - begin
            filled[last] += end - last * size
            filled[first + 1 : last] = [size] * (last - first - 1)
    fronts = {position * cells // size for position in view.active}
    row: list[str] = []
    run: list[str] = []
    style = ""
    for cell, amount in enumerate(filled):
        if cell in fronts:
            glyph = EIGHTHS[max(1, min(8, amount * 8 // size))] if unicode else ">"
            wanted = "1;35"
        elif amount >= size:
            glyph, wanted = ("█" if unicode else "#"), "36"
        elif amount > 0:
            glyph = EIGHTHS[max(1, amount * 8 // size)] if unicode else ("=" if amount * 2 >= size else "-")
            wanted = "36"
        else:
            glyph, wanted = ("░" if unicode else "."), "90"
        if wanted != style and run:
            row.append(_paint("".join(run), style, colour))
            run = []
        style = wanted
        run.append(glyph)
    row.append(_paint("".join(run), style, colour))
    return "".join(row)


def summary(event: Finished, name: str) -> str:
    """The one line that stays: `name  256.0 MiB in 4.1 s, 62.4 MiB/s, ...` with only what applies."""
    parts = [f"{amount(event.size)} in {_seconds(event.seconds)}", f"{amount(event.rate)}/s"]
    if event.connections > 1:
        parts.append(f"{event.connections} connections")
    if event.resumed and event.size:
        parts.append(f"resumed at {event.resumed * 100 // event.size} %")
    if event.retries:
        parts.append(f"{event.retries} retries" if event.retries > 1 else "1 retry")
    if event.length_unverified:
        parts.append("length not verified (the server gave none)")
    if event.checksum:
        parts.append(f"{printable(event.checksum)} verified")
    return f"{printable(name)}  {', '.join(parts)}"


def amount(count: float, unit: str = "") -> str:
    """`count` bytes for reading: "62.4 MiB". Parameters: `unit`, one of `UNITS` to use in any case."""
    size, step = float(count), 0
    while unit != UNITS[step] and (unit or size >= 999.95) and step < len(UNITS) - 1:
        size, step = size / 1024, step + 1
    return f"{size:.0f} B" if step == 0 else f"{size:.{2 if step > 2 else 1}f} {UNITS[step]}"


def duration(seconds: float | None) -> str:
    """Time left for reading: "0:58", "1:02:03", "2 d 3 h"; "--:--" when it is not known."""
    if seconds is None or not 0 <= seconds < 8_640_000:
        return "--:--"
    minutes, second = divmod(int(seconds + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def width(text: str) -> int:
    """Columns that `text` takes on a terminal: East Asian wide letters take two, combining marks none."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    columns = 0
    for c in text:
        if c == "\ufe0f":  # turns the character before it into a wide emoji
            columns += 1
        elif category(c) not in ("Mn", "Me"):
            columns += 2 if east_asian_width(c) in "WF" else 1
    return columns


def shorten(text: str, columns: int, unicode: bool = True) -> str:
    """`text` in at most `columns` columns: cut in the middle, as both ends of a file name matter."""
    if width(text) <= columns:
        return text
    if columns < 4:
        return _cut(text, columns)
    tail_columns = (columns - 1) // 2
    tail = len(text)
    while tail > 0 and width(text[tail - 1 :]) <= tail_columns:
        tail -= 1
    while tail < len(text) and width(text[tail]) == 0:  # a mark without its letter would join the ellipsis
        tail += 1
    end = text[tail:]
    return _cut(text, columns - 1 - width(end)) + ("…" if unicode else "~") + end


def _end(text: str, columns: int, unicode: bool) -> str:
    """`text` in at most `columns` columns, cut at its end."""
    return text if width(text) <= columns else _cut(text, columns - 1) + ("…" if unicode else "~")


def _cut(text: str, columns: int) -> str:
    used = 0
    for index, c in enumerate(text):
        used += width(c)
        if used > columns:
            return text[:index]
    return text


def _total(board: Board, shown: int) -> tuple[TaskView, str, bool]:
    started = [view for view in board.running if view.started]
    name = f"{board.done} of {board.tasks} files"
    if len(started) > shown:
        name += f", {len(started) - shown} more running"
    if board.failed:
        name += f", {board.failed} failed"
    total = TaskView(name, board.finished_bytes, board.finished_bytes, started=True)
    for view in started:
        total.received += view.received
        total.rate += view.rate
        total.connections += view.connections
        total.size = None if total.size is None or view.size is None else total.size + view.size
    if len(started) < len(board.running):  # how large the others are is not known yet
        total.size = None
    if total.size is not None and total.rate >= 1:
        total.eta = (total.size - total.received) / total.rate
    notice = "stopping" if board.stopping else "" if started or board.done or board.failed else "connecting"
    return total, notice, False


def _notice(board: Board, view: TaskView) -> str:
    if board.stopping:
        return "stopping"
    if view.notice or not view.started:
        return view.notice or "connecting"
    return "finishing" if view.size is not None and view.received >= view.size else ""


def _table(rows: list[tuple[TaskView, str, bool]], columns: int, unicode: bool, colour: bool) -> list[str]:
    """A line for each (view, notice, whether with a small map): names to the left, figures to the right, in columns."""
    names = [_clean(view.name, unicode) for view, _, _ in rows]
    mapped = any(with_map for _, _, with_map in rows)
    widest = max(width(name) for name, row in zip(names, rows, strict=True) if row[2] or not mapped)
    least = min(widest, max(8, columns // 4, columns - (90 if mapped else 68)))
    last = min(width(names[-1]), columns // 2) if mapped else 0  # the total, which has the map's room too
    rights: list[str] = []
    span = cells = 0
    for level in range(LEVELS):  # leave out more and more, until the names have room
        rights = ["  ".join(_figures(view, level)) for view, _, _ in rows]
        span = max(map(len, rights))
        cells = columns // 5 if mapped and level <= 2 else 0
        room = columns - span - 2
        if room - (cells + 2 if cells else 0) >= least and room >= last:
            break
    span = min(span, columns)
    if cells:  # what the names do not need is the map's
        cells = columns - span - 4 - min(widest, columns - span - cells - 4)
    lines = []
    for (view, notice, with_map), name, right in zip(rows, names, rights, strict=True):
        style = ""
        if notice:
            figures = _figures(view, LEVELS - 2)[:2] if view.started else []
            right = "  ".join([*figures, _clean(notice, unicode)])
            right = _end(right, span if mapped else max(span, columns - least - 2), unicode)
            style = "33"
        right = " " * (span - width(right)) + _cut(right, columns)
        bar = "  " + draw_map(view, cells, unicode, colour) if with_map and cells else ""
        room = columns - width(right) - 2 - (cells + 2 if bar else 0)
        left = ""
        if room > 0:
            name = shorten(name, room, unicode) if with_map or not mapped else _end(name, room, unicode)
            left = _paint(name, "1", colour) + " " * (room - width(name)) + bar + "  "
        lines.append(left + _paint(right, style, colour))
    return lines


def _figures(view: TaskView, level: int) -> list[str]:
    """What stands at the right of a line: all that there is at level 0, one figure at the last level."""
    known = view.size is not None
    figures = [_percent(view)] if known else [_size(view)]
    if known and level <= 1:
        figures.append(_size(view))
    if level <= 5:
        figures.append(f"{amount(view.rate) + '/s':>11}")
    if known and level <= 4:
        figures.append(f"{duration(view.eta):>5} left")
    if level == 0:
        figures.append(f"{view.connections:>2} connection{'s' if view.connections != 1 else ' '}")
    elif level <= 3:
        figures.append(f"{view.connections:>2} conn")
    return figures


def _percent(view: TaskView) -> str:
    # Rounded down: 100.0 % is said when the last byte is there, not before.
    thousandths = min(1000, view.received * 1000 // view.size) if view.size else 1000
    return f"{thousandths / 10:5.1f} %"


def _size(view: TaskView) -> str:
    if view.size is None:
        return f"{amount(view.received):>9}"
    whole = amount(view.size)
    number, _, unit = whole.partition(" ")
    return f"{amount(view.received, unit).partition(' ')[0]:>{len(number)}}/{whole}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _marker(view: TaskView, cells: int, unicode: bool, colour: bool) -> str:
    """How far nobody knows: a block that walks to and fro while bytes arrive."""
    if cells < 1:
        return ""
    length = min(cells, max(3, cells // 10))
    way = cells - length
    step = view.beats % (2 * way) if way else 0
    at = min(step, 2 * way - step)
    empty, full = ("░", "█") if unicode else (".", "#")
    before, after = _paint(empty * at, "90", colour), _paint(empty * (way - at), "90", colour)
    return before + _paint(full * length, "36", colour) + after


def _paint(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if colour and style and text else text


def _clean(text: str, unicode: bool) -> str:
    text = text if text.isprintable() else printable(text)
    return text if unicode else text.encode("ascii", "backslashreplace").decode("ascii")


class Reporter:
    """Says nothing but what has to be said (`--quiet`); the others add to it. All of them write to `stream`."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.clock = clock
        self.stopping = False
        """Set once the user asked to stop, for whoever shows it."""

    def begin(self, urls: Sequence[str], output: str | None) -> None:
        """These tasks, with the numbers 1, 2, ..., are about to begin; `output` is the path if the user chose one."""

    def event(self, number: int, event: Event) -> None:
        """Task `number` sent `event`."""

    def say(self, line: str) -> None:
        """Show `line` in any case, whole and alone on its line."""
        self.write(line + "\n")

    def forget(self) -> None:
        """What was shown is no longer where it was: the process was suspended, and the shell wrote."""

    def close(self) -> None:
        """Nothing more will come: leave the terminal as a shell expects it."""

    def write(self, text: str) -> None:
        """Write `text` at once; a stream that fails is not an error of the download."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            pass


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
        else:
            del self.views[number]
            self.ended(event)

    def moved(self, number: int, view: TaskView) -> None:
        """Task `number` went on."""

    def retrying(self, number: int, view: TaskView, event: Retrying) -> None:
        """Task `number` tries something again."""

    def ended(self, event: Finished | Failed) -> None:
        """A task is over. A failure is said by whoever turns it into an exit code."""
        if isinstance(event, Finished):
            self.say(_clean(summary(event, _shown_path(event.path)), self.unicode))


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
        figures = "  ".join(figure.strip() for figure in _figures(view, 0))
        self.write(f"{_clean(view.name, self.unicode)}  {figures}\n")

    def retrying(self, number: int, view: TaskView, event: Retrying) -> None:
        now = self.clock()
        if now - self._retried.get(number, -60.0) < 1.0:  # sixteen connections that fail together are one piece of news
            return
        self._retried[number] = now
        self.write(_clean(f"{view.name}  {_retry_text(event)}", self.unicode) + "\n")


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
    return f"retry {event.failures} in {event.delay:.1f} s: {event.reason}"
