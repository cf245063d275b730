"""What is drawn, as text: right figures, right width, nothing that a server could smuggle into a terminal."""

from __future__ import annotations

import io
import itertools
import os
import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastidm.cli.drawing import Board, TaskView, amount, draw, draw_map, duration, shorten, summary, width
from fastidm.cli.progress import LiveReporter, PlainReporter
from fastidm.events import Failed, Finished, Progress, Retrying, Started

MIB = 1 << 20
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
URL = "https://example.com/file.iso"


def progress(
    received: int = 64 * MIB, size: int | None = 256 * MIB, *, path: str | None = "/d/file.iso", **other: object
) -> Progress:
    fields: dict[str, object] = {"rate": 8.0 * MIB, "eta": 24.0, "connections": 16, "segments": ()}
    return Progress(url=URL, path=path, size=size, received=received, **(fields | other))  # type: ignore[arg-type]


def finished(**other: object) -> Finished:
    fields: dict[str, object] = {
        "url": URL, "path": "/d/file.iso", "size": 256 * MIB, "seconds": 4.1, "rate": 62.4 * MIB, "received": 256 * MIB,
        "resumed": 0, "connections": 16, "retries": 0, "checksum": None, "length_unverified": False,
        "final_url": "http://server.test/f", "validator": None,
    }  # fmt: skip
    return Finished(**(fields | other))  # type: ignore[arg-type]


def view(*events: Progress, name: str = "file.iso", step: float = 0.1) -> TaskView:
    made = TaskView(name)
    for number, event in enumerate(events):
        made.update(event, number * step)
    return made


def drawn(*views: TaskView, columns: int = 100, unicode: bool = True, colour: bool = False) -> list[str]:
    return draw(Board(views, tasks=max(1, len(views))), columns, unicode, colour)


def independent_width(text: str) -> int:
    """Columns as a terminal counts them, written apart from the code under test."""
    letters = [c for c in text if unicodedata.category(c) not in ("Mn", "Me")]
    return len(letters) + sum(unicodedata.east_asian_width(c) in ("W", "F") for c in letters)


# --- one task ---


def test_one_task_is_a_line_of_figures_and_a_map() -> None:
    top, cells = drawn(view(progress()), columns=90)
    assert top == "file.iso                  25.0 %   64.0/256.0 MiB    8.0 MiB/s   0:24 left  16 connections"
    assert cells == "░" * 90


def test_less_room_leaves_out_the_less_important() -> None:
    running = view(progress())
    assert "16 conn" in drawn(running, columns=80)[0]
    assert "64.0/256.0 MiB" not in drawn(running, columns=60)[0]
    assert "0:24 left" in drawn(running, columns=50)[0]
    assert "8.0 MiB/s" in drawn(running, columns=36)[0]
    assert drawn(running, columns=20)[0] == "file.iso      25.0 %"


def test_the_percentage_is_100_only_when_all_is_there() -> None:
    assert " 99.9 %" in drawn(view(progress(256 * MIB - 1)))[0]
    assert "100.0 %" in drawn(view(progress(256 * MIB)))[0]
    assert "finishing" in drawn(view(progress(256 * MIB)))[0]
    assert "100.0 %" in drawn(view(progress(0, 0)))[0]


def test_before_the_first_answer_it_is_connecting() -> None:
    for waiting in (TaskView("file.iso"), view(progress(0, None, path=None, rate=0.0, eta=None, connections=0))):
        assert [line.split() for line in drawn(waiting)] == [["file.iso", "connecting"]]


def test_an_unknown_size_has_a_marker_that_walks_only_while_bytes_arrive() -> None:
    events = [progress(MIB * n, None) for n in (1, 2, 3, 3, 3)]
    rows = [drawn(view(*events[: n + 1]), columns=60)[1] for n in range(len(events))]
    assert len(set(rows)) == 3
    assert rows[2] == rows[3] == rows[4]
    top = drawn(view(events[0]), columns=80)[0]
    assert "1.0 MiB" in top
    assert "%" not in top
    assert "left" not in top


def test_a_long_name_keeps_both_its_ends() -> None:
    top = drawn(view(progress(path="/d/a-very-long-name-of-a-disk-image-for-everybody.iso")), columns=60)[0]
    assert re.match(r"a-very\S*…\S*\.iso ", top)


