"""Stopped, killed, changed, locked: a download goes on where it was, or says why it cannot, and never mixes two files."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastidm.errors import ContentChangedError, NetworkError
from fastidm.events import DownloadStatus, Event, Finished, Progress
from fastidm.options import Options
from fastidm.queue import Queue, Task
from fastidm.storage.target import Target
from tests.support.alone import download
from tests.support.command import Command, call, run
from tests.support.content import content, first_difference
from tests.support.oddserver import Exchange, File, Gate, Habit, OddServer, Valve
from tests.support.servers import DemoServer, Nginx

MIB = 1 << 20
KIB = 1 << 10
OVERLAP = 4 * KIB
SIZE = 6 * MIB
HALF = SIZE // 2 + 300_000
EVERYTHING = float("inf")
DATA = content(SIZE, seed=7)
Serve = Callable[[Habit], OddServer]


def assert_only(folder: Path, data: bytes) -> None:
    assert os.listdir(folder) == ["a.bin"], "nothing is left but the file"
    assert first_difference((folder / "a.bin").read_bytes(), data) is None


def written(url: str, folder: Path) -> list[tuple[int, int]]:
    """The byte ranges that a killed or stopped run wrote, as its journal says."""
    target = Target(str(folder / "a.bin"), url, Options())
    found = target.prepare()
    target.close()
    assert found is not None, "there is nothing to go on with"
    return found.claims


def leave_half(server: OddServer, folder: Path, **options: Any) -> None:
    """Download in this process until all that the server's gate lets pass is written; stop, and open the gate."""
    gate = server.habit
    assert isinstance(gate, Gate)
    stop_at(server.url + "/a.bin", int(gate.until), folder, **options)
    gate.open()
    server.exchanges.clear()


def stop_at(url: str, count: int, folder: Path, **options: Any) -> None:
    """Download in this process until `count` bytes are written, and stop."""

    def look(task: Task, event: Event) -> None:
        if isinstance(event, Progress) and event.received >= count:
            manager.stop()

    with Queue(look) as manager:
        task = manager.add(url, Options(directory=str(folder), **options))
        manager.run()
    assert task.status is DownloadStatus.PAUSED
    assert sorted(os.listdir(folder)) == ["a.bin.fastidm", "a.bin.part"]


def go_on(url: str, folder: Path, **options: Any) -> Finished:
    """Download in this process, to the end."""
    return download(url, Options(directory=str(folder), **options))


# --- stop in good order ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_within_a_second_and_one_line_says_how_to_go_on(
    number: signal.Signals, odd: Serve, folder: Path
) -> None:
    valve = Valve(File(DATA), allowed=2 * MIB)
    server = odd(valve)
    with Command("--quiet", server.url + "/a.bin", cwd=folder) as command:
        valve.wait_until_used(server)
        sent = time.monotonic()
        command.send(number)
        outcome = command.finish()
        assert time.monotonic() - sent < 1.0
    assert (outcome.code, outcome.stdout) == (7, "")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("fastidm: stopped")
    assert line.endswith(f"to go on: python3 -m fastidm --quiet {server.url}/a.bin")

    valve.let(EVERYTHING)
    assert run("-q", server.url + "/a.bin", cwd=folder).code == 0
    assert_only(folder, DATA)


def silent(exchange: Exchange) -> None:
    exchange.hold()


def busy(exchange: Exchange) -> None:
    exchange.answer(503, "Retry-After: 60")


@pytest.mark.parametrize("habit", [silent, busy])
def test_a_signal_stops_within_a_second_while_there_is_nothing_yet(habit: Habit, odd: Serve, folder: Path) -> None:
    server = odd(habit)
    with Command("--json", server.url + "/a.bin", cwd=folder) as command:
        server.wait_for_requests(1)
        if habit is busy:
            command.wait_for("retry")
        sent = time.monotonic()
        command.send(signal.SIGINT)
        assert command.finish().code == 7
        assert time.monotonic() - sent < 1.0
    assert os.listdir(folder) == []


def test_what_was_told_as_received_is_not_fetched_again(odd: Serve, folder: Path) -> None:
    server = odd(Gate(File(DATA), HALF))
    leave_half(server, folder)
    kept = sum(stop - start for start, stop in written(server.url + "/a.bin", folder))
    assert kept == HALF
    done = go_on(server.url + "/a.bin", folder)
    assert (done.resumed, done.received) == (HALF, SIZE - HALF)
    assert_only(folder, DATA)


