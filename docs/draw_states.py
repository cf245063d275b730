"""Draws docs/states.svg: every phase of a task and every way from one to another.

    python docs/draw_states.py            draw it anew
    python docs/draw_states.py --check    exit 1 when the committed picture is stale

Rules of this script:

* What is drawn comes from `fastidm.core.phase`: phases, arrows, the status that users see. Only where things stand, and a
  word of help in each box, is written here.
* Nothing is left out. A transition that the layout has no arrow for is an error, and so is an arrow that no transition needs.
* Equal input, equal bytes: no date, no random number, no measuring of fonts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from fastidm.core.phase import ONLINE, STATUS, TRANSITIONS, Phase  # noqa: E402
from fastidm.events import DownloadStatus  # noqa: E402

PICTURE = HERE / "states.svg"

WIDTH, HEIGHT = 1104, 424
BOX_WIDTH, BOX_HEIGHT = 136, 58

BOXES = {
    Phase.PENDING: (122, 150, "waits for its turn"),
    Phase.PROBING: (346, 150, "first request is out"),
    Phase.OPENING: (552, 150, "the files are made"),
    Phase.RECEIVING: (758, 150, "segments fill"),
    Phase.FINISHING: (982, 150, "verify, sync, rename"),
    Phase.FAILED: (122, 320, "an error says why"),
    Phase.PAUSED: (552, 320, "can go on later"),
    Phase.COMPLETED: (982, 320, "has its final name"),
}
"""The middle of each box, and what happens there."""

COLOURS = {
    DownloadStatus.PENDING: ("#eef1f5", "#7b8794"),
    DownloadStatus.DOWNLOADING: ("#e3effd", "#2f6fbf"),
    DownloadStatus.PAUSED: ("#fdf1d3", "#b7800b"),
    DownloadStatus.COMPLETED: ("#def3e2", "#2c8a4b"),
    DownloadStatus.FAILED: ("#fbe3e3", "#c0393b"),
}
"""Inside and edge, by what users see."""


class Frame(NamedTuple):
    """A frame around several phases: an arrow that begins at it is there for each of them."""

    phases: tuple[Phase, ...]
    x: int
    y: int
    width: int
    height: int
    label: str
    label_x: int
    label_y: int


UNDER_WAY = Frame((Phase.PENDING, *ONLINE, Phase.FINISHING), 32, 36, 1040, 190, "can be paused, and can fail", 48, 58)
CONNECTED = Frame(ONLINE, 264, 100, 576, 106, "has connections", 730, 196)


class Arrow(NamedTuple):
    """One arrow: where it begins, its event, where it leads, the path that it takes, where its name stands, and what to add."""

    begins: Phase | Frame
    event: str
    leads: Phase
    path: str
    x: int
    y: int
    anchor: str = "middle"
    note: str = ""


ARROWS = (
    Arrow(Phase.PENDING, "start", Phase.PROBING, "M191 150 H276", 227, 142),
    Arrow(Phase.PROBING, "accept", Phase.OPENING, "M415 150 H482", 446, 142),
    Arrow(Phase.OPENING, "open", Phase.RECEIVING, "M621 150 H688", 652, 142),
    Arrow(Phase.RECEIVING, "complete", Phase.FINISHING, "M827 150 H912", 877, 142),
    Arrow(Phase.FINISHING, "finish", Phase.COMPLETED, "M982 180 V288", 992, 258, "start"),
    Arrow(Phase.PAUSED, "start", Phase.PROBING, "M483 320 H366 Q346 320 346 300 V182", 356, 258, "start"),
    Arrow(Phase.PAUSED, "finish", Phase.COMPLETED, "M621 320 H911", 766, 312, note="its rename was under way"),
    Arrow(CONNECTED, "restart", Phase.PROBING, "M758 100 V90 Q758 74 742 74 H362 Q346 74 346 90 V118", 552, 66),
    Arrow(UNDER_WAY, "pause", Phase.PAUSED, "M552 226 V288", 562, 258, "start"),
    Arrow(UNDER_WAY, "fail", Phase.FAILED, "M122 226 V288", 132, 258, "start"),
)

STYLE = """
  text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #24292f; text-anchor: middle }
  .name { font-size: 15px; font-weight: 600; letter-spacing: .4px }
  .help { font-size: 12px; fill: #57606a }
  .event { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; font-size: 13px }
  .frame { font-size: 12px; font-style: italic; fill: #6a7480; text-anchor: start }
  .legend { font-size: 12px; fill: #57606a; text-anchor: start }
  .arrow { fill: none; stroke: #57606a; stroke-width: 1.6; marker-end: url(#head) }
"""


def picture() -> str:
    """The picture, as the text of an SVG file. Raises `ValueError` when layout and transitions disagree."""
    check_layout()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
        "<title>The phases of a task</title>",
        f"<desc>{describe()}</desc>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 1 L9 5 L0 9 z" fill="#57606a"/></marker></defs>',
        f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12" fill="#fcfdff" stroke="#d5dbe3"/>',
        *(draw_frame(frame, fill) for frame, fill in ((UNDER_WAY, "#f6f8fb"), (CONNECTED, "#eff4fa"))),
        *(f'<path class="arrow" d="{arrow.path}"/>' for arrow in ARROWS),
        *(draw_box(phase) for phase in BOXES),
        *(draw_event(arrow) for arrow in ARROWS),
        *draw_legend(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def check_layout() -> None:
    """Raises `ValueError` unless every phase has a box and every transition exactly one arrow."""
    drawn: dict[tuple[Phase, str], Phase] = {}
    for arrow in ARROWS:
        for phase in arrow.begins.phases if isinstance(arrow.begins, Frame) else (arrow.begins,):
            if (phase, arrow.event) in drawn:
                raise ValueError(f"two arrows for {phase.name} {arrow.event}")
            drawn[phase, arrow.event] = arrow.leads
    wrong = sorted({(a.name, event, b.name) for (a, event), b in drawn.items() ^ TRANSITIONS.items()})
    if wrong:
        raise ValueError(f"arrows and fastidm.core.phase.TRANSITIONS disagree about {wrong}: see ARROWS")
    if BOXES.keys() != set(Phase):
        raise ValueError("not every phase has a place, or one has gone: see BOXES")


def describe() -> str:
    """The picture in words, for those who cannot see it."""
    return "; ".join(f"{a.name} {event} {b.name}" for (a, event), b in TRANSITIONS.items())


def draw_frame(frame: Frame, fill: str) -> str:
    return (
        f'<rect x="{frame.x}" y="{frame.y}" width="{frame.width}" height="{frame.height}" rx="14" fill="{fill}"'
        f' stroke="#9aa5b1" stroke-dasharray="5 4"/>'
        f'<text class="frame" x="{frame.label_x}" y="{frame.label_y}">{frame.label}</text>'
    )


def draw_box(phase: Phase) -> str:
    x, y, text = BOXES[phase]
    fill, edge = COLOURS[STATUS[phase]]
    left, top = x - BOX_WIDTH // 2, y - BOX_HEIGHT // 2
    lines = [outline(left, top, BOX_WIDTH, BOX_HEIGHT, 10, fill, edge)]
    if ends(phase):
        lines.append(outline(left + 4, top + 4, BOX_WIDTH - 8, BOX_HEIGHT - 8, 7, "none", edge))
    lines.append(f'<text class="name" x="{x}" y="{y - 3}">{phase.name}</text>')
    lines.append(f'<text class="help" x="{x}" y="{y + 16}">{text}</text>')
    return "".join(lines)


def draw_event(arrow: Arrow) -> str:
    # As a style, since the style sheet would win over an attribute.
    anchor = "" if arrow.anchor == "middle" else f' style="text-anchor: {arrow.anchor}"'
    note = f'<text class="help" x="{arrow.x}" y="{arrow.y + 24}">{arrow.note}</text>' if arrow.note else ""
    return f'<text class="event" x="{arrow.x}" y="{arrow.y}"{anchor}>{arrow.event}</text>{note}'


def outline(x: int, y: int, width: int, height: int, radius: int, fill: str, edge: str) -> str:
    place = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"'
    return f'<rect {place} fill="{fill}" stroke="{edge}" stroke-width="1.4"/>'


def ends(phase: Phase) -> bool:
    """Whether no way leads out."""
    return not any(source is phase for source, _ in TRANSITIONS)


def draw_legend() -> list[str]:
    lines, x = [], 54
    for status, (fill, edge) in COLOURS.items():
        lines.append(outline(x, 385, 16, 13, 3, fill, edge))
        lines.append(f'<text class="legend" x="{x + 22}" y="396">{status.name.lower()}</text>')
        x += 42 + 7 * len(status.name)
    words = "arrow from a dashed frame: from each phase in it · double edge: final"
    lines.append(f'<text class="legend" x="1050" y="396" style="text-anchor: end">{words}</text>')
    return lines


def main(arguments: list[str]) -> int:
    """Draw, or with `--check` only compare; returns the exit status."""
    drawn = picture()
    if arguments == ["--check"]:
        if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == drawn:
            return 0
        sys.stderr.write(f"{PICTURE.name} is stale: run python docs/draw_states.py\n")
        return 1
    if arguments:
        sys.stderr.write("usage: python docs/draw_states.py [--check]\n")
        return 2
    PICTURE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
