"""Blocks as one HTML file that needs nothing else: style and pictures are inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from benchmarks.report.document import Block

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1c2128; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #d5dae1; padding: .25rem .6rem; text-align: left; white-space: nowrap; }
tr:hover td { background: #f2f5f9; }
code { font-size: 85%; } img { max-width: 100%; } .bad { color: #b3261e; font-weight: 600; }
"""


def render(blocks: Iterable[Block], folder: Path) -> str:
    """The file's text. `folder` holds the pictures; one that is not there is left out."""
    body = "\n".join(_block(block, folder) for block in blocks)
    head = f'<meta charset="utf-8"><title>Benchmarks of fastidm</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _block(block: Block, folder: Path) -> str:
    if block.kind == "heading":
        return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
    if block.kind == "list":
        return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in block.items)}</ul>"
    if block.kind == "details":
        listed = _block(Block("list", items=block.items), folder)
        return f"<details><summary>{escape(block.text)}</summary>{listed}</details>"
    if block.kind == "image":
        path = folder / block.text
        if not path.is_file():
            return ""
        return f'<img alt="" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
    if block.kind == "table":
        head = "".join(f"<th>{_inline(cell)}</th>" for cell in block.header)
        body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>\n" for row in block.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f"<p>{_inline(block.text)}</p>"


def _cell(text: str) -> str:
    bad = text.startswith(("failed", "DOES NOT"))
    return f'<td class="bad">{_inline(text)}</td>' if bad else f"<td>{_inline(text)}</td>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
