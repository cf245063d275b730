"""What the report says, as blocks: headings, paragraphs, lists, tables, pictures. `markdown` and `html` only dress them.

Rules of this module: caveats come before numbers, and what was not run is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import claims, figures
from benchmarks.figures import Row, Table
from benchmarks.model import MIB, Run, Scenario
from benchmarks.scenarios import all_scenarios

CAVEATS = (
    "Client and server share one machine: nothing here is a network. Unthrottled scenarios compare what a byte costs, not what"
    " a user waits for.",
    "The server takes part in every time. Its own processor time stands in the tables (“server”, as a share of the wall"
    " time): near 100 % it was the limit, and tools may be faster than shown.",
    "Throttles are kept by the kernel (pacing) or by the suite's own server in C (round trip, windows, common link). The C"
    " floor runs through the same throttles: what it reaches is what they let through.",
    "“× floor” is wall time over that of a bare C client in the same scenario; “× ideal” is wall time over what"
    " the server's rates allow. An ideal below which a tool comes is one of a server that is asked no new connections.",
    "How many connections a tool may open is the same for all; how many it opened stands in the tables. fastidm opens no other"
    " where one brings as much as this machine can take, as over loopback; so “wide” and “crowd”, where servers pace each"
    " connection, are the ones that show what many connections cost.",
    "fastidm runs with --no-sync, since no peer waits for the disk; “synced” is what it does by default, and cannot be"
    " faster than the disk: “disk alone” writes as many bytes past the page cache and syncs them, and downloads nothing.",
    "Where nothing is throttled the suite first makes memory ready for the page cache (it writes a file and removes it):"
    " on virtual machines free memory may be the host's, and getting it back costs more than the download.",
    "Tools with one connection are run once where the server is throttled, as their time there is known beforehand;"
    " in a quick measurement not at all.",
    "A wrong file is a failure and has no time. Memory below about 10 MiB cannot be told apart.",
    "“sent” is what the server sent over the size of the file, heads included. Behind nginx it counts what was handed"
    " to the kernel, also for a client that had gone; behind the suite's own server what the client's kernel acknowledged.",
)


@dataclass(frozen=True)
class Block:
    """`kind` is heading, text, list, details (a list that is folded up under `text`), table or image."""

    kind: str
    text: str = ""
    level: int = 2
    items: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def blocks(meta: dict[str, Any], runs: list[Run], pictures: dict[str, str]) -> Iterator[Block]:
    """The whole report. `pictures` maps a scenario's name to a picture's."""
    table = figures.summarise(runs)
    yield Block("heading", "Benchmarks of fastidm", level=1)
    parts = meta.get("parts", [])
    if len(parts) < 2:
        yield Block("text", f"Measured on {_when(meta)}.")
    else:
        yield Block("text", "Measured in several parts, each with all tools of its scenarios in random order:")
        yield Block("list", items=tuple(f"{_when(part)}: {', '.join(part['scenarios'])}" for part in parts))
    yield Block("heading", "Before the numbers")
    yield Block("list", items=CAVEATS)
    yield Block("heading", "Machine")
    facts = meta.get("machine", {})
    yield Block("table", header=("what", "found"), rows=tuple((name, text) for name, text in facts.items()))
    yield Block("heading", "Tools")
    yield from _tools(meta, table)
    yield Block("heading", "Verdict")
    yield Block("text", "Ratios of medians; both sides are of one measurement, unless two scenarios are compared.")
    yield _verdicts(table)
    yield Block("heading", "Scenarios")
    for name, rows in table.items():
        yield from _scenario(name, rows, pictures.get(name, ""))


def _when(meta: dict[str, Any]) -> str:
    return f"{meta.get('date', '?')}, {meta.get('mode', '?')}, fastidm {meta.get('revision') or '?'}"


def _tools(meta: dict[str, Any], table: Table) -> Iterator[Block]:
    tools = meta.get("tools", {})
    here = [tool for tool in tools.values() if tool["version"]]
    asked = [(tool["label"], tool["version"], f"`{tool['command']}`") for tool in here if tool.get("asked", True)]
    others = [tool["label"] for tool in here if not tool.get("asked", True)]
    missing = [tool["label"] for tool in tools.values() if not tool["version"]]
    yield Block("table", header=("tool", "version", "command"), rows=tuple(asked))
    yield Block("text", f"Missing on this machine: {', '.join(missing) or 'none'}.")
    if others:
        yield Block("text", f"Here, but not asked for this time: {', '.join(others)}.")
    absent = meta.get("missing", {})
    if absent:
        yield Block("list", items=tuple(f"{name} could not be built: {why}" for name, why in absent.items()))


def _verdicts(table: Table) -> Block:
    rows = tuple(
        (verdict.claim.scenario, verdict.claim.text, claims.shown(verdict), verdict.word, verdict.note)
        for verdict in claims.judge(table)
    )
    return Block("table", header=("scenario", "claim", "measured", "verdict", "note"), rows=rows)


def _scenario(name: str, rows: dict[str, Row], picture: str) -> Iterator[Block]:
    scenario = all_scenarios().get(name)
    any_row = next(iter(rows.values()))
    yield Block("heading", f"{scenario.title if scenario else name} (`{name}`)", level=3)
    ideal = f" Ideal: {any_row.ideal:.2f} s." if any_row.ideal is not None else ""
    about = scenario.about if scenario else ""
    yield Block("text", f"{about} {_size(max(row.size for row in rows.values()))} in all.{ideal}".strip())
    if picture:
        yield Block("image", picture)
    yield _table(scenario, rows)
    commands = tuple(f"{row.label}: `{row.command}`" for row in rows.values() if row.command)
    if commands:
        yield Block("details", "Commands", items=commands)
    silent = [f"{row.label}: {row.unable}" for row in rows.values() if row.unable]
    if silent:
        yield Block("text", f"Not run: {'; '.join(silent)}.")


def _table(scenario: Scenario | None, rows: dict[str, Row]) -> Block:
    figure = scenario.figure if scenario else "wall"
    resumed = scenario is not None and scenario.kind == "resume"
    against = "× ideal" if any(row.ideal is not None for row in rows.values()) else "× floor"
    header = ["tool", "runs", "wall s", against, "CPU s", "user", "system", "memory", "sent ÷ size"]
    header += ["requests", "connections", "server"]
    header += ["first request ms"] if figure == "first_request" else []
    header += ["lost s", "fetched twice"] if resumed else []
    lines = []
    for name, row in rows.items():
        if row.unable:
            continue
        if row.failure:
            lines.append((row.label, str(row.count), f"failed: {row.failure}", *[""] * (len(header) - 3)))
            continue
        cells = [row.label, str(row.count), _spread(row, "wall"), _ratio(figures.against(rows, name, figure)[1])]
        cells += [_spread(row, "cpu"), *(_text(row.median(one), "{:.2f}") for one in ("user", "system"))]
        cells += [_size(row.median("rss")), _text(row.median("sent_ratio"), "{:.3f}")]
        cells += [_text(row.median(one), "{:.0f}") for one in ("requests", "connections")]
        share = figures.ratio(row.median("server_cpu"), row.median("wall"))
        cells.append("–" if share is None else f"{100 * share:.0f} %")
        if figure == "first_request":
            first = row.median("first_request")
            cells.append("–" if first is None else f"{1000 * first:.1f}")
        if resumed:
            cells += [_text(row.median("time_lost"), "{:.2f}"), _size(row.median("fetched_twice"))]
        lines.append(tuple(cells))
    return Block("table", header=tuple(header), rows=tuple(lines))


def _spread(row: Row, name: str) -> str:
    found = row.figures.get(name)
    if found is None:
        return "–"
    return f"{found.median:.2f}" + (f" ({found.low:.2f}–{found.high:.2f})" if found.count > 1 else "")


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _ratio(value: float | None) -> str:
    return _text(value, "{:.2f}")


def _size(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / MIB:.0f} MiB" if value >= 10 * MIB else f"{value / 1024:.0f} KiB"
