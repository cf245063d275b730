"""Hostile lengths, heads, redirects and names: the right file, or one clear line and nothing in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.cases import EARLIER, Case, check, params
from tests.reliability.cases_content import HEADS, LENGTHS, NAMES, REDIRECTS
from tests.reliability.exchange import Book
from tests.reliability.faultserver import FaultServer
from tests.support.command import Command, run
from tests.support.servers import CA, Nginx


@pytest.mark.parametrize("case", params(LENGTHS))
def test_lengths_and_bodies(case: Case, faults: FaultServer, folder: Path) -> None:
    outcome = check(case, faults, folder, inside=True)[-1]
    methods = {record.method for record in faults.books[case.key].records}
    assert methods == {"GET"}
    if case.row in ("H3", "H5", "H6"):
        assert outcome.done["length_unverified"] is True


@pytest.mark.row("H4")
def test_a_body_without_a_length_that_breaks_off_is_at_least_called_unverified(faults: FaultServer, folder: Path) -> None:
    """Nothing tells its end from that of the file."""
    outcome = run("--json", faults.url + "/H4/unsaid/a.bin?cut=2M", cwd=folder)
    assert outcome.done["size"] == 2 << 20
    assert outcome.done["length_unverified"] is True


@pytest.mark.parametrize("case", params(HEADS))
def test_hostile_heads(case: Case, faults: FaultServer, folder: Path) -> None:
    check(case, faults, folder, inside=True)


@pytest.mark.parametrize("case", params(REDIRECTS))
def test_redirects(case: Case, faults: FaultServer, folder: Path) -> None:
    check(case, faults, folder, inside=True)


@pytest.mark.row("H30")
def test_a_redirect_to_another_host_takes_no_secret_along(faults: FaultServer, folder: Path) -> None:
    there = faults.url.replace("127.0.0.1", "127.0.0.2") + "/H30-there/file/a.bin"
    secrets = ("-u", "ann:canary", "-H", "X-Secret: canary", "-H", "Authorization: Bearer canary", "-H", "Cookie: a=canary")
    run("--json", *secrets, f"{faults.url}/H30-here/redirect/a.bin?to={there}", cwd=folder).done  # noqa: B018
    first, second = faults.books["H30-here"].records, faults.books["H30-there"].records
    assert "canary" in str(first[0].headers)
    assert second
    assert "canary" not in str(second)
    assert not any(record.headers.keys() & {"authorization", "cookie", "x-secret", "referer"} for record in second)


@pytest.mark.row("H33")
def test_a_redirect_to_a_private_address_is_followed(faults: FaultServer, folder: Path) -> None:
    there = faults.url.replace("127.0.0.1", "127.0.0.2") + "/H33/file/a.bin"
    run("--json", f"{faults.url}/H33/redirect/a.bin?to={there}", cwd=folder).done  # noqa: B018
    assert {record.host for record in faults.books["H33"].records[1:]} == {"127.0.0.2"}


@pytest.mark.row("H34")
def test_a_new_link_to_the_same_name_goes_on_where_the_expired_one_stopped(faults: FaultServer, folder: Path) -> None:
    faults.books["H34-link"] = Book()
    link = faults.url + "/H34-link/signed/a.bin?size=8M&etag=%22a%22&uses=3&sticks=1&rate=8M"
    failed = run("--json", "-o", "b.bin", link, cwd=folder)
    assert failed.code == 18 and "-o" in failed.complaint
    faults.books["H34-link"].phase = 2
    assert run("--json", "-o", "b.bin", link + "&new=1", cwd=folder).done["resumed"] > 0
    assert [path.name for path in folder.iterdir()] == ["b.bin"]


@pytest.mark.parametrize("case", params(NAMES))
def test_names_that_a_server_gives(case: Case, faults: FaultServer, folder: Path) -> None:
    if case.row == "H65":
        (folder / case.target).write_bytes(EARLIER)
    outcome = check(case, faults, folder, inside=True)[0]
    assert (outcome.stdout + outcome.stderr).replace("\n", "").isprintable()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing beside the folder"


@pytest.mark.row("H66")
@pytest.mark.parametrize("case", [case for case in HEADS if case.row == "H66"], ids=lambda case: case.name)
def test_an_absurd_date_does_not_become_that_of_the_file(case: Case, faults: FaultServer, folder: Path) -> None:
    check(case, faults, folder, inside=True)
    assert 1 << 30 < (folder / "a.bin").stat().st_mtime < 1 << 33


@pytest.mark.row("H59")
def test_segments_of_a_server_with_http_2_have_connections_of_their_own(
    server_folders: tuple[Path, Path], ca: CA, folder: Path
) -> None:
    from tests.support.content import content

    with Nginx(*server_folders, ca.issue("localhost", "127.0.0.1"), http2=True, limit_rate=2 << 20) as server:
        url = server.add("h59.bin", content(8 << 20, 59))
        run("--json", "--cacert", ca.file, url, cwd=folder).done  # noqa: B018
        requests = server.wait_for_requests(2, url)
    assert {request.protocol for request in requests} == {"HTTP/1.1"}
    assert len({request.connection for request in requests}) > 1


@pytest.mark.row("H60")
def test_an_offer_of_another_protocol_is_not_taken_up(faults: FaultServer, folder: Path) -> None:
    line = f"Alt-Svc:+h2%3D%22127.0.0.2:{faults.port}%22;+ma%3D86400"
    run("--json", f"{faults.url}/H60-alt/file/a.bin?line={line}", cwd=folder).done  # noqa: B018
    assert {record.host for record in faults.books["H60-alt"].records} == {"127.0.0.1"}


@pytest.mark.row("H24")
def test_a_complete_part_file_is_published_after_a_look_at_its_end(faults: FaultServer, folder: Path) -> None:
    """It could not be published before, as its name was taken while it was being received."""
    url = faults.url + "/H24/dies/a.bin?after=3M&how=fin"
    with Command("--json", "-o", "a.bin", url, cwd=folder) as command:
        command.wait_for_received(2 << 20)
        (folder / "a.bin").write_bytes(EARLIER)
        faults.books["H24"].phase = 2
        outcome = command.finish()
    assert outcome.code == 12 and (folder / "a.bin").read_bytes() == EARLIER
    (folder / "a.bin").unlink()
    before = faults.books["H24"].sent
    assert run("--json", "-o", "a.bin", url, cwd=folder).done["resumed"] == 4 << 20
    assert faults.books["H24"].sent - before <= 64 << 10
    assert [path.name for path in folder.iterdir()] == ["a.bin"]