# --- the map ---


def test_every_cell_shows_how_full_its_part_is() -> None:
    segments = ((0, 100, 50), (100, 200, 200), (200, 300, 200), (300, 400, 301))
    assert draw_map(view(progress(151, 400, segments=segments)), 4, True, False) == "▌█░▏"
    assert draw_map(view(progress(151, 400, segments=segments)), 4, False, False) == "=#.-"


def test_a_cell_is_full_only_with_its_last_byte() -> None:
    size = 1 << 40
    almost = view(progress(size - 1, size, segments=((0, size, size - 1),)))
    assert draw_map(almost, 50, True, False) == "█" * 49 + "▉"
    assert draw_map(view(progress(size, size, segments=((0, size, size),))), 50, True, False) == "█" * 50


def test_a_file_smaller_than_the_map_is_drawn_too() -> None:
    assert draw_map(view(progress(1, 3, segments=((0, 3, 1),))), 9, True, False) == "███░░░░░░"
    assert draw_map(view(progress(0, 0)), 5, True, False) == "█████"


def test_where_bytes_arrive_is_highlighted() -> None:
    first = progress(100, 800, segments=((0, 400, 100), (400, 800, 400)))
    second = progress(150, 800, segments=((0, 400, 150), (400, 800, 400)))
    assert draw_map(view(first), 8, False, False) == "#......."
    assert draw_map(view(first, second), 8, False, False) == "#>......"
    assert "\x1b[1;35m▌" in draw_map(view(first, second), 8, True, True)
    assert draw_map(view(first, second, second, second, step=0.6), 8, False, False) == "#=......", "it rests for over a second"


def test_ascii_is_ascii_and_colours_come_only_when_wanted() -> None:
    running = view(progress(segments=((0, 256 * MIB, 64 * MIB),), path="/d/größe-漢字.iso"))
    assert all(line.isascii() for line in drawn(running, unicode=False))
    assert "gr\\xf6\\xdfe" in drawn(running, unicode=False)[0]
    assert "\x1b" not in "".join(drawn(running))
    coloured = drawn(running, colour=True)
    assert all("\x1b[" in line for line in coloured)
    assert [COLOUR.sub("", line) for line in coloured] == drawn(running)


# --- several tasks ---


def test_several_tasks_are_a_line_each_in_columns_and_a_total() -> None:
    lines = drawn(view(progress(64 * MIB, 256 * MIB, path="/d/a.iso")), view(progress(0, 768 * MIB, path="/d/long-name.iso")))
    assert len(lines) == 3
    assert {len(line) for line in lines} == {100}
    assert lines[0].index("░") == lines[1].index("░")
    assert lines[2].startswith("0 of 2 files  ")
    assert "  6.2 %" in lines[2]
    assert "16.0 MiB/s" in lines[2]
    assert "1:00 left" in lines[2]


def test_a_low_terminal_shows_as_many_tasks_as_fit() -> None:
    board = Board([view(progress(path=f"/d/{n}")) for n in range(9)], tasks=12)
    board.rows, board.done, board.failed = 4, 2, 1
    lines = draw(board, 100, True, False)
    assert len(lines) == 4
    assert lines[-1].startswith("2 of 12 files, 6 more running, 1 failed ")


def test_the_total_names_no_size_while_one_is_unknown() -> None:
    waiting = drawn(view(progress()), TaskView("b"))
    assert len(waiting) == 2
    assert "%" not in waiting[-1]
    assert "connecting" in drawn(TaskView("a"), TaskView("b"))[-1]


# --- any state ---


names = st.one_of(
    st.text(max_size=80),
    st.text("漢字ファイル", max_size=60),
    st.text("e\u0301\u0301\u0301", max_size=60),
    st.text("❤\ufe0f🏳", max_size=30),
    st.text("\x1b[2J\n\r\u202e\u200b\udcff", max_size=30),
)


