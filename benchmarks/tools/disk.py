"""No download at all: a C program (`disk.c`) that writes as many bytes past the page cache and syncs them. Whoever waits for
the disk cannot be faster than that."""

from __future__ import annotations

from benchmarks.build import program
from benchmarks.model import Extra

label = "disk alone, no download"
baseline = True
downloads = False


def version() -> str | None:
    return "reserved blocks, O_DIRECT, 2 × 1 MiB, fdatasync" if program("disk") else None


def command(url: str, path: str, connections: int, extra: Extra) -> list[str]:
    return [program("disk"), str(extra.size), path]
