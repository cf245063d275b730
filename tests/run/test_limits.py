"""Servers that allow little, break often, or stand still: the file is right all the same, and few requests are wasted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fastidm.errors import BusyError
from fastidm.events import Event, Finished, Progress
from fastidm.options import Options
from fastidm.storage.target import Target
from tests.support.alone import download
from tests.support.command import Command
from tests.support.content import content, first_difference
from tests.support.oddserver import Exchange, File, Habit, Limited, OddServer
from tests.support.servers import DemoServer, Nginx

MIB = 1 << 20
KIB = 1 << 10
SIZE = 8 * MIB
DATA = content(SIZE, seed=31)
Serve = Callable[[Habit], OddServer]


def get(url: str, folder: Path, data: bytes = DATA, **options: object) -> Finished:
    """Download in this process; there must be the right file and nothing else."""
    done = download(url, Options(directory=str(folder), **options))  # type: ignore[arg-type]
    assert os.listdir(folder) == [os.path.basename(done.path)]
    assert first_difference(Path(done.path).read_bytes(), data) is None
    return done


# --- only a few connections ---


def unavailable(exchange: Exchange) -> None:
    exchange.answer(503)


def too_many(exchange: Exchange) -> None:
    exchange.answer(429, "Retry-After: 1")


def resets(exchange: Exchange) -> None:
    exchange.reset()


def hangs_up(exchange: Exchange) -> None:
    exchange.close()


def is_silent(exchange: Exchange) -> None:
    exchange.hold()


@pytest.mark.parametrize("refuse", [unavailable, too_many, resets, hangs_up, is_silent])
@pytest.mark.parametrize("most", [1, 4])
def test_a_server_with_a_limit_is_asked_for_no_more_than_it_gives(most: int, refuse: Habit, odd: Serve, folder: Path) -> None:
    limited = Limited(most, File(DATA), refuse)
    done = get(odd(limited).url + "/a.bin", folder)
    assert 1 <= limited.refused <= 2 * 8, "a limit is noticed, and not tried again and again"
    assert done.seconds < 10


def test_a_real_server_with_a_limit_serves_the_whole_file(server_folders: tuple[Path, Path], folder: Path) -> None:
    with Nginx(*server_folders, limit_conn=3, limit_rate=8 * MIB) as server:
        url = server.add("a.bin", DATA)
        get(url, folder)
        statuses = [request.status for request in server.wait_for_requests(2, url)]
    assert statuses.count(206) >= 2
    assert statuses.count(503) <= 2 * 8


def test_a_slow_server_with_a_limit_is_kept_busy_up_to_it(folder: Path) -> None:
    """Over a second and a half: what was refused is not asked for again all the time."""
    with DemoServer(size=SIZE, rate=3 * MIB // 2, limit=4) as server:
        done = get(server.url, folder, content(SIZE))
        stats = server.stats()
    assert stats["most_active"] == 4
    assert done.retries <= 2 * 8
    assert stats["requests"] <= 8 + 2 * 8 + 8
    alone = SIZE / (3 * MIB // 2)
    assert done.seconds < 0.6 * alone, "four connections are faster than one"


def test_a_server_that_has_no_place_at_first_is_waited_for(odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        if len(exchange.server.exchanges) == 1:
            exchange.answer(503, "Retry-After: 1")
        else:
            file(exchange)

    done = get(odd(habit).url + "/a.bin", folder)
    assert 1.0 <= done.seconds < 5.0


@pytest.mark.timeout(20)
@pytest.mark.parametrize("line", ["X-Nothing: 0", "Retry-After: 0"])
def test_a_server_that_never_has_a_place_again_is_not_asked_for_ever(line: str, odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        if exchange.first == 0:
            exchange.send(file.head(exchange)[:MIB])
            exchange.close()
        exchange.answer(503, line)

    server = odd(habit)
    with pytest.raises(BusyError):
        download(server.url + "/a.bin", Options(directory=str(folder), retries=2))
    assert len(server.exchanges) < 30
    assert sorted(os.listdir(folder)) == ["a.bin.fastidm", "a.bin.part"]


# --- connections that break ---


@pytest.mark.parametrize("connections", [1, 16])
@pytest.mark.parametrize("how", ["reset", "closed"])
def test_a_connection_that_breaks_every_mebibyte_costs_little(how: str, connections: int, odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        body = file.head(exchange)
        exchange.send(body[: MIB - 1000])
        if len(body) > MIB - 1000:
            exchange.reset() if how == "reset" else exchange.close()

    server = odd(habit)
    get(server.url + "/a.bin", folder, connections=connections, retries=1)
    assert len(server.exchanges) < 60
    sent = sum(exchange.sent for exchange in server.exchanges)
    assert sent <= 1.05 * SIZE + len(server.exchanges) * 64 * KIB + 3 * MIB, "what the first, open request brought too much"


def test_a_server_that_answers_every_second_request_with_an_error_serves_the_whole_file(odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        number = len(exchange.server.exchanges)
        if number % 2 == 0:
            exchange.answer((500, 502, 503, 504)[number // 2 % 4])
        else:
            file(exchange)

    server = odd(habit)
    get(server.url + "/a.bin", folder)
    assert len(server.exchanges) < 60


def test_a_server_that_is_killed_and_comes_back_is_forgiven(server_folders: tuple[Path, Path], folder: Path) -> None:
    with Nginx(*server_folders, extra="limit_rate_after 300k; limit_rate 500k;") as server:
        url = server.add("a.bin", DATA)
        with Command("--json", url, cwd=folder) as command:
            command.wait_for_received(MIB)
            os.kill(server.pid, signal.SIGKILL)
            command.wait_for("retry")
            server.stop()
            server.start()
            outcome = command.finish()
    assert outcome.done["retries"] > 0
    assert first_difference((folder / "a.bin").read_bytes(), DATA) is None


# --- connections that stand still ---


def test_a_connection_that_stands_still_is_replaced(odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        body = file.head(exchange)
        number = len(exchange.server.exchanges)
        exchange.send(body[: 64 * KIB])
        if number == 3:
            exchange.hold()
        exchange.server.wait_for_requests(3)
        exchange.send(body[64 * KIB :])

    done = get(odd(habit).url + "/a.bin", folder)
    assert done.seconds < 8
    assert done.connections > 1


def test_the_first_connection_may_be_the_one_that_stands_still(odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        body = file.head(exchange)
        if exchange is exchange.server.exchanges[0]:
            exchange.send(body[: 64 * KIB])
            exchange.hold()
        exchange.send(body)

    assert get(odd(habit).url + "/a.bin", folder).seconds < 8


def left_by(url: str, folder: Path) -> int:
    """Bytes that an earlier run wrote, as its journal says."""
    target = Target(str(folder / "a.bin"), url, Options())
    found = target.prepare()
    target.close()
    return sum(stop - start for start, stop in found.claims) if found else 0


def test_a_server_that_falls_silent_is_left_with_all_that_came(server_folders: tuple[Path, Path], folder: Path) -> None:
    with Nginx(*server_folders, extra="limit_rate_after 200k; limit_rate 100k;") as server:
        url = server.add("a.bin", DATA)
        with Command("--json", "--timeout", "1", "--retries", "0", url, cwd=folder) as command:
            command.wait_for_received(MIB)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                outcome = command.finish()
            finally:
                os.kill(server.pid, signal.SIGCONT)
        assert outcome.code == 6
        assert outcome.complaint
        assert sorted(os.listdir(folder)) == ["a.bin.fastidm", "a.bin.part"]
        assert left_by(url, folder) >= outcome.of("progress")[-1]["received"] >= MIB


# --- what is told about it ---


def test_progress_never_goes_back_and_its_segments_tile_the_file(odd: Serve, folder: Path) -> None:
    events: list[Event] = []
    limited = Limited(4, File(DATA), too_many)
    download(odd(limited).url + "/a.bin", Options(directory=str(folder)), events.append)
    told = [event for event in events if isinstance(event, Progress) and event.segments]
    assert told[-1].received == SIZE
    assert [event.received for event in told] == sorted(event.received for event in told)
    for event in told:
        edges = [0]
        for start, stop, position in event.segments:
            assert start == edges[-1] and start <= position <= stop
            edges.append(stop)
        assert edges[-1] == SIZE
        assert sum(position - start for start, _, position in event.segments) == event.received