def test_a_file_of_unknown_length_leaves_nothing_when_it_is_stopped(odd: Serve, folder: Path) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.head(200)
        exchange.send(DATA)
        exchange.hold()

    with Command("--json", odd(endless).url + "/a.bin", cwd=folder) as command:
        command.wait_for_received(SIZE)
        command.send(signal.SIGINT)
        outcome = command.finish()
    assert outcome.code == 7
    assert "from its beginning" in outcome.stderr
    assert os.listdir(folder) == []


# --- SIGKILL ---


@pytest.mark.parametrize(("pure", "connections"), [("", 1), ("", 16), ("1", 4)])
def test_after_many_kills_the_last_run_fetches_what_is_missing_and_no_more(
    pure: str, connections: int, odd: Serve, folder: Path
) -> None:
    """Killed at arbitrary moments: the valve stops the bytes, but not the process, which may be anywhere."""
    valve = Valve(File(DATA))
    server = odd(valve)
    url, env = server.url + "/a.bin", {"FASTIDM_PURE": pure}
    before = 0
    for share in (1_300_001, 777_777, 1_999_999, 65_537):
        with Command("--json", "--conn", connections, url, cwd=folder, env=env) as command:
            command.wait_for("start")
            valve.let(share)
            valve.wait_until_used(server)
            if not before:
                command.wait_for_received(1)  # what was sent need not have come: some has, once, or nothing would be kept
            command.kill()
        claims = written(url, folder)
        for start, stop in claims:
            assert first_difference((folder / "a.bin.part").read_bytes()[start:stop], DATA[start:stop]) is None
        kept = sum(stop - start for start, stop in claims)
        assert kept >= before, "what was written is never lost"
        before = kept
    assert 0 < before < SIZE

    server.exchanges.clear()
    valve.let(EVERYTHING)
    outcome = run("--json", "--conn", connections, url, cwd=folder, env=env)
    assert outcome.done["resumed"] == before
    assert_only(folder, DATA)
    assert_asks_for_the_rest(server.exchanges, claims)


def assert_asks_for_the_rest(exchanges: list[Exchange], claims: list[tuple[int, int]]) -> None:
    """Each request goes at most 4 KiB beyond both ends of what is missing and asks for nothing else that is there already."""
    asked = bytearray(SIZE)
    for exchange in exchanges:
        assert exchange.first is not None and exchange.last is not None, exchange
        again = sum(max(0, min(stop, exchange.last + 1) - max(start, exchange.first)) for start, stop in claims)
        assert again <= 2 * OVERLAP, f"{exchange} asks for {again} bytes that are there"
        asked[exchange.first : exchange.last + 1] = b"\1" * (exchange.last + 1 - exchange.first)
    for start, stop in claims:
        asked[start:stop] = b"\1" * (stop - start)
    assert all(asked), "and all that is missing is asked for"


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_a_kill_loses_nothing_that_was_told(io: str, odd: Serve, folder: Path) -> None:
    url = odd(Gate(File(DATA), HALF)).url + "/a.bin"
    with Command("--json", "--io", io, url, cwd=folder) as command:
        told = command.wait_for_received(HALF)["received"]
        command.kill()
    assert sum(stop - start for start, stop in written(url, folder)) >= told


def test_kills_at_random_moments_of_a_real_transfer(folder: Path) -> None:
    """At full speed, from a server with an honest rate; the moments are counted in bytes that the server sent."""
    with DemoServer(size=SIZE, rate=2 * MIB) as server:
        for share in (1, 2, 3):
            with Command("--conn", "4", server.url, cwd=folder, env={"FASTIDM_DEBUG": "1"}) as command:
                while server.stats()["sent"] < share * SIZE // 4:
                    assert command.process.poll() is None
                command.kill()
        before = server.stats()["sent"]
        outcome = run("--json", "--conn", "4", server.url, cwd=folder)
        assert outcome.done["resumed"] > SIZE // 4
        fetched = server.stats()["sent"] - before
        # 4 KiB for each connection, and what is on its way when a connection is cut short.
        assert fetched <= SIZE - outcome.done["resumed"] + 16 * OVERLAP + 4 * 64 * KIB
        (file,) = folder.iterdir()
        assert first_difference(file.read_bytes(), content(SIZE)) is None


def test_a_kill_before_the_end_of_a_small_file_leaves_nothing_in_the_way(odd: Serve, folder: Path) -> None:
    data = content(MIB)
    valve = Valve(File(data), allowed=500_000)
    server = odd(valve)
    with Command(server.url + "/a.bin", cwd=folder) as command:
        valve.wait_until_used(server)
        command.kill()
    valve.let(EVERYTHING)
    assert run("-q", server.url + "/a.bin", cwd=folder).code == 0
    assert_only(folder, data)


