"""Servers that give little, break often or stand still: the file is right all the same, soon, and little is wasted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.cases import Case, check, params
from tests.reliability.cases_limits import BREAKS, LATER, LIMITS
from tests.reliability.exchange import Book
from tests.reliability.faultserver import FaultServer
from tests.support.command import call, run
from tests.support.content import content, first_difference

MIB = 1 << 20


@pytest.mark.parametrize("case", params(LIMITS))
def test_a_limit_of_connections(case: Case, faults: FaultServer, folder: Path) -> None:
    check(case, faults, folder, inside=True)
    book = faults.books[case.key]
    assert book.notes["refused"] >= 1, "the limit was met"
    assert book.peak == case.knobs(1).size("most"), "and made use of"


@pytest.mark.parametrize("case", params(LATER))
def test_a_server_that_wants_to_be_asked_later(case: Case, faults: FaultServer, folder: Path) -> None:
    check(case, faults, folder, inside=True)


@pytest.mark.row("H35")
@pytest.mark.row("H36")
@pytest.mark.parametrize(
    ("knobs", "least", "most"), [("status=429&retry=1", 1.0, 1.5), ("retry=in:2", 0.99, 2.5), ("retry=in:-60", 0.0, 0.5)]
)
def test_the_wait_is_as_long_as_the_server_says(
    knobs: str, least: float, most: float, faults: FaultServer, folder: Path
) -> None:
    """Half a second of tolerance. A date has whole seconds, so two of them may be little more than one."""
    key = "wait-" + knobs.replace("&", "-")
    call("--json", f"{faults.url}/{key}/busy/a.bin?{knobs}&until=1", cwd=folder).done  # noqa: B018
    first, second, *_ = faults.books[key].records
    assert first.ended is not None
    assert least <= second.begun - first.begun <= most


@pytest.mark.parametrize("case", params(BREAKS))
def test_connections_that_break_or_stand_still(case: Case, faults: FaultServer, folder: Path) -> None:
    check(case, faults, folder, inside=True)


@pytest.mark.row("H40")
@pytest.mark.row("H41")
def test_breaks_by_chance_in_twenty_ways(faults: FaultServer, folder: Path) -> None:
    right = content(2 * MIB, 1)
    for seed in range(20):
        key = f"chance-{seed}"
        knobs = f"size=2M&rng={seed}&odds=0.6&times=12&how=fin,reset"
        call("--json", "-o", f"{seed}", f"{faults.url}/{key}/cut_by_chance/a.bin?{knobs}", cwd=folder).done  # noqa: B018
        assert first_difference((folder / f"{seed}").read_bytes(), right) is None
        assert faults.books[key].sent <= 1.05 * 2 * MIB + (1 + len(faults.books[key].records)) * (64 << 10) + MIB


@pytest.mark.row("H45")
def test_stalls_by_chance_in_twenty_ways(faults: FaultServer, folder: Path) -> None:
    """All at once, so that they wait together."""
    urls = [
        f"{faults.url}/stall-{seed}/cut_by_chance/{seed}.bin?size=3M&rng={seed}&times=1&from=2&how=hold" for seed in range(20)
    ]
    run("--json", *urls, cwd=folder)
    right = content(3 * MIB, 1)
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{seed}.bin" for seed in range(20))
    for seed in range(20):
        assert first_difference((folder / f"{seed}.bin").read_bytes(), right) is None


@pytest.mark.row("H21")
def test_nodes_by_chance_in_twenty_ways(faults: FaultServer, folder: Path) -> None:
    date = "modified=Sun,+06+Nov+1994+08:49:37+GMT"
    right = content(2 * MIB, 1)
    for seed in range(20):
        url = f"{faults.url}/nodes-{seed}/cut_by_chance/a.bin?size=2M&rng={seed}&odds=0.4&how=fin&etag=%22{{node}}%22&{date}"
        call("--json", "-o", f"{seed}", url, cwd=folder).done  # noqa: B018
        assert first_difference((folder / f"{seed}").read_bytes(), right) is None


@pytest.mark.row("H18")
def test_twenty_changes_between_two_runs_and_no_mixture(faults: FaultServer, folder: Path) -> None:
    for seed in range(20):
        after = 200_000 + 90_000 * seed
        url = f"{faults.url}/mixed-{seed}/dies/{seed}.bin?size=2M&after={after}&etag=%22a%22&etag@2=%22b%22&seed@2=2"
        assert call("--json", "--retries", "0", url, cwd=folder).code == 6
        faults.books[f"mixed-{seed}"].phase = 2
        assert call("--json", url, cwd=folder).code == 8
        assert not (folder / f"{seed}.bin").exists()
        call("--json", "--on-change", "restart", url, cwd=folder).done  # noqa: B018
        assert first_difference((folder / f"{seed}.bin").read_bytes(), content(2 * MIB, 2)) is None


@pytest.mark.row("H48")
def test_one_connection_at_a_hundredth_of_the_speed_of_the_others(faults: FaultServer, folder: Path) -> None:
    """Eight connections: seven at 2 MiB/s, one at 20 KiB/s. Ideal is what the seven alone would need."""
    key = "H48"
    faults.books[key] = Book()
    url = f"{faults.url}/{key}/file/a.bin?size=32M&rate=2M&slow=3&crawl=20k"
    run("--json", "--conn", "8", url, cwd=folder).done  # noqa: B018
    assert first_difference((folder / "a.bin").read_bytes(), content(32 * MIB, 1)) is None
    records = faults.books[key].records
    took = max(record.ended or 0 for record in records) - records[0].begun
    ideal = 32 * MIB / (7 * 2 * MIB)
    assert took <= 1.3 * ideal + 0.2


@pytest.mark.row("H45")
def test_a_connection_that_stands_still_is_replaced_within_ten_seconds(faults: FaultServer, folder: Path) -> None:
    """The others have enough to do, so that nobody comes to its help before its time."""
    key = "H45-replaced"
    faults.books[key] = Book()
    url = f"{faults.url}/{key}/cut/a.bin?size=16M&rate=1M&after=100k&how=hold&from=2&until=2"
    run("--json", "--conn", "4", url, cwd=folder).done  # noqa: B018
    records = faults.books[key].records
    still = records[1]
    held_from = int(still.range.removeprefix("bytes=").partition("-")[0])
    taken = [r for r in records[2:] if held_from <= _first(r.range) <= held_from + (200 << 10)]
    assert taken and taken[0].begun - still.begun <= 10


def _first(span: str) -> int:
    return int(span.removeprefix("bytes=").partition("-")[0])
