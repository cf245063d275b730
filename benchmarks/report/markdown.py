"""Blocks as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.report.document import Block


def render(blocks: Iterable[Block]) -> str:
    return "\n\n".join(_block(block) for block in blocks) + "\n"


def _block(block: Block) -> str:
    if block.kind == "heading":
        return f"{'#' * block.level} {block.text}"
    if block.kind == "list":
        return "\n".join(f"* {item}" for item in block.items)
    if block.kind == "details":
        listed = _block(Block("list", items=block.items))
        return f"<details><summary>{block.text}</summary>\n\n{listed}\n\n</details>"
    if block.kind == "image":
        return f"![]({block.text})"
    if block.kind == "table":
        lines = [block.header, tuple("---" for _ in block.header), *block.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return block.text
