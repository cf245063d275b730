"""Writes report.md, report.html and the pictures beside the JSON lines."""

from __future__ import annotations

from pathlib import Path

from benchmarks import figures
from benchmarks.report import html, lines, markdown, plots
from benchmarks.report.document import blocks


def write(source: Path) -> Path:
    """The report of the JSON lines in `source`; returns the path of the Markdown."""
    meta, runs = lines.read(source)
    folder = source.parent
    pictures = plots.draw(figures.summarise(runs), folder)
    content = list(blocks(meta, runs, pictures))
    (folder / "report.html").write_text(html.render(content, folder), encoding="utf-8")
    path = folder / "report.md"
    path.write_text(markdown.render(content), encoding="utf-8")
    return path