@st.composite
def views(make: st.DrawFn) -> TaskView:
    size = make(st.one_of(st.none(), st.integers(0, 1 << 62)))
    cuts = make(st.lists(st.integers(0, size or 0), max_size=20).map(sorted)) if size else []
    edges = [0, *cuts, size or 0]
    segments = tuple((a, b, make(st.integers(a, b))) for a, b in itertools.pairwise(edges))
    made = TaskView(make(names))
    for _ in range(make(st.integers(0, 2))):
        path, received = make(st.one_of(st.none(), names)), make(st.integers(0, size or 1 << 62))
        rate, eta = make(st.floats(0, 1e15)), make(st.one_of(st.none(), st.floats()))
        event = Progress(URL, path, size, received, rate, eta, make(st.integers(0, 128)), segments)
        made.update(event, make(st.floats(0, 9)))
    made.notice = make(st.one_of(st.just(""), names))
    return made


@given(st.lists(views(), min_size=1, max_size=4), st.integers(1, 200), st.booleans(), st.booleans(), st.booleans())
def test_no_line_is_too_wide_or_moves_the_cursor(
    running: list[TaskView], columns: int, unicode: bool, colour: bool, stopping: bool
) -> None:
    board = Board(running, len(running))
    board.stopping = stopping
    lines = draw(board, columns, unicode, colour)
    assert lines
    for line in lines:
        plain = COLOUR.sub("", line) if colour else line
        assert plain.isprintable()
        assert independent_width(plain) <= columns
        assert unicode or plain.isascii()


@given(st.text(), st.integers(0, 40))
def test_shortened_text_fits(text: str, columns: int) -> None:
    short = shorten(text, columns)
    assert width(short) <= columns
    assert short == text or width(text) > columns


# --- words and numbers ---


def test_a_summary_says_only_what_applies() -> None:
    assert summary(finished(), "file.iso") == "file.iso  256.0 MiB in 4.1 s, 62.4 MiB/s, 16 connections"
    assert (
        summary(finished(resumed=105 * MIB, retries=2, checksum="sha256:00ff", connections=1), "file.iso")
        == "file.iso  256.0 MiB in 4.1 s, 62.4 MiB/s, resumed at 41 %, 2 retries, sha256:00ff verified"
    )
    assert "length not verified" in summary(finished(length_unverified=True), "f")
    assert summary(finished(), "a\x1b[2J\nb").startswith("a\\x1b[2J\\nb  ")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1023, "1.0 KiB"), (1024, "1.0 KiB"), (256 * MIB, "256.0 MiB"),
     (999.9 * MIB, "999.9 MiB"), (1000 * MIB, "0.98 GiB"), (5 << 30, "5.00 GiB"), (1 << 62, "4.00 EiB")],
)  # fmt: skip
def test_amounts_read_well(count: float, text: str) -> None:
    assert amount(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "--:--"), (0, "0:00"), (58.4, "0:58"), (59.6, "1:00"), (3723, "1:02:03"), (183600, "2 d 3 h"),
     (float("inf"), "--:--"), (float("nan"), "--:--"), (-1, "--:--"), (1e9, "--:--")],
)  # fmt: skip
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_width_counts_columns_not_letters() -> None:
    assert [width(text) for text in ("abc", "漢字", "e\u0301", "ｱ", "Ａ")] == [3, 4, 1, 1, 2]


# --- the reporters ---


class Screen(io.StringIO):
    """A terminal that understands what the live block uses, and wraps its lines anew when it is resized.

    As real ones do, it remembers of a row that it continues in the next, until the row is erased.
    """

    def __init__(self, columns: int = 100, rows: int = 20, *, reflows: bool = True) -> None:
        super().__init__()
        self.columns, self.height, self.reflows = columns, rows, reflows
        self.lines, self.continues = [""], [False]
        self.row = self.column = 0
        self.wraps = True

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for code, argument, final, letter in re.findall(r"(\x1b\[([?\d;]*)([A-Za-z]))|(.|\n)", text):
            if code:
                self._control(argument, final)
            elif letter == "\n":
                self._next_row()
            elif letter == "\r":
                self.column = 0
            else:
                self._put(letter)
        return len(text)

    def _control(self, argument: str, final: str) -> None:
        if final == "A":
            self.row = max(0, self.row - int(argument))
        elif final == "J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            self.continues[self.row] = False
            del self.lines[self.row + 1 :], self.continues[self.row + 1 :]
        elif final == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif argument == "?7":
            self.wraps = final == "h"
        else:
            assert final == "m", f"unknown control sequence {argument}{final}"

    def _next_row(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.lines):
            self.lines.append("")
            self.continues.append(False)

    def _put(self, letter: str) -> None:
        if self.column == self.columns:
            assert self.wraps, "a line of the live block is wider than the terminal"
            self.continues[self.row] = True
            self._next_row()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
        self.column += 1

    def resize(self, columns: int) -> None:
        assert self.row == len(self.lines) - 1, "the cursor rests below the block"
        self.columns = columns
        if not self.reflows:
            self.lines = [line[:columns] for line in self.lines]
            return
        whole, joining = [], False
        for line, continues in zip(self.lines, self.continues, strict=True):
            if joining:
                whole[-1] += line
            else:
                whole.append(line)
            joining = continues
        self.lines, self.continues = [], []
        for line in whole:
            parts = [line[at : at + columns] for at in range(0, max(1, len(line)), columns)]
            self.lines += parts
            self.continues += [True] * (len(parts) - 1) + [False]
        self.row = len(self.lines) - 1

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen()
    monkeypatch.setattr(Screen, "fileno", lambda self: 99)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((made.columns, made.height)))
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


