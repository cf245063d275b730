"""A progress display for notebooks: one line for each segment, redrawn in place, with no dependency beside fastidm.

In a notebook:    await watch("https://example.com/disk.iso")
In a terminal:    python examples/notebook.py https://example.com/disk.iso
"""

import asyncio
import sys

import fastidm

WIDTH = 40


def drawn(progress: fastidm.Progress) -> str:
    """The segments as text, largest offsets last."""
    lines = [f"{progress.received:,} of {progress.size or 0:,} bytes, {progress.rate / 1e6:.1f} MB/s"]
    for start, stop, position in progress.segments:
        full = WIDTH * (position - start) // max(1, stop - start)
        lines.append("█" * full + "░" * (WIDTH - full))
    return "\n".join(lines)


def show(text: str) -> None:
    """Show `text` in place of what was shown before."""
    try:
        from IPython.display import clear_output, display

        clear_output(wait=True)
        display({"text/plain": text}, raw=True)
    except ImportError:
        print(text, "\n")


async def watch(url: str, **options: object) -> fastidm.Result:
    """Download `url` and show its segments; the notebook stays usable meanwhile."""
    return await fastidm.adownload(url, on_progress=lambda progress: show(drawn(progress)), **options)


if __name__ == "__main__":
    print(asyncio.run(watch(sys.argv[1])).path)
