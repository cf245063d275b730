"""Writes the report: Markdown, one HTML file, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import figures
from benchmarks.report import html, lines, markdown, plots
from benchmarks.report.document import blocks


def write(*sources: Path) -> Path:
    """The report of the JSON lines in `sources`, beside the first; returns the path of the Markdown."""
    meta, runs = lines.read(sources[0]) if len(sources) == 1 else lines.join(sources)
    folder = sources[0].parent
    pictures = plots.draw(figures.summarise(runs), folder)
    content = list(blocks(meta, runs, pictures))
    (folder / "report.html").write_text(html.render(content, folder), encoding="utf-8")
    path = folder / "report.md"
    path.write_text(markdown.render(content), encoding="utf-8")
    return path


def write_page(sources: Sequence[Path], path: Path) -> Path:
    """The report as a page of the documentation: Markdown at `path`, its pictures in a folder of the same name."""
    meta, runs = lines.join(sources)
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    pictures = plots.draw(figures.summarise(runs), folder)
    content = blocks(meta, runs, {name: f"{folder.name}/{picture}" for name, picture in pictures.items()})
    path.write_text(markdown.render(list(content)), encoding="utf-8")
    return path