def live(screen: Screen, clock: Callable[[], float], term: str = "xterm") -> LiveReporter:
    return LiveReporter(screen, True, False, clock, {"TERM": term})


def test_the_live_block_is_redrawn_in_place_and_leaves_one_line(screen: Screen, clock: Clock) -> None:
    screen.write("$ fastidm\n")
    reporter = live(screen, clock)
    reporter.begin([URL], None)
    assert screen.shown[1].split() == ["file.iso", "connecting"]
    reporter.event(1, Started(URL, "/d/real.iso", 256 * MIB, 0, True))
    for n in range(20):
        clock.now += 0.1
        reporter.event(1, progress(n * MIB, path="/d/real.iso"))
        assert len(screen.shown) == 3
        assert screen.shown[1].startswith("real.iso ")
    assert " 7.4 %" in screen.shown[1]
    reporter.event(1, finished(path="/d/real.iso"))
    reporter.close()
    reporter.close()
    assert screen.shown == ["$ fastidm", "/d/real.iso  256.0 MiB in 4.1 s, 62.4 MiB/s, 16 connections"]
    assert (screen.row, screen.column, screen.wraps) == (2, 0, True)


def test_it_is_drawn_at_most_ten_times_a_second(screen: Screen, clock: Clock) -> None:
    reporter = live(screen, clock)
    reporter.begin([URL], None)
    drawings = []
    reporter.write = drawings.append  # type: ignore[method-assign]
    for n in range(1000):
        clock.now += 0.01
        reporter.event(1, progress(n))
    assert 95 <= len(drawings) <= 101


def test_events_a_little_early_are_still_drawn_ten_times_a_second(screen: Screen, clock: Clock) -> None:
    reporter = live(screen, clock)
    reporter.begin([URL], None)
    drawings = []
    reporter.write = drawings.append  # type: ignore[method-assign]
    for n in range(100):
        clock.now += 0.099
        reporter.event(1, progress(n))
    assert len(drawings) >= 95


@pytest.mark.parametrize("reflows", [True, False])
def test_a_resize_leaves_nothing_behind(screen: Screen, clock: Clock, reflows: bool) -> None:
    screen.reflows = reflows
    screen.write("$ fastidm\n")
    reporter = live(screen, clock, "xterm" if reflows else "linux")
    reporter.begin([URL], None)
    for columns in (100, 60, 20, 100, 35, 34, 200):
        screen.resize(columns)
        for _ in range(2):
            clock.now += 0.2
            reporter.event(1, progress())
            assert screen.shown[0] == "$ fastidm"
            assert len(screen.shown) == 3
            assert len(screen.lines[2]) == columns - 1
    reporter.close()
    assert screen.shown == ["$ fastidm"]


def test_summaries_and_errors_stand_above_the_block(screen: Screen, clock: Clock) -> None:
    reporter = live(screen, clock)
    urls = [f"https://example.com/{n}" for n in "abc"]
    reporter.begin(urls, None)
    for number in (1, 2, 3):
        clock.now += 0.2
        reporter.event(number, progress(path=f"/d/{number}"))
    reporter.event(2, finished(path="/d/2"))
    reporter.event(1, Failed(urls[0], "not_found", 3, "404", ""))
    reporter.say("fastidm: error: 404")
    first, second, third, total = screen.shown
    assert first.startswith("/d/2  256.0 MiB in")
    assert second == "fastidm: error: 404"
    assert third.startswith("3 ")
    assert total.startswith("1 of 3 files, 1 failed ")