# --- what an earlier run left is worth nothing ---


def without_journal(folder: Path) -> None:
    (folder / "a.bin.fastidm").unlink()


def without_part(folder: Path) -> None:
    (folder / "a.bin.part").unlink()


def with_empty_journal(folder: Path) -> None:
    (folder / "a.bin.fastidm").write_bytes(b"")


def with_cut_journal(folder: Path) -> None:
    os.truncate(folder / "a.bin.fastidm", 5000)


def with_random_journal(folder: Path) -> None:
    (folder / "a.bin.fastidm").write_bytes(content(16 * KIB, seed=99))


def with_cut_part(folder: Path) -> None:
    os.truncate(folder / "a.bin.part", SIZE // 2)


def with_other_part(folder: Path) -> None:
    (folder / "other").write_bytes(content(SIZE, seed=99))
    (folder / "other").rename(folder / "a.bin.part")


@pytest.mark.parametrize(
    "damage",
    [
        without_journal,
        without_part,
        with_empty_journal,
        with_cut_journal,
        with_random_journal,
        with_cut_part,
        with_other_part,
    ],
)
def test_damaged_remains_are_no_error_and_not_believed(damage: Callable[[Path], None], odd: Serve, folder: Path) -> None:
    server = odd(Gate(File(DATA), HALF))
    leave_half(server, folder)
    damage(folder)
    assert go_on(server.url + "/a.bin", folder).resumed == 0
    assert_only(folder, DATA)


def test_the_journal_of_a_newer_version_is_left_alone(odd: Serve, folder: Path) -> None:
    server = odd(Gate(File(DATA), HALF))
    leave_half(server, folder)
    journal = folder / "a.bin.fastidm"
    page = bytearray(journal.read_bytes())
    page[10:12] = (2).to_bytes(2, "big")
    page[17:21] = zlib.crc32(page[:17] + page[21:4096]).to_bytes(4, "big")  # as docs/journal.md says
    journal.write_bytes(page)
    outcome = call("--quiet", server.url + "/a.bin", cwd=folder)
    assert outcome.code == 20
    assert outcome.complaint
    assert server.exchanges == []
    assert journal.read_bytes() == page
    assert (folder / "a.bin.part").stat().st_size == SIZE


def test_restart_begins_anew(odd: Serve, folder: Path) -> None:
    server = odd(Gate(File(DATA), HALF))
    leave_half(server, folder)
    done = go_on(server.url + "/a.bin", folder, restart=True)
    assert (done.resumed, done.received, server.exchanges[0].first) == (0, SIZE, 0)
    assert_only(folder, DATA)


# --- the file on the server has changed ---


OTHERS = {
    "other bytes": content(SIZE, seed=8),
    "one byte less": content(SIZE - 1, seed=7),
    "longer": content(SIZE + MIB, seed=7),
}


@pytest.mark.parametrize("new", OTHERS.values(), ids=OTHERS)
def test_a_changed_file_is_told_and_never_mixed(new: bytes, nginx: Nginx, folder: Path) -> None:
    url = nginx.add("a.bin", DATA)
    stop_at(url, 1, folder, limit_rate=2 * MIB)
    path = nginx.folder / url.removeprefix(nginx.url + "/")
    path.write_bytes(new)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    part = (folder / "a.bin.part").read_bytes()

    with pytest.raises(ContentChangedError) as caught:
        go_on(url, folder)
    assert "--restart" in caught.value.hint and "--on-change" in caught.value.hint
    assert (folder / "a.bin.part").read_bytes() == part, "and what was received is kept"
    assert sorted(os.listdir(folder)) == ["a.bin.fastidm", "a.bin.part"]

    go_on(url, folder, on_change="restart")
    assert_only(folder, new)


@pytest.mark.parametrize("etag", ['"1"', None], ids=["another ETag", "no validator at all"])
def test_a_change_between_two_runs_is_seen(etag: str | None, odd: Serve, folder: Path) -> None:
    """Without a validator it is the overlap of 4 KiB that tells."""
    server = odd(Gate(File(DATA, etag=etag), HALF))
    leave_half(server, folder)
    new = content(SIZE, seed=9)
    server.habit = File(new, etag='"2"' if etag else None)
    outcome = run("--quiet", server.url + "/a.bin", cwd=folder)
    assert outcome.code == 8
    assert outcome.complaint
    assert sorted(os.listdir(folder)) == ["a.bin.fastidm", "a.bin.part"]
    outcome = run("--quiet", "--on-change", "restart", server.url + "/a.bin", cwd=folder)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert_only(folder, new)


@pytest.mark.parametrize("on_change", ["fail", "restart"])
def test_a_change_in_the_middle_of_a_run_is_seen(on_change: str, odd: Serve, folder: Path) -> None:
    new = content(SIZE, seed=9)
    first, second = File(DATA), File(new, etag='"2"')

    def habit(exchange: Exchange) -> None:
        if len(exchange.server.exchanges) < 3:
            body = first.head(exchange)
            exchange.send(body[: 64 * KIB])
            exchange.server.wait_for_requests(3)
            exchange.send(body[64 * KIB :])
        else:
            second(exchange)

    server = odd(habit)
    outcome = run("--quiet", "--on-change", on_change, server.url + "/a.bin", cwd=folder)
    if on_change == "restart":
        assert outcome.code == 0
        assert_only(folder, new)
    else:
        assert outcome.code == 8
        assert outcome.complaint
        assert "a.bin" not in os.listdir(folder)


def test_another_etag_for_the_same_bytes_of_the_same_date_is_no_change(odd: Serve, folder: Path) -> None:
    """As some CDNs do: each node has ETags of its own."""
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    nodes = [File(DATA, etag=f'"{node}"', modified=date) for node in range(3)]
    server = odd(lambda exchange: nodes[len(exchange.server.exchanges) % 3](exchange))
    go_on(server.url + "/a.bin", folder)
    assert_only(folder, DATA)


def test_a_server_that_gives_no_more_ranges_gives_the_file_all_the_same(odd: Serve, folder: Path) -> None:
    server = odd(Gate(File(DATA), HALF))
    leave_half(server, folder)
    server.habit = lambda exchange: exchange.answer(200, 'ETag: "1"', body=DATA)
    go_on(server.url + "/a.bin", folder)
    assert_only(folder, DATA)


def test_an_error_page_in_place_of_the_file_is_not_mixed_in(odd: Serve, folder: Path) -> None:
    """As a captive portal answers: 200, and a page of its own."""
    server = odd(Gate(File(DATA), HALF))
    leave_half(server, folder)
    server.habit = lambda exchange: exchange.answer(200, "Content-Type: text/html", body=b"<h1>Log in</h1>" * 100)
    with pytest.raises((ContentChangedError, NetworkError)):
        go_on(server.url + "/a.bin", folder, retries=0)
    server.habit = File(DATA)
    assert go_on(server.url + "/a.bin", folder).resumed == HALF
    assert_only(folder, DATA)


def test_the_same_file_from_another_address_goes_on_where_it_was(odd: Serve, folder: Path) -> None:
    server, other = odd(Gate(File(DATA), HALF)), odd(File(DATA))
    leave_half(server, folder)
    done = download(other.url + "/signed?token=2", Options(output=str(folder / "a.bin")))
    assert done.resumed == HALF
    assert_only(folder, DATA)


def test_an_unproven_file_from_another_address_is_not_mixed_in(odd: Serve, folder: Path) -> None:
    server, other = odd(Gate(File(DATA, etag=None), HALF)), odd(File(DATA, etag=None))
    leave_half(server, folder)
    with pytest.raises(ContentChangedError):
        go_on(other.url + "/a.bin", folder)
    assert go_on(other.url + "/a.bin", folder, on_change="restart").resumed == 0
    assert_only(folder, DATA)


# --- two at once ---


def test_a_second_process_on_the_same_target_ends_at_once_and_the_first_is_unharmed(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with Command("--json", url, cwd=folder) as first:
        first.wait_for("start")
        for flags in ((), ("--restart",)):
            second = run("--quiet", *flags, url, cwd=folder)
            assert second.code == 11, flags
            assert second.complaint
            assert second.seconds < 5
        gate.open()
        outcome = first.finish()
    assert (outcome.code, outcome.stderr) == (0, "")
    assert_only(folder, DATA)


def test_the_lock_dies_with_its_process(odd: Serve, folder: Path) -> None:
    valve = Valve(File(DATA), allowed=2 * MIB)
    server = odd(valve)
    with Command(server.url + "/a.bin", cwd=folder) as first:
        valve.wait_until_used(server)
        first.kill()
    valve.let(EVERYTHING)
    assert run("--quiet", server.url + "/a.bin", cwd=folder).code == 0
    assert_only(folder, DATA)
