"""What a running download looks like: lines of text made from a `Board`.

Rules of this module: pure functions. No line is wider than it was told, and nothing that a server chose can move the cursor: it
passes through `printable`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastidm.errors import printable
from fastidm.events import Finished, Progress

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
    parts = [f"{amount(event.size)} in {_seconds(event.seconds)}"]
    if event.received:
        parts.append(f"{amount(event.rate)}/s")
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
    names = [clean(view.name, unicode) for view, _, _ in rows]
    mapped = any(with_map for _, _, with_map in rows)
    widest = max(width(name) for name, row in zip(names, rows, strict=True) if row[2] or not mapped)
    least = min(widest, max(8, columns // 4, columns - (90 if mapped else 68)))
    last = min(width(names[-1]), columns // 2) if mapped else 0  # the total, which has the map's room too
    rights: list[str] = []
    span = cells = 0
    for level in range(LEVELS):  # leave out more and more, until the names have room
        rights = ["  ".join(figures_of(view, level)) for view, _, _ in rows]
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
            figures = figures_of(view, LEVELS - 2)[:2] if view.started else []
            right = "  ".join([*figures, clean(notice, unicode)])
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


def figures_of(view: TaskView, level: int) -> list[str]:
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


def clean(text: str, unicode: bool) -> str:
    text = text if text.isprintable() else printable(text)
    return text if unicode else text.encode("ascii", "backslashreplace").decode("ascii")