def test_a_retry_is_shown_for_a_while(screen: Screen, clock: Clock) -> None:
    reporter = live(screen, clock)
    reporter.begin([URL], None)
    reporter.event(1, progress())
    clock.now += 1
    reporter.event(1, Retrying(URL, "503 Service Unavailable", 1.0, 2))
    assert "25.0 %    8.0 MiB/s  retry 2 in 1.0 s: 503 Service Unavailable" in screen.shown[0]
    clock.now += 10
    reporter.event(1, progress())
    assert "retry" not in screen.shown[0]
    assert "0:24 left" in screen.shown[0]


def test_stopping_is_said(screen: Screen, clock: Clock) -> None:
    reporter = live(screen, clock)
    reporter.begin([URL], None)
    reporter.stopping = True
    clock.now += 1
    reporter.event(1, progress())
    assert screen.shown[0].endswith("stopping")


def test_in_the_background_nothing_is_drawn_but_the_summary_is_written(
    screen: Screen, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
    reporter = live(screen, clock)
    reporter.begin([URL], None)
    clock.now += 1
    reporter.event(1, progress())
    assert screen.shown == []
    reporter.event(1, finished())
    assert len(screen.shown) == 1


def test_after_a_suspension_the_block_begins_below_what_the_shell_wrote(screen: Screen, clock: Clock) -> None:
    reporter = live(screen, clock)
    reporter.begin([URL], None)
    clock.now += 1
    reporter.event(1, progress())
    screen.write("[1]+  Stopped\n$ fg\n")
    reporter.forget()
    clock.now += 1
    reporter.event(1, progress())
    assert screen.shown[2:4] == ["[1]+  Stopped", "$ fg"]
    assert screen.shown[4].startswith("file.iso ")


def test_a_terminal_that_is_gone_is_no_error(clock: Clock) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    reporter = LiveReporter(Gone(), True, True, clock, {})
    reporter.begin([URL], None)
    reporter.event(1, progress())
    reporter.say("fastidm: error: x")
    reporter.close()


def test_off_a_terminal_there_is_a_line_every_five_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, True, clock)
    reporter.begin([URL], None)
    for n in range(121):
        clock.now += 0.1
        reporter.event(1, progress(n * MIB))
    reporter.event(1, finished())
    reporter.close()
    first, second, last = stream.getvalue().splitlines()
    assert re.fullmatch(r"file\.iso  \d+\.\d %  \d+\.\d/256\.0 MiB  8\.0 MiB/s  0:24 left  16 connections", first)
    assert first != second
    assert last == "/d/file.iso  256.0 MiB in 4.1 s, 62.4 MiB/s, 16 connections"


def test_off_a_terminal_retries_are_lines_but_not_a_flood(clock: Clock) -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, False, clock)
    reporter.begin(["https://h/a", "https://h/ü"], None)
    for _ in range(16):
        reporter.event(1, Retrying("https://h/a", "connection\nreset", 0.5, 1))
    reporter.event(2, Retrying("https://h/ü", "503", 0.5, 1))
    clock.now += 5
    reporter.event(1, Retrying("https://h/a", "connection\nreset", 2.0, 3))
    assert stream.getvalue().splitlines() == [
        "a  retry 1 in 0.5 s: connection\\nreset",
        "\\xfc  retry 1 in 0.5 s: 503",
        "a  retry 3 in 2.0 s: connection\\nreset",
    ]


def test_a_task_is_called_by_its_output_or_the_end_of_its_url(clock: Clock) -> None:
    def name(url: str, output: str | None = None) -> str:
        reporter = PlainReporter(io.StringIO(), True, clock)
        reporter.begin([url], output)
        return reporter.views[1].name

    assert name("https://h/a/b.iso?token=x#y") == "b.iso"
    assert name("https://h/a/") == "a"
    assert name("https://h") == "h"
    assert name("https://ann:secret@h") == "***@h"
    assert name("https://h/a", "/there/c.iso") == "c.iso"
