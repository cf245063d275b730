"""What the project says about its own speed, and whether the measurement agrees.

Rules of this module: a claim is data; it names scenario, figure and whom it is compared with. Missing runs make it "not
measured", never true. Ratios are of medians of the same measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import Row, Table, ratio
from benchmarks.model import MIB
from benchmarks.scenarios import all_scenarios
from benchmarks.tools import DISK, FASTIDM, FLOOR, is_peer

BEST_PEER = "best peer"
IDEAL = "ideal"
FORCED = "better of mmap and pwrite"
SLOWER = "the slower of fastidm and the disk alone"
NAMES = {
    "cpu": "CPU",
    "rss": "memory",
    "sent_ratio": "sent ÷ size",
    "first_request": "first request",
    "cpu_per_gib": "CPU per GiB",
}
CAPPED = ("capped", "uneven", "collapsing", "limited_503", "limited_rst")
BESIDES = ("distant", "distant_link", "resets", "resume", "checksum", "mixed", "crowd")


@dataclass(frozen=True)
class Claim:
    """`figure` of `tool` in `scenario` is at most `limit` times that of `other` (a tool, or one of `_OTHERS`), there or in
    `other_scenario`; without `other`, at most `limit` itself."""

    scenario: str
    figure: str
    limit: float
    other: str = ""
    tool: str = "fastidm"
    other_scenario: str = ""
    unit: str = ""

    @property
    def text(self) -> str:
        what = f"{NAMES.get(self.figure, self.figure)} of {self.tool}"
        if not self.other:
            return f"{what} ≤ {_number(self.limit, self.unit)}"
        elsewhere = f" in {self.other_scenario}" if self.other_scenario else ""
        return f"{what} ≤ {self.limit:g} × {self.other}{elsewhere}"


@dataclass(frozen=True)
class Verdict:
    """`measured` is None when there is nothing to compare; `note` says with whom it was compared, or what is missing.

    Not `judged` are files that are smaller than what the claim is about: there starting weighs more.
    """

    claim: Claim
    measured: float | None
    note: str = ""
    judged: bool = True

    @property
    def holds(self) -> bool | None:
        return None if self.measured is None or not self.judged else self.measured <= self.claim.limit

    @property
    def word(self) -> str:
        unknown = "not measured" if self.measured is None else "not judged at this size"
        return {True: "holds", False: "DOES NOT HOLD", None: unknown}[self.holds]


def _claims() -> tuple[Claim, ...]:
    both = ("wall", "cpu")
    made: list[Claim] = []
    for scenario in ("plain", "tls"):
        made += [Claim(scenario, figure, 0.60, "curl") for figure in both]
        made += [Claim(scenario, "cpu", 0.45, "aria2c"), Claim(scenario, "wall", 0.40, "aria2c")]
        made += [Claim(scenario, figure, 0.80, "aria2_next") for figure in both]
    made += [Claim("plain", figure, 1.40, FLOOR) for figure in both]
    made += [Claim("plain", figure, 1.25, FASTIDM, tool="fastidm_synced") for figure in both]
    made += [Claim("plain", "wall", 1.25, SLOWER, tool="fastidm_synced")]
    made += [Claim(scenario, "cpu", 1.15, FORCED) for scenario in ("plain", "plain_tmpfs")]
    for scenario in CAPPED:
        made += [Claim(scenario, "wall", 1.08, IDEAL), Claim(scenario, "wall", 1.0, BEST_PEER)]
    made += [Claim(scenario, "wall", 1.0, BEST_PEER) for scenario in BESIDES]
    made += [Claim("small", "wall", 1.0, "curl"), Claim("small", "wall", 0.25, "aria2c")]
    made += [Claim("plain", "rss", 64 * MIB, unit="MiB"), Claim("huge", "rss", 64 * MIB, unit="MiB")]
    made += [Claim("huge", "cpu_per_gib", 1.4, FLOOR), Claim("cold", "first_request", 1.0, BEST_PEER)]
    made += [Claim("wide", "rss", 160 * MIB, unit="MiB")]
    made += [Claim("hundred", "cpu_per_gib", 1.3, "fastidm_api", tool="fastidm_api", other_scenario="plain")]
    made += [Claim(scenario, "cpu_per_gib", 1.5, "curl") for scenario in ("http2", "http2_caddy")]
    return (*made, Claim("http3", "cpu_per_gib", 1.5, "libcurl"))


CLAIMS = _claims()
SENT_LIMIT = 1.02
WASTE_EXPECTED = ("resets",)
"""Scenarios where bytes are lost on the way, so that they have to be sent twice."""


def judge(table: Table, claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """One verdict for each claim, and one for each scenario about what the server sent."""
    verdicts = [_verdict(table, claim) for claim in claims]
    for scenario, rows in table.items():
        if scenario not in WASTE_EXPECTED and "fastidm" in rows and not rows["fastidm"].unable:
            verdicts.append(_verdict(table, Claim(scenario, "sent_ratio", SENT_LIMIT)))
    return verdicts


def _verdict(table: Table, claim: Claim) -> Verdict:
    rows = table.get(claim.scenario, {})
    ours, why = _median(rows.get(claim.tool), claim)
    if ours is None:
        return Verdict(claim, None, why)
    judged = rows[claim.tool].size >= 0.99 * all_scenarios()[claim.scenario].size
    if not claim.other:
        return Verdict(claim, ours, judged=judged)
    others = table.get(claim.other_scenario or claim.scenario, {})
    under, note = _OTHERS.get(claim.other, _named)(others, claim)
    return Verdict(claim, ratio(ours, under), note, judged)


def _median(row: Row | None, claim: Claim) -> tuple[float | None, str]:
    if row is None:
        return None, f"{claim.tool} was not run in {claim.scenario}"
    if row.failure or row.unable:
        return None, f"{claim.tool}: {row.failure or row.unable}"
    return row.median(claim.figure), ""


def _named(rows: dict[str, Row], claim: Claim) -> tuple[float | None, str]:
    row = rows.get(claim.other)
    if row is None:
        return None, f"{claim.other} was not run"
    return row.median(claim.figure), row.failure or row.unable


def _ideal(rows: dict[str, Row], claim: Claim) -> tuple[float | None, str]:
    return rows[claim.tool].ideal, ""


def _best_peer(rows: dict[str, Row], claim: Claim) -> tuple[float | None, str]:
    times = [
        (time, row.label)
        for name, row in rows.items()
        if is_peer(name) and not row.failure and (time := row.median(claim.figure)) is not None
    ]
    return min(times, default=(None, "no peer was run"))


def _of_two(pick: Callable[..., tuple[float, str]], *names: str) -> Callable[[dict[str, Row], Claim], tuple[float | None, str]]:
    """`pick`s one of the two tools `names`: min or max."""

    def found(rows: dict[str, Row], claim: Claim) -> tuple[float | None, str]:
        both = [(value, rows[name].label) for name in names if name in rows and (value := rows[name].median(claim.figure))]
        return pick(both) if len(both) == len(names) else (None, f"{' and '.join(names)} were not both run")

    return found


_OTHERS: dict[str, Callable[[dict[str, Row], Claim], tuple[float | None, str]]] = {
    IDEAL: _ideal,
    BEST_PEER: _best_peer,
    SLOWER: _of_two(max, FASTIDM, DISK),
    FORCED: _of_two(min, "fastidm_mmap", "fastidm_pwrite"),
}


def _number(value: float, unit: str) -> str:
    return f"{value / MIB:.0f} MiB" if unit == "MiB" else f"{value:g}"


def shown(verdict: Verdict) -> str:
    """What was measured, as text."""
    if verdict.measured is None:
        return "–"
    if verdict.claim.unit == "MiB":
        return _number(verdict.measured, "MiB")
    return f"{verdict.measured:.3f}" if verdict.claim.figure == "sent_ratio" else f"{verdict.measured:.2f}"
