"""Draws docs/display.svg: a terminal in which a stopped download goes on.

    python docs/draw_display.py            draw it anew
    python docs/draw_display.py --check    exit 1 when the committed picture is stale

Rules of this script:

* Every line in the window was made by the function that makes it for users: `fastidm.cli.drawing.draw` for the live block,
  `fastidm.cli.main.how_to_go_on` for the command that continues. Only the numbers behind them are invented, and written here.
* Colours are read from the escape sequences that `draw` puts out. Blocks become rectangles, since fonts leave gaps between
  them; every other piece of text is pinned to its column.
* Equal input, equal bytes: no clock, no terminal, no random number.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from fastidm.cli.arguments import parse  # noqa: E402
from fastidm.cli.drawing import EIGHTHS, Board, TaskView, draw  # noqa: E402
from fastidm.cli.main import how_to_go_on  # noqa: E402
from fastidm.core.scheduler import first_cut  # noqa: E402
from fastidm.events import Progress  # noqa: E402

PICTURE = HERE / "display.svg"

URL = "https://example.com/disk.iso"
SIZE = 2405 << 20
RATE = 112.6 * (1 << 20)
STOPPED_AT = 46
"""Per cent of the file at which the first run was stopped."""
FILLED = (
    *((0.94,), (0.71,), (0.62, 0.35), (0.83,), (0.58,), (0.77,), (1.0,), (0.66,)),
    *((0.89,), (0.52, 0.22), (0.74,), (0.69,), (1.0,), (0.81,), (0.60,), (0.72,)),
)
"""For each segment of the first cut, how full it is; where two numbers stand, it was split in the middle meanwhile."""

COLUMNS = 88
CELL, LINE = 9, 25  # pixels; a glyph of a monospaced font of FONT pixels is CELL wide
FONT = 15
LEFT, TOP, BAR = 24, 56, 38
GROUND, EDGE, TITLE_BAR = "#161b24", "#2b3342", "#1f2632"
PLAIN, FAINT, PROMPT = "#c9d3e0", "#8390a3", "#6cc38a"
COLOURS = {"": PLAIN, "1": "#f2f6fb", "36": "#39b3c9", "1;35": "#f08bd6", "90": "#333d4e", "33": "#e6b450"}
"""What the escape sequences of `draw` look like here."""


def screen() -> list[str]:
    """The lines in the window, with escape sequences."""
    arguments = [URL, "--conn", "16"]
    command = "fastidm " + " ".join(arguments)
    stopped = f"fastidm: stopped at {STOPPED_AT} %; {how_to_go_on(parse(arguments, {}), arguments)}"
    # The last column stays free, as in a terminal.
    return [f"$ {command}", stopped, f"$ {command}", *draw(running(), COLUMNS - 1, unicode=True, colour=True)]


def running() -> Board:
    """A download that went on after `STOPPED_AT`."""
    view = TaskView("disk.iso")
    view.update(progress(behind=1 << 20), now=0.0)
    view.update(progress(behind=0), now=0.1)
    return Board([view])


def progress(behind: int) -> Progress:
    """What the manager would tell. Parameter: `behind`, bytes that each unfinished segment has to come to be as `FILLED`."""
    edges = [0, *first_cut(SIZE, len(FILLED)), SIZE]
    segments = []
    for shares, (start, stop) in zip(FILLED, pairwise(edges), strict=True):
        length = (stop - start) // len(shares)
        for number, share in enumerate(shares):
            at = start + number * length
            position = at + int(length * share) - (behind if share < 1 else 0)
            segments.append((at, at + length, position))
    received = sum(position - start for start, _, position in segments)
    left = (SIZE - received) / RATE
    active = sum(position < stop for _, stop, position in segments)
    return Progress(URL, "disk.iso", SIZE, received, RATE, left, active, tuple(segments))


def picture() -> str:
    """The picture, as the text of an SVG file."""
    lines = screen()
    width, height = 2 * LEFT + COLUMNS * CELL, TOP + len(lines) * LINE + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        "<title>fastidm in a terminal: a stopped download goes on over 16 connections</title>",
        "<style>text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace;"
        f" font-size: {FONT}px; white-space: pre }}</style>",
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="10" fill="{GROUND}" stroke="{EDGE}"/>',
        f'<path d="M1 {BAR} V11 Q1 1 11 1 H{width - 11} Q{width - 1} 1 {width - 1} 11 V{BAR} z" fill="{TITLE_BAR}"/>',
        *(f'<circle cx="{22 + 20 * n}" cy="19.5" r="6" fill="{c}"/>' for n, c in enumerate(("#ec6a5e", "#f4bf4f", "#61c554"))),
        f'<text x="{width / 2:g}" y="24" fill="{FAINT}" style="font-size: 13px" text-anchor="middle">fastidm</text>',
    ]
    for number, line in enumerate(lines):
        parts += draw_line(line, TOP + number * LINE)
    return "\n".join([*parts, "</svg>"]) + "\n"


def draw_line(line: str, top: int) -> Iterator[str]:
    """One line of the terminal, whose cells begin at `top`."""
    column = 0
    for style, text in runs(line):
        for block, letters in groupby(text, key=lambda c: c if c in "█░" or c in EIGHTHS[1:] else ""):
            piece = "".join(letters)
            if block:
                yield draw_blocks(block, column, len(piece), top, COLOURS[style])
            else:
                yield from draw_text(piece, column, top, style)
            column += len(piece)


def runs(line: str) -> Iterator[tuple[str, str]]:
    """(style, text) of each stretch of `line` between two escape sequences; the prompt has a style of its own."""
    style = ""
    for text in re.split(r"(\x1b\[[0-9;]*m)", line):
        if text.startswith("\x1b["):
            style = text[2:-1].removeprefix("0")
        elif text:
            yield style, text


def draw_blocks(block: str, column: int, count: int, top: int, colour: str) -> str:
    width = CELL * (count if block == "░" else count - 1 + EIGHTHS.index(block) / 8)
    return f'<rect x="{LEFT + column * CELL}" y="{top + 1}" width="{width:g}" height="{LINE - 5}" fill="{colour}"/>'


def draw_text(text: str, column: int, top: int, style: str) -> Iterator[str]:
    """Each word group in its column, stretched to it if the font at hand is wider or narrower."""
    colour, weight = COLOURS[style], ' font-weight="600"' if style.startswith("1") else ""
    for found in re.finditer(r"\S+(?: \S+)*", text):
        words, at = found.group(), column + found.start()
        if words.startswith("$ "):
            yield f'<text x="{LEFT}" y="{top + 17}" fill="{PROMPT}">$</text>'
            words, at = words[2:], at + 2
        yield (
            f'<text x="{LEFT + at * CELL}" y="{top + 17}" fill="{colour}"{weight} textLength="{len(words) * CELL}">'
            f"{escape(words)}</text>"
        )


def main(arguments: list[str]) -> int:
    """Draw, or with `--check` only compare; returns the exit status."""
    drawn = picture()
    if arguments == ["--check"]:
        if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == drawn:
            return 0
        sys.stderr.write(f"{PICTURE.name} is stale: run python docs/draw_display.py\n")
        return 1
    if arguments:
        sys.stderr.write("usage: python docs/draw_display.py [--check]\n")
        return 2
    PICTURE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
