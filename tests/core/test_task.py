"""Whole downloads in a scripted world: what must hold for the user, whatever the server and the network do.

Every run ends, keeps to the ceiling of connections, tiles its table at every step and never claims a byte that was not
written: `World` sees to that. `download()` says that it ends with exactly the right bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from fastidm.core.actions import Ended, Notify, Request
from fastidm.core.connections import OVERLAP
from fastidm.core.hosts import Hosts
from fastidm.core.phase import STATUS, TRANSITIONS, Phase
from fastidm.core.response import Content, Head
from fastidm.core.retry import PASSING, Trouble
from fastidm.core.segments import SegmentTable, merge, tile
from fastidm.core.task import TaskMachine
from fastidm.errors import (
    AuthError,
    BusyError,
    ContentChangedError,
    FastidmError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RedirectError,
    RefusedError,
    StorageError,
    TlsError,
)
from fastidm.events import DownloadStatus
from fastidm.options import Options
from tests.core.driver import (
    ETAG,
    KIB,
    MIB,
    SILENCE,
    SOCKET,
    URL,
    Ask,
    Remains,
    Reply,
    Rule,
    Server,
    World,
    claims_of,
    content,
    refusal,
    trouble,
)


def world(server: Server, connections: int = 8, seed: int = 0, left: Remains | None = None, **options: object) -> World:
    return World(server, Options(connections=connections, **options), seed, left)  # type: ignore[arg-type]


def on(which: Callable[[Ask], bool], reply: Reply) -> Rule:
    """A rule: `reply` to every request of which `which` is true."""
    return lambda ask: reply if which(ask) else None


def bent(server: Server, which: Callable[[Ask], bool], **changes: object) -> Server:
    """The server, with its usual answers changed where `which` is true."""
    server.rules.append(lambda ask: server.usual(ask).but(**changes) if which(ask) else None)
    return server


def ranged(ask: Ask) -> bool:
    return ask.first is not None


def always(ask: Ask) -> bool:
    return True


def interrupted(server: Server, at: float, connections: int = 4) -> Remains:
    """What a run leaves that was killed `at` seconds after its start."""
    return world(server, connections).run_for(at).remains()


# ---------------------------------------------------------------------- the plain cases


@pytest.mark.parametrize("connections", [1, 2, 16])
@pytest.mark.parametrize("size", [0, 1, 100, MIB, MIB + 1, 2 * MIB, 5 * MIB + 12345])
def test_a_file_of_any_size_is_downloaded(size: int, connections: int) -> None:
    done = world(Server(content(size)), connections).download()
    assert done.machine.status is DownloadStatus.COMPLETED
    assert done.server.sent <= size * 1.1


def test_the_probe_is_the_first_segment_and_no_other_request_precedes_the_answer() -> None:
    run = world(Server(content(4 * MIB), latency=1.0)).run_for(0.9)
    assert [(ask.first, ask.last) for ask in run.server.asked] == [(0, None)]
    run.download()
    assert sum(1 for ask in run.server.asked if ask.first == 0) == 1


def test_a_small_file_takes_one_request() -> None:
    assert len(world(Server(content(100 * KIB)), 16).download().server.asked) == 1


@pytest.mark.parametrize(("seconds", "alone"), [(0.01, True), (0.1, True), (0.4, False), (4.0, False)])
def test_a_file_that_one_connection_brings_in_a_moment_is_not_asked_for_by_others(seconds: float, alone: bool) -> None:
    run = world(Server(content(8 * MIB), rate=8 * MIB / seconds), 16).download()
    assert (len(run.server.asked) == 1) is alone


@pytest.mark.parametrize("connections", [1, 4, 16, 64])
def test_connections_that_the_server_caps_each_add_up_to_the_ceiling(connections: int) -> None:
    run = world(Server(content(32 * MIB), rate=32 * MIB / connections / 4), connections).download()
    assert run.machine.connections.peak == connections
    assert run.now < 4 * 1.25, "32 MiB at 8 MiB/s in all"


def test_on_a_line_that_one_connection_fills_it_is_no_slower_and_fetches_nothing_twice() -> None:
    server = Server(content(16 * MIB))
    run = world(server, 16)
    server.rules.append(lambda ask: server.usual(ask).but(rate=lambda now: 8 * MIB / max(1, len(run.machine.connections.busy))))
    run.download()
    assert run.now < 2 * 1.2
    assert server.sent < 1.05 * len(server.body)


def at_its_limit(load: float, takes: int = 256 * KIB) -> World:
    """A task that takes 25 MiB each second of a connection, whose server could send twice as much."""
    run = world(Server(content(64 * MIB), rate=50 * MIB), 16)
    run.takes, run.load = takes, load
    return run


def test_while_this_process_is_the_limit_no_other_connection_is_opened() -> None:
    run = at_its_limit(load=0.95).download()
    assert len(run.server.asked) == run.machine.connections.peak == 1


@pytest.mark.parametrize(("load", "takes"), [(0.5, 256 * KIB), (0.95, SOCKET)], ids=["it could do more", "nothing waits here"])
def test_unless_it_is_the_limit_there_are_others(load: float, takes: int) -> None:
    assert at_its_limit(load, takes).download().machine.connections.peak > 1


def test_what_every_round_finds_has_waited_though_a_look_afterwards_finds_nothing() -> None:
    run = at_its_limit(load=0.95, takes=SOCKET)
    run.rounds = 5
    assert run.download().machine.connections.peak == 1


def test_a_task_that_is_slow_beside_others_that_are_not_may_have_more_connections() -> None:
    run = at_its_limit(load=0.95)
    run.usual = 200.0 * MIB
    assert run.download().machine.connections.peak > 1


def test_while_a_rate_limit_holds_it_back_no_other_connection_is_opened() -> None:
    """As long as the server could send more; one that paces each connection is given more of them."""
    for rate, alone in ((50 * MIB, True), (MIB // 2, False)):
        run = World(Server(content(4 * MIB), rate=rate), Options(connections=4, limit_rate=MIB)).download()
        assert (len(run.server.asked) == 1) is alone


def test_as_soon_as_this_process_could_do_more_others_are_opened() -> None:
    run = at_its_limit(load=0.95).run_for(0.5)
    assert len(run.server.asked) == 1
    run.load = 0.5
    assert len(run.run_for(0.1).server.asked) == 1, "it may just happen to wait"
    assert run.run_for(0.4).machine.connections.peak > 1
    run.download()


def test_an_answer_that_comes_when_this_process_has_become_the_limit_brings_no_others() -> None:
    run = at_its_limit(load=0.5)
    run.run(until=lambda: len(run.server.asked) == 2)
    run.load = 0.95
    run.run(until=lambda: len(run.machine.connections.busy) == 2)
    assert len(run.server.asked) == 2


def test_no_byte_but_those_at_the_seams_is_fetched_twice_when_all_goes_well() -> None:
    run = world(Server(content(32 * MIB), rate=MIB), 16).download()
    assert run.taken <= len(run.server.body) + 16 * OVERLAP
    assert len(run.server.asked) <= 2 * 16


def test_a_connection_from_far_away_does_not_make_it_split_all_the_time() -> None:
    run = world(Server(content(32 * MIB), rate=MIB, latency=0.6), 8).download()
    assert len(run.server.asked) <= 40


# ---------------------------------------------------------------------- servers that cannot do much


@pytest.mark.parametrize("size", [0, 100, 5 * MIB])
def test_a_server_without_ranges_is_asked_once(size: int) -> None:
    server = world(Server(content(size), ranges=False), 16).download().server
    assert len(server.asked) == 1 and server.sent == size


@pytest.mark.parametrize("size", [0, 1, 100, 3 * MIB])
def test_a_stream_of_unknown_length_is_downloaded_to_its_end(size: int) -> None:
    run = world(Server(content(size), ranges=False, length=False)).download()
    assert run.machine.content.total is None and run.machine.table is not None
    assert run.machine.table.size == size
    assert len(run.server.asked) <= 2 and run.machine.connections.peak <= 1


@pytest.mark.parametrize("status", [400, 403, 405, 416, 501])
def test_a_server_that_refuses_ranges_is_asked_without(status: int) -> None:
    server = Server(content(3 * MIB), on(ranged, refusal(status)), ranges=False)
    assert [ask.first for ask in world(server).download().server.asked] == [0, None]


@pytest.mark.parametrize("span", [None, "bytes 7-99/100", "nonsense", f"bytes 0-{3 * MIB - 1}/*"])
def test_a_server_whose_parts_cannot_be_placed_is_asked_for_the_whole_file(span: str | None) -> None:
    server = bent(Server(content(3 * MIB)), ranged, fields={"content-range": span})
    assert [ask.first for ask in world(server).download().server.asked] == [0, None]


def test_a_server_that_answers_in_several_parts_is_asked_for_the_whole_file() -> None:
    server = bent(Server(content(3 * MIB)), ranged, fields={"content-type": "multipart/byteranges; boundary=x"})
    world(server).download()


@pytest.mark.parametrize("status", [400, 403, 405, 416, 501])
def test_a_download_from_a_server_that_refuses_ranges_can_be_resumed(status: int) -> None:
    server = Server(content(3 * MIB), on(ranged, refusal(status)), ranges=False, rate=MIB)
    left = interrupted(server, 1.0)
    world(server, left=left).download()


def test_a_download_from_a_server_without_ranges_is_resumed_by_comparing_its_front() -> None:
    server = Server(content(3 * MIB), ranges=False, rate=MIB)
    left = interrupted(server, 1.0)
    assert claims_of(left.table)
    world(server, left=left).download()


def test_a_server_that_stops_sending_parts_is_still_good_for_a_resumed_download() -> None:
    server = Server(content(4 * MIB), rate=MIB)
    left, before = interrupted(server, 0.5), server.sent
    server.ranges = False
    assert len(claims_of(left.table)) > 1
    run = world(server, left=left).download()
    assert server.sent - before == len(server.body) and run.machine.connections.peak == 1


def test_shorter_parts_than_asked_for_are_put_together() -> None:
    server = Server(content(4 * MIB))
    server.rules.append(lambda ask: server.part(ask.first or 0, min(len(server.body), (ask.first or 0) + 300_000)))
    assert len(world(server).download().server.asked) < 60


def test_longer_parts_than_asked_for_do_not_overwrite_their_neighbours() -> None:
    server = Server(content(8 * MIB), rate=MIB)
    server.rules.append(lambda ask: server.part(ask.first or 0, len(server.body)))
    world(server).download()
    assert server.sent < 1.1 * len(server.body)


def test_a_server_that_shifts_every_later_part_is_never_believed() -> None:
    server = Server(content(8 * MIB), rate=MIB)
    server.rules.append(lambda ask: server.part(ask.first + 512, len(server.body)) if ask.first else None)
    assert world(server, 4).run().machine.error is None or isinstance(world(server, 4).fail(), ProtocolError)


@pytest.mark.parametrize("first_good", [4, 6])
def test_a_part_that_comes_shifted_now_and_then_costs_a_connection_and_no_byte(first_good: int) -> None:
    server = Server(content(16 * MIB), rate=MIB)
    server.rules.append(
        lambda ask: server.part(ask.first + 4096, len(server.body)) if ask.first and ask.number % first_good == 0 else None
    )
    world(server, 8).download()


def test_whole_files_in_place_of_later_parts_are_never_written_there() -> None:
    server = Server(content(4 * MIB), rate=MIB)
    server.rules.append(lambda ask: server.whole() if ask.first and ask.number % 3 == 0 else None)
    world(server, 4).download()
    assert server.sent < 1.1 * len(server.body)


def test_a_server_that_sends_whole_files_for_all_later_parts_is_left_to_its_first_answer() -> None:
    server = Server(content(16 * MIB), rate=MIB)
    server.rules.append(lambda ask: server.whole() if ask.first else None)
    run = world(server, 16).download()
    assert run.taken == len(server.body) and len(server.asked) < 5


def test_a_server_that_sends_whole_files_after_some_parts_costs_what_is_not_at_the_front_twice() -> None:
    server = Server(content(16 * MIB), rate=MIB)
    server.rules.append(lambda ask: server.whole() if ask.first and ask.number > 3 else None)
    world(server, 16).download()
    assert server.sent <= 1.3 * len(server.body) + MIB and len(server.asked) < 20


# ---------------------------------------------------------------------- slow connections

HEALTHY = 1.3
"""Times the ideal, which is that the healthy connections alone fetch everything."""


@pytest.mark.parametrize("factor", [32, 1000])
@pytest.mark.parametrize("connections", [8, 16])
def test_every_fifth_connection_being_slow_costs_little(connections: int, factor: int) -> None:
    rate = 32.0 * MIB / connections / 5
    server = bent(Server(content(32 * MIB), rate=rate), lambda ask: ask.number % 5 == 0, rate=rate / factor)
    run = world(server, connections).download()
    healthy = connections - connections // 5
    assert run.now <= HEALTHY * len(server.body) / (healthy * rate)
    assert server.sent < 1.1 * len(server.body)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("connections", [8, 16])
def test_slow_connections_do_not_pile_up_while_the_quick_ones_come_to_their_ends(connections: int, seed: int) -> None:
    """Three of ten connections are slow: those that are left over at the end are no measure of what a new one brings."""
    chance, rate = random.Random(seed), 4.0 * MIB / connections
    server = bent(Server(content(16 * MIB), rate=rate), lambda ask: chance.random() < 0.3, rate=rate / 1000)
    run = world(server, connections, seed).download()
    assert run.now <= 4 * len(server.body) / (0.7 * connections * rate)


@pytest.mark.parametrize("unlucky", [range(2, 5), range(2, 7), range(5, 8)])
def test_when_only_slow_connections_are_left_they_are_exchanged_one_after_the_other(unlucky: range) -> None:
    """What the quick ones brought before is remembered, so that the slow ones do not pass for the measure of each other."""
    server = bent(Server(content(8 * MIB), rate=MIB), lambda ask: ask.number in unlucky, rate=KIB)
    assert world(server, 4).download().now < 40


def collapse(at: float, after: float, number: int = 3) -> Server:
    """The `number`-th connection falls to `after` bytes per second `at` that time; 8 of them would end at 4.1 seconds."""
    server = Server(content(32 * MIB), rate=MIB)
    return bent(server, lambda ask: ask.number == number, rate=lambda now: MIB if now < at else after)


@pytest.mark.parametrize("at", [0.3, 2.0, 3.0, 3.8, 4.0])
@pytest.mark.parametrize("after", [16 * KIB, KIB, 0])
def test_one_connection_that_collapses_at_any_time_costs_little(at: float, after: float) -> None:
    run = world(collapse(at, after)).download()
    assert run.now <= HEALTHY * 32 / 7


@pytest.mark.parametrize("seed", range(5))
def test_speeds_that_differ_by_far_are_made_up_for(seed: int) -> None:
    """Every connection that takes over from another one draws a new speed, so that their sum is only nearly the ideal."""
    chance = random.Random(seed)
    speeds = [MIB * 2 ** chance.uniform(-4, 1) for _ in range(8)]
    server = Server(content(16 * MIB))
    server.rules.append(lambda ask: server.usual(ask).but(rate=speeds[ask.number % 8]))
    run = world(server, seed=seed).download()
    assert run.now <= 3 * len(server.body) / sum(speeds)


# ---------------------------------------------------------------------- servers that allow only a few connections

LIMIT = 4
REFUSALS = {
    "503": refusal(503),
    "503 with Retry-After": refusal(503, retry_after="1"),
    "429 with a date": refusal(429, retry_after="Tue, 14 Nov 2023 22:13:22 GMT"),
    "403": refusal(403),
    "reset": trouble(),
    "refused": trouble(Trouble.CONNECT, 0.001),
    "silence": SILENCE,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", REFUSALS)
def test_a_server_that_allows_four_connections_is_found_out_and_the_file_still_comes(how: str, seed: int) -> None:
    server = Server(content(16 * MIB), on(lambda ask: ask.others >= LIMIT, REFUSALS[how]), rate=MIB)
    run = world(server, 16, seed).download()
    refused = sum(1 for ask in server.asked if ask.others >= LIMIT)
    limit = run.machine.connections.ramp.limit
    assert run.machine.connections.peak == LIMIT
    assert limit is not None and LIMIT <= limit <= (2 * LIMIT if how == "silence" else LIMIT)
    assert run.now < 6
    assert 0 < refused <= 2 * LIMIT


def test_a_limited_server_is_tried_again_by_one_connection_each_half_minute() -> None:
    server = Server(content(32 * MIB), on(lambda ask: ask.others >= LIMIT, refusal(503)), rate=64.0 * KIB)
    run = world(server, 16).download()
    refused = sum(1 for ask in server.asked if ask.others >= LIMIT)
    assert run.now / 60 < refused <= 2 * LIMIT + run.now / 30 + 1


def test_a_server_that_allows_one_connection_still_gives_the_file() -> None:
    world(Server(content(8 * MIB), on(lambda ask: ask.others >= 1, refusal(503)), rate=4.0 * MIB), 16).download()


def test_a_long_wait_that_a_refused_connection_is_told_does_not_stop_the_others() -> None:
    server = Server(content(16 * MIB), on(lambda ask: ask.others >= LIMIT, refusal(429, retry_after="120")), rate=MIB)
    world(server, 16).download()


# ---------------------------------------------------------------------- when the network is away


@pytest.mark.parametrize("away", [3.0, 12.0, 30.0, 50.0])
def test_an_outage_shorter_than_the_timeout_is_survived(away: float) -> None:
    server = Server(content(16 * MIB), rate=MIB)
    server.outages = [(1.0, 1.0 + away)]
    run = world(server).download()
    assert run.now < 1 + away + 20 + 3
    assert run.taken <= len(server.body) + OVERLAP * len(server.asked)


def test_after_a_suspend_it_connects_again_at_once() -> None:
    server = Server(content(16 * MIB), rate=MIB)
    server.outages = [(1.0, 1.01)]  # the running connections never wake up again
    run = world(server)
    run.run_for(1.0)
    run.machine.woke(run.now)
    assert run.download().now < 1 + 16 / 8 + 1


@pytest.mark.parametrize("at", [0.01, 0.03])
def test_a_suspend_before_the_first_byte_is_survived(at: float) -> None:
    run = world(Server(content(4 * MIB), rate=MIB))
    run.run_for(at)
    run.machine.woke(run.now)
    run.download()


@pytest.mark.parametrize("what", [Trouble.RESOLVE, Trouble.CONNECT, Trouble.BROKEN, Trouble.TIMEOUT])
def test_a_network_that_says_it_is_away_is_waited_for_too(what: Trouble) -> None:
    server = Server(content(16 * MIB), rate=MIB)
    server.outages = [(1.0, 1.01)]  # the running ones never wake up again
    server.rules = [on(lambda ask: 1.0 < ask.now < 40.0, trouble(what))]
    world(server, retries=2).download()


def test_an_outage_longer_than_the_timeout_ends_the_task_and_keeps_what_came() -> None:
    server = Server(content(16 * MIB), rate=MIB)
    server.outages = [(1.0, 10_000.0)]
    run = world(server, timeout=60)
    assert isinstance(run.fail(), NetworkError)
    assert 60 <= run.now <= 70
    server.outages.clear()
    again = world(server, left=run.remains()).download()
    assert again.taken < len(server.body) - run.received + 16 * OVERLAP


def crash_of_server(since: float, until: float) -> Server:
    """All connections break `since`, new ones are refused `until`."""
    server = Server(content(32 * MIB), rate=MIB)

    def rule(ask: Ask) -> Reply | None:
        if since <= ask.now < until:
            return trouble(Trouble.CONNECT, 0.001)
        if ask.now < since:
            return server.usual(ask).but(cut=int((since - ask.now) * server.rate), trouble=Trouble.BROKEN)
        return None

    server.rules.append(rule)
    return server


@pytest.mark.parametrize("away", [0.5, 2.0, 10.0])
def test_a_server_that_restarts_gets_all_its_connections_back(away: float) -> None:
    run = world(crash_of_server(2.0, 2.0 + away)).run(30, lambda: False)
    assert run.machine.phase is Phase.COMPLETED
    assert run.now < 2 + 2 * away + 2 + 3


@pytest.mark.parametrize("away", [12, 40])
@pytest.mark.parametrize("since", [0.1, 0.12, 0.2])
def test_an_outage_in_the_first_moment_is_not_taken_for_a_limit_of_the_server(since: float, away: float) -> None:
    """Some connections receive already, the others were asked for and are never answered."""
    server = Server(content(16 * MIB), rate=MIB / 2)
    server.outages = [(since, since + away)]
    run = world(server, 16).download()
    assert run.now < since + away + 10 + 1.25 * 2, "it is found within ten seconds that the network is back"


def test_a_server_that_refuses_everybody_but_keeps_one_waiting_is_not_flooded() -> None:
    server = crash_of_server(1.0, 20.0)
    server.rules.insert(0, on(lambda ask: 1 < ask.now < 20 and ask.number % 5 == 0, SILENCE))
    run = world(server).download()
    assert sum(1 for ask in server.asked if 1 < ask.now < 20) <= 40
    assert run.now < 20 + 10 + 5


def test_after_an_outage_the_file_comes_as_fast_as_before() -> None:
    server = Server(content(64 * MIB), rate=MIB)
    server.outages = [(2.0, 7.0)]
    run = world(server).download()
    assert run.now < 20 + 8, "48 MiB were left, 8 MiB/s are possible"


# ---------------------------------------------------------------------- breaks, and the budget of retries


def test_connections_that_break_again_and_again_are_no_failure_while_bytes_come() -> None:
    server = bent(Server(content(16 * MIB), rate=MIB), always, cut=700_000, trouble=Trouble.BROKEN)
    run = world(server, retries=0).download()
    assert run.taken <= len(server.body) + OVERLAP * len(server.asked)


@pytest.mark.parametrize("length", [True, False])
def test_a_single_connection_without_ranges_that_breaks_goes_on_behind_what_it_has(length: bool) -> None:
    server = Server(content(3 * MIB), ranges=False, length=length)
    server.rules.append(
        lambda ask: server.whole().but(cut=700_000 * ask.number, trouble=Trouble.BROKEN) if ask.number < 4 else None
    )
    world(server).download()


def test_a_stream_that_ends_before_what_is_already_written_is_not_taken_for_its_end() -> None:
    server = Server(content(3 * MIB), ranges=False, length=False)
    server.rules = [
        on(lambda ask: ask.number == 1, server.whole().but(cut=2 * MIB, trouble=Trouble.BROKEN)),
        on(always, Reply(200, (), server.body[:MIB])),
    ]
    assert isinstance(world(server).fail(), FastidmError)


@pytest.mark.parametrize("retries", [0, 3, 5])
def test_a_server_that_is_busy_all_the_time_is_given_up_after_the_budget(retries: int) -> None:
    run = world(Server(content(MIB), on(always, refusal(503))), retries=retries)
    assert isinstance(run.fail(), BusyError)
    assert len(run.server.asked) == retries + 1
    assert [notice.failures for notice in run.notices] == list(range(1, retries + 1))


@pytest.mark.parametrize("what", sorted(PASSING - {Trouble.RESOLVE}, key=str))
def test_a_server_that_never_answers_is_given_up_after_the_budget(what: Trouble) -> None:
    run = world(Server(content(MIB), on(always, trouble(what))), retries=2)
    assert isinstance(run.fail(), TlsError if what is Trouble.TLS else NetworkError)
    assert len(run.server.asked) == 3


def test_silence_from_the_beginning_ends_after_the_users_patience() -> None:
    run = world(Server(content(MIB), on(always, SILENCE)), retries=1, connect_timeout=10)
    assert isinstance(run.fail(), NetworkError)
    assert run.now < 2 * 10 + 2


def test_a_busy_server_in_the_middle_exhausts_the_budget_too_and_keeps_what_came() -> None:
    server = Server(content(4 * MIB), rate=MIB)
    server.rules = [
        on(lambda ask: ask.number > 1, refusal(503)),
        lambda ask: server.usual(ask).but(cut=MIB, trouble=Trouble.BROKEN),
    ]
    run = world(server, 1, retries=3)
    assert isinstance(run.fail(), BusyError)
    assert len(server.asked) == 1 + 4 and run.received == MIB


def test_a_byte_of_progress_gives_the_whole_budget_back() -> None:
    server = Server(content(4 * MIB), rate=4.0 * MIB)
    server.rules = [
        on(lambda ask: ask.number % 4 != 1, refusal(503)),
        lambda ask: server.usual(ask).but(cut=MIB // 2, trouble=Trouble.BROKEN),
    ]
    run = world(server, 1, retries=3).download()
    assert len(run.notices) > 12


def test_a_name_that_never_resolves_is_given_up_soon() -> None:
    run = world(Server(content(MIB), on(always, trouble(Trouble.RESOLVE))))
    assert isinstance(run.fail(), NetworkError)
    assert len(run.server.asked) == 2 and run.now < 2


@pytest.mark.parametrize("what", sorted(set(Trouble) - PASSING, key=str))
def test_what_cannot_get_better_is_not_tried_again(what: Trouble) -> None:
    run = world(Server(content(MIB), on(always, trouble(what))))
    run.fail()
    assert len(run.server.asked) == 1


@pytest.mark.parametrize("asked", ["2", "Tue, 14 Nov 2023 22:13:22 GMT"])
def test_a_retry_after_is_obeyed_to_the_half_second(asked: str) -> None:
    run = world(Server(content(100), on(lambda ask: ask.number == 1, refusal(429, retry_after=asked)))).download()
    assert 2 <= run.server.asked[1].now <= 2.5


@pytest.mark.parametrize("wait", [30, 90])
def test_a_retry_after_in_the_middle_is_waited_for_however_long(wait: int) -> None:
    server = Server(content(4 * MIB), rate=MIB)
    server.rules = [
        on(lambda ask: ask.number == 2, refusal(503, retry_after=str(wait))),
        lambda ask: server.usual(ask).but(cut=MIB, trouble=Trouble.BROKEN) if ask.number == 1 else None,
    ]
    world(server, 1, timeout=60).download()


def test_users_are_told_of_every_wait() -> None:
    run = world(Server(content(100), on(lambda ask: ask.number <= 3, refusal(503)))).download()
    assert [notice.failures for notice in run.notices] == [1, 2, 3]
    assert all("503" in notice.reason and 0.2 < notice.delay <= 2 for notice in run.notices)


def test_a_rate_limit_is_kept_and_nobody_is_blamed_for_being_slow() -> None:
    run = world(Server(content(4 * MIB), rate=4.0 * MIB), 4, limit_rate=128 * KIB).download()
    assert 30 < run.now < 33
    assert not run.notices and run.machine.connections.lost == 0


def test_a_wait_that_a_rate_limit_makes_is_no_silence_of_the_network() -> None:
    world(Server(content(80 * KIB), rate=4.0 * MIB), 1, limit_rate=512, timeout=30).download()


@pytest.mark.parametrize("rule", ["refused", "silent"])
def test_a_rate_limit_does_not_keep_a_task_alive_whose_server_is_gone(rule: str) -> None:
    server = Server(content(8 * MIB), rate=MIB)
    server.outages = [(1.0, 1.01 if rule == "refused" else 10_000.0)]
    server.rules = [on(lambda ask: ask.now > 1, trouble(Trouble.CONNECT))]
    run = world(server, 2, limit_rate=MIB)
    assert isinstance(run.fail(1800), NetworkError)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NotFoundError), (410, NotFoundError), (401, AuthError), (407, AuthError), (403, RefusedError), (416, RefusedError)],
)
def test_a_refusal_of_the_first_request_ends_the_task_at_once(status: int, error: type[FastidmError]) -> None:
    run = world(Server(content(100), on(always, refusal(status))))
    assert type(run.fail()) is error
    assert len(run.server.asked) <= 2 and not run.file and run.begun is None


@pytest.mark.parametrize(("status", "error"), [(s, AuthError) for s in (401, 403, 410)] + [(404, ContentChangedError)])
def test_a_link_that_expires_in_the_middle_ends_as_a_question_of_access_and_keeps_what_came(
    status: int, error: type[FastidmError]
) -> None:
    server = bent(Server(content(8 * MIB), rate=MIB), lambda ask: ask.now < 1, cut=MIB // 2, trouble=Trouble.BROKEN)
    server.rules.insert(0, on(lambda ask: ask.now >= 1, refusal(status)))
    run = world(server, 4)
    assert isinstance(run.fail(), error)
    assert run.received > 0


def link_that_expires(status: int) -> Server:
    """URL leads to a signed one, which is good for half a second; then its connections break and it answers `status`."""
    server = Server(content(8 * MIB), rate=MIB)

    def rule(ask: Ask) -> Reply | None:
        if ask.url == URL:
            return refusal(302, location=f"http://cdn.test/signed?{ask.now}")
        age = ask.now - float(ask.url.partition("?")[2])
        if age > 0.5:
            return refusal(status)
        return server.usual(ask).but(cut=int((0.5 - age) * server.rate) + 1000, trouble=Trouble.BROKEN)

    server.rules.append(rule)
    return server


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_signed_link_that_expires_is_asked_for_again_at_its_origin(status: int, connections: int) -> None:
    world(link_that_expires(status), connections).download()


def test_a_link_that_has_expired_for_good_is_not_asked_for_for_ever() -> None:
    server = Server(content(4 * MIB), rate=MIB)

    def rule(ask: Ask) -> Reply | None:
        if ask.url == URL:
            return refusal(302, location="/signed")
        return server.usual(ask).but(cut=MIB, trouble=Trouble.BROKEN) if ask.number == 2 else refusal(403)

    server.rules.append(rule)
    assert isinstance(world(server, 1).fail(), AuthError)
    assert len(server.asked) == 5, "two for each time of asking, and the one that broke"


def test_a_segment_that_is_missing_while_others_come_ends_the_task() -> None:
    server = Server(content(8 * MIB), on(lambda ask: (ask.first or 0) >= 4 * MIB, refusal(404)), rate=MIB)
    assert isinstance(world(server, 4).fail(), ContentChangedError)


# ---------------------------------------------------------------------- redirects


def moved(*locations: str, status: int = 302) -> Rule:
    """Each URL that is not the last is redirected to the next."""
    hops = dict(zip([URL, *locations], locations, strict=False))
    return lambda ask: refusal(status, location=hops[ask.url]) if ask.url in hops else None


def test_redirects_are_followed_and_later_requests_go_straight_to_the_end() -> None:
    server = Server(content(4 * MIB), moved("http://b.test/x", "https://c.test/y"), rate=MIB)
    world(server, 4).download()
    assert [ask.url for ask in server.asked[:3]] == [URL, "http://b.test/x", "https://c.test/y"]
    assert {ask.url for ask in server.asked[2:]} == {"https://c.test/y"}


def test_a_relative_location_is_read_from_the_url_it_was_sent_for() -> None:
    server = Server(content(100), on(lambda ask: ask.url == URL, refusal(307, location="../other/x.bin?a=1")))
    world(server).download()
    assert server.asked[-1].url == "http://server.test/other/x.bin?a=1"


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://server.test/x", "gopher://x/", "javascript:x", "http://[", "/x\x07"]
)
def test_a_redirect_to_somewhere_else_than_http_ends_the_task(location: str) -> None:
    run = world(Server(content(100), on(always, refusal(302, location=location))))
    assert isinstance(run.fail(), RedirectError)
    assert len(run.server.asked) == 1 and not run.file


def test_a_redirect_from_https_down_to_http_ends_the_task() -> None:
    server = Server(content(100), moved("https://b.test/x", "http://c.test/x"))
    assert isinstance(world(server).fail(), RedirectError)
    assert server.asked[-1].url == "https://b.test/x"


@pytest.mark.parametrize("most", [0, 1, 20])
def test_a_loop_ends_after_as_many_hops_as_the_user_allows(most: int) -> None:
    run = world(Server(content(100), on(always, refusal(302, location=URL))), max_redirects=most)
    assert isinstance(run.fail(), RedirectError)
    assert len(run.server.asked) == most + 1


def test_a_chain_of_as_many_hops_as_allowed_is_followed() -> None:
    server = Server(content(100), moved(*(f"http://server.test/{n}" for n in range(20))))
    world(server, max_redirects=20).download()


def test_a_redirect_without_a_location_ends_the_task() -> None:
    assert isinstance(world(Server(content(100), on(always, refusal(302)))).fail(), RedirectError)


def out_of_service(location: str) -> Server:
    """A node that breaks all connections after a second and sends everybody to another one."""
    server = Server(content(32 * MIB), rate=MIB, latency=0.1)

    def rule(ask: Ask) -> Reply | None:
        if ask.url != URL:
            return None if ask.url == "http://server.test/dir/b/x" else refusal(404)
        if ask.now > 1:
            return refusal(302, location=location)
        return server.usual(ask).but(cut=int((1 - ask.now) * server.rate), trouble=Trouble.BROKEN)

    server.rules.append(rule)
    return server


def test_connections_that_are_all_redirected_at_once_count_as_one_hop() -> None:
    world(out_of_service("/dir/b/x"), 16, max_redirects=3).download()


def test_relative_locations_of_connections_that_are_redirected_at_once_all_lead_to_the_same_place() -> None:
    world(out_of_service("b/x"), 8).download()


# ---------------------------------------------------------------------- content that changes

CHANGES = {
    "another tag and date": (1, '"v2"', "Mon, 07 Nov 1994 08:49:37 GMT", 4 * MIB),
    "another tag": (1, '"v2"', None, 4 * MIB),
    "another size": (0, ETAG, None, 4 * MIB + 1),
    "a shorter file": (0, ETAG, None, 3 * MIB),
}


def change(server: Server, how: str) -> None:
    versions, server.etag, server.modified, size = CHANGES[how]
    server.body = content(size, 1 + versions)


def changing(how: str, at: float = 0.5) -> Server:
    """A server whose connections all break at some time before `at`, and that has another file from then on."""
    server = Server(content(4 * MIB), rate=MIB / 2, modified=None if "date" not in how else "x")
    first = server.body

    def rule(ask: Ask) -> Reply | None:
        if ask.now < at:
            return server.usual(ask).but(cut=MIB // 6, trouble=Trouble.BROKEN)
        if server.body is first:
            change(server, how)
        return None

    server.rules.append(rule)
    return server


@pytest.mark.parametrize("how", CHANGES)
def test_a_file_that_changes_in_the_middle_is_never_mixed(how: str) -> None:
    run = world(changing(how), 4)
    error = run.fail()
    assert isinstance(error, ContentChangedError) and "--restart" in error.hint
    for start, stop in claims_of(run.table):
        assert run.file[start:stop] == content(4 * MIB)[start:stop], "what is kept is of the first version alone"


@pytest.mark.parametrize("how", CHANGES)
def test_a_file_that_changes_in_the_middle_is_begun_anew_if_the_user_wants_it(how: str) -> None:
    run = world(changing(how), 4, on_change="restart").download()
    assert run.discards == 1 and any("anew" in notice.reason for notice in run.notices)


def test_a_file_that_changes_all_the_time_is_begun_anew_only_once() -> None:
    server = Server(content(4 * MIB), rate=MIB)
    server.rules.append(lambda ask: server.usual(ask).but(fields={"etag": f'"{ask.number}"', "last-modified": None}))
    run = world(server, 4, on_change="restart")
    assert isinstance(run.fail(), ContentChangedError)
    assert run.discards == 1


@pytest.mark.parametrize("on_change", ["fail", "restart"])
@pytest.mark.parametrize("how", CHANGES)
def test_a_file_that_changed_between_two_runs_is_never_mixed(how: str, on_change: str) -> None:
    server = Server(content(4 * MIB), rate=MIB / 2, modified=None if "date" not in how else "x")
    left = interrupted(server, 1.0)
    change(server, how)
    run = world(server, 4, left=left, on_change=on_change)
    if on_change == "restart":
        assert run.download().discards == 1
    else:
        assert isinstance(run.fail(), ContentChangedError)
        assert run.server.sent < 4 * MIB and run.discards == 0


@pytest.mark.parametrize("on_change", ["fail", "restart"])
def test_the_overlap_finds_changed_content_that_no_validator_tells(on_change: str) -> None:
    server = Server(content(4 * MIB), rate=MIB / 2, etag=None, modified=None)
    left = interrupted(server, 1.0)
    server.body = content(4 * MIB, version=2)
    run = world(server, 4, left=left, on_change=on_change)
    if on_change == "restart":
        assert run.download().discards == 1
    else:
        assert isinstance(run.fail(), ContentChangedError)


@pytest.mark.parametrize("how", ["whole", "no Content-Range", "multipart", "416"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_server_that_sends_no_parts_any_more_is_asked_for_the_whole_file(how: str, after: int) -> None:
    server = Server(content(4 * MIB), rate=MIB / 2)
    answers: dict[str, Callable[[Ask], Reply]] = {
        "whole": lambda ask: server.whole(),
        "no Content-Range": lambda ask: server.usual(ask).but(fields={"content-range": None}),
        "multipart": lambda ask: server.usual(ask).but(fields={"content-type": "multipart/byteranges; boundary=x"}),
        "416": lambda ask: refusal(416, content_range=f"bytes */{len(server.body)}"),
    }
    server.rules.append(lambda ask: answers[how](ask) if ask.number > after and ask.first else None)
    run = world(server, 4).download()
    assert any("one piece" in notice.reason for notice in run.notices)
    assert run.file == server.body
    assert len(server.asked) <= 20


def test_after_a_downgrade_the_front_that_is_there_is_compared() -> None:
    server = Server(content(4 * MIB), rate=MIB / 2, etag=None, modified=None)
    other = content(4 * MIB, version=2)
    server.rules.append(lambda ask: server.whole().but(body=other) if ask.number > 1 else None)
    server.rules.append(lambda ask: server.usual(ask).but(cut=MIB // 2, trouble=Trouble.BROKEN))
    run = world(server, 4)
    assert isinstance(run.fail(), IntegrityError)


def disunited(**options: object) -> World:
    """Two nodes behind one name, with files of the same size; nothing in their answers tells them apart."""
    server = Server(content(4 * MIB), rate=MIB, etag=None, modified=None)
    other = Server(content(4 * MIB, version=2), rate=MIB, etag=None, modified=None)
    server.rules.append(lambda ask: other.usual(ask) if ask.number == 3 else None)
    return world(server, 4, **options)


def test_parts_that_do_not_fit_together_are_nobodys_file() -> None:
    run = disunited()
    error = run.fail()
    assert isinstance(error, IntegrityError) and "--conn 1" in error.hint
    assert run.discards == 1 and run.machine.phase is Phase.FAILED
    assert run.taken <= 4 * MIB + 8 * OVERLAP


def test_parts_that_do_not_fit_together_are_fetched_again_in_one_piece_if_the_user_wants_it() -> None:
    run = disunited(on_change="restart").download()
    assert run.discards == 1
    assert [ask.last for ask in run.server.asked[-1:]] == [None]


@pytest.mark.parametrize("connections", [2, 5, 16])
def test_a_server_that_sends_the_beginning_whatever_is_asked_for_is_found_out(connections: int) -> None:
    """Right heads, wrong bodies: nothing but the seams can tell."""
    server = Server(content(8 * MIB), rate=MIB)
    server.rules.append(lambda ask: server.usual(ask).but(body=server.body[: len(server.usual(ask).body)]))
    run = world(server, connections)
    assert isinstance(run.fail(), IntegrityError)
    assert run.taken <= 8 * MIB + 2 * connections * OVERLAP


@pytest.mark.parametrize("latency", [0.02, 0.9, 1.3, 2.0])
def test_a_seam_is_compared_whenever_its_two_sides_come(latency: float) -> None:
    """Also if the one is past it while the other has been asked for, and is not there yet."""
    server = Server(content(4 * MIB), rate=MIB, etag=None, modified=None)
    other = Server(content(4 * MIB, version=2), rate=MIB, latency=latency, etag=None, modified=None)
    server.rules.append(lambda ask: other.usual(ask) if ask.number == 3 else None)
    run = world(server, 4).run()
    if latency < 1:
        assert isinstance(run.machine.error, IntegrityError)
    else:
        assert run.file == server.body, "nobody waits so long for one connection"


def test_a_segment_that_is_begun_late_is_compared_with_the_one_before_it() -> None:
    server = Server(content(4 * MIB), rate=MIB, etag=None, modified=None)
    server.rules.append(on(lambda ask: ask.number in (3, 4, 5), SILENCE))
    other = content(4 * MIB, version=2)
    server.rules.append(lambda ask: server.usual(ask).but(body=other[ask.first or 0 :]) if ask.number > 5 else None)
    run = world(server, 4)
    assert isinstance(run.fail(), IntegrityError)


@pytest.mark.parametrize("at", [0.3, 0.7, 1.0])
def test_what_a_run_wrote_before_it_found_the_content_changed_is_not_kept(at: float) -> None:
    """The bytes before the first position are the same in both versions: that segment is believed, and goes on."""
    old, new = content(4 * MIB), content(4 * MIB, version=2)
    server = Server(old, rate=MIB / 2, etag=None, modified=None)
    left = interrupted(server, at)
    stop = claims_of(left.table)[0][1]
    server.body = new[: stop - OVERLAP] + old[stop - OVERLAP : stop] + new[stop:]
    server.rules.append(lambda ask: server.usual(ask).but(latency=0.3) if ask.first and ask.first > stop else None)
    run = world(server, 4, left=left)
    assert isinstance(run.fail(), ContentChangedError)
    assert run.taken > OVERLAP
    assert claims_of(run.table) == claims_of(left.table)
    assert all(run.file[a:b] == old[a:b] for a, b in claims_of(run.table))


@pytest.mark.parametrize("cut", [0, 1])
def test_changed_content_is_found_even_if_the_first_try_of_the_overlap_breaks(cut: int) -> None:
    server = Server(content(4 * MIB), rate=MIB / 2, etag=None, modified=None)
    left = interrupted(server, 1.0, connections=1)
    server.body = content(4 * MIB, version=2)
    asked = len(server.asked)
    bent(server, lambda ask: ask.number == asked + 1, cut=cut, trouble=Trouble.BROKEN)
    assert isinstance(world(server, 1, left=left).fail(), ContentChangedError)


def test_a_complete_part_file_is_compared_at_its_end_before_it_is_believed() -> None:
    server = Server(content(4 * MIB), etag=None, modified=None)
    run = world(server, 4).download()
    left = run.remains()
    again = world(server, left=left).download()
    assert again.taken == OVERLAP and len(again.server.asked) <= len(run.server.asked) + 1
    server.body = content(4 * MIB, version=2)
    assert isinstance(world(server, left=left).fail(), ContentChangedError)


def test_a_complete_part_file_is_not_believed_when_the_comparison_breaks_off() -> None:
    server = Server(content(4 * MIB), etag=None, modified=None)
    left = world(server, 4).download().remains()
    server.body = content(4 * MIB, version=2)
    asked = len(server.asked)
    bent(server, lambda ask: ask.number == asked + 1, cut=0, trouble=Trouble.BROKEN)
    assert isinstance(world(server, left=left).fail(), ContentChangedError)


def test_a_comparison_that_breaks_off_every_time_ends_after_the_budget() -> None:
    server = Server(content(4 * MIB))
    left = world(server, 4).download().remains()
    asked = len(server.asked)
    bent(server, always, cut=0, trouble=Trouble.BROKEN)
    run = world(server, left=left, retries=3)
    assert isinstance(run.fail(), NetworkError)
    assert len(server.asked) - asked == 4 and run.received == 4 * MIB


def test_nodes_that_give_the_same_file_different_tags_are_one_source() -> None:
    server = Server(content(8 * MIB), rate=MIB)
    server.rules.append(lambda ask: server.usual(ask).but(fields={"etag": f'"node{ask.number}"'}))
    world(server, 8).download()
    assert server.sent < 1.01 * len(server.body)


def test_a_page_of_a_captive_portal_is_never_written_into_the_file() -> None:
    server = Server(content(4 * MIB), rate=MIB)
    page = Reply(200, (("content-type", "text/html"), ("content-length", "1850")), b"x" * 1850)
    left = interrupted(server, 0.5)
    server.rules = [on(always, page)]
    run = world(server, left=left)
    assert isinstance(run.fail(), ContentChangedError | NetworkError)
    assert run.discards == 0
    server.rules = []
    world(server, left=left).download()


# ---------------------------------------------------------------------- going on


def asked_after(server: Server, count: int) -> list[tuple[int, int]]:
    """Half-open ranges of the requests after the first `count`, merged."""
    size = len(server.body)
    return merge(((ask.first or 0, size if ask.last is None else ask.last + 1) for ask in server.asked[count:]), size)


@pytest.mark.parametrize("at", [0.3, 0.7, 1.5])
@pytest.mark.parametrize("connections", [1, 4, 8])
def test_a_resumed_download_asks_for_the_missing_ranges_and_a_little_overlap(at: float, connections: int) -> None:
    server = Server(content(8 * MIB), rate=MIB / 2)
    left = interrupted(server, at, connections)
    written, asked, size = merge(claims_of(left.table), 8 * MIB), len(server.asked), len(server.body)
    run = world(server, connections, left=left).download()
    ends = [0, *(stop for _, stop in written)], [*(start for start, _ in written), size]
    holes = [(start, stop) for start, stop in zip(*ends, strict=True) if start < stop]
    front = {stop: start for start, stop in written}
    fetched = ((max(start - OVERLAP, front.get(start, start)), stop + OVERLAP) for start, stop in holes)
    expected = merge(fetched, size)
    assert asked_after(server, asked) == expected
    missing = sum(stop - start for start, stop in holes)
    assert missing <= run.taken <= missing + OVERLAP * (len(holes) + len(server.asked) - asked)


@pytest.mark.parametrize("seed", range(6))
def test_twenty_kills_lose_next_to_nothing(seed: int) -> None:
    chance, server, left, taken, kills = random.Random(seed), Server(content(8 * MIB), rate=MIB / 2), None, 0, 0
    while True:
        run = world(server, 8, seed, left)
        end = chance.uniform(0.05, 0.4)
        run.run(100, lambda run=run, end=end: run.now >= end and run.begun is not None)
        taken += run.taken + sum(wire.sink.received for wire in run.wires.values() if wire.sink)
        if run.machine.phase is Phase.COMPLETED:
            break
        left, kills = run.remains(), kills + 1
    assert run.file == server.body and kills > 3
    assert taken <= len(server.body) + kills * 8 * 2 * OVERLAP


def test_a_part_file_of_another_url_is_gone_on_with_only_when_a_validator_vouches_for_it() -> None:
    for etag, date, good in ((ETAG, None, True), (None, "Sun, 06 Nov 1994 08:49:37 GMT", True), (None, None, False)):
        server = Server(content(4 * MIB), rate=MIB, etag=etag, modified=date)
        run = World(server, Options(connections=4), left=interrupted(server, 0.5), same_url=False)
        if good:
            assert run.download().discards == 0
        else:
            assert isinstance(run.fail(), ContentChangedError)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_file_whose_name_becomes_known_with_the_first_answer_is_gone_on_with(ranges: bool) -> None:
    server = Server(content(4 * MIB), rate=MIB / 2)
    left = interrupted(server, 1.0)
    done, server.sent, server.ranges = sum(b - a for a, b in claims_of(left.table)), 0, ranges
    run = World(server, Options(connections=4), late=left).download()
    assert run.taken <= len(server.body) - (done - MIB if ranges else 0)


@pytest.mark.parametrize("on_change", ["fail", "restart"])
def test_a_part_file_that_turns_out_to_be_of_another_file_is_not_mixed(on_change: str) -> None:
    server = Server(content(4 * MIB), rate=MIB / 2)
    left = interrupted(server, 1.0)
    change(server, "another size")
    run = World(server, Options(connections=4, on_change=on_change), late=left)
    if on_change == "restart":
        run.download()
    else:
        assert isinstance(run.fail(), ContentChangedError)


# ---------------------------------------------------------------------- pause, and what comes too late


@pytest.mark.parametrize("at", [0.0, 0.02, 0.04, 0.06, 0.3, 1.0])
def test_a_task_pauses_at_once_whenever_it_is_told_to_and_goes_on_later(at: float) -> None:
    server = Server(content(4 * MIB), rate=MIB)
    run = world(server, 4).run_for(at)
    run.machine.pause()
    run.perform()
    assert run.machine.status is DownloadStatus.PAUSED and not run.wires and run.closes == 1
    run.machine.pause()
    assert not run.machine.actions, "a second pause wishes nothing"
    left = run.remains() if run.table else None
    world(server, 4, left=left).download()


def test_the_same_machine_goes_on_after_a_pause() -> None:
    server = Server(content(4 * MIB), rate=MIB)
    run = world(server, 4).run_for(0.5)
    run.machine.pause()
    run.perform()
    run.left, run.closes = run.remains(), 0
    run.start().download()


def opening(connections: int = 4) -> TaskMachine:
    """A machine whose first answer was accepted, and whose part file is being made."""
    machine = TaskMachine(URL, Options(connections=connections), lambda: 0.5)
    machine.start(0.0)
    machine.head(1, Head(206, (("content-range", f"bytes 0-{8 * MIB - 1}/{8 * MIB}"),)), 0.1, 0.0)
    assert machine.phase is Phase.OPENING
    return machine


def receiving() -> TaskMachine:
    machine = opening()
    machine.opened(SegmentTable(tile(8 * MIB, [4 * MIB], 10)), 0.2)
    assert machine.phase is Phase.RECEIVING
    return machine


def requests(machine: TaskMachine) -> int:
    found = sum(isinstance(action, Request) for action in machine.actions)
    machine.actions.clear()
    return found


BUSY = Head(429, (("retry-after", "20"),))


def test_what_a_server_asked_one_task_to_wait_all_tasks_wait() -> None:
    hosts = Hosts()
    one, late, elsewhere = (
        TaskMachine(url, Options(), lambda: 0.5, hosts) for url in (URL, URL + "/2", URL.replace("://", "://other."))
    )
    one.start(0.0)
    assert requests(one) == 1
    one.head(1, BUSY, 1.0, 0.0)
    late.start(2.0)
    elsewhere.start(2.0)
    assert (requests(late), requests(elsewhere)) == (0, 1)
    for machine in (one, late):
        machine.tick(20.9, {})
        assert requests(machine) == 0
        machine.tick(21.0, {})
        assert requests(machine) == 1


def test_a_task_that_is_served_goes_on_although_another_one_was_asked_to_wait() -> None:
    hosts = Hosts()
    served = TaskMachine(URL, Options(connections=4), lambda: 0.5, hosts)
    served.start(0.0)
    served.head(1, Head(206, (("content-range", f"bytes 0-{8 * MIB - 1}/{8 * MIB}"),)), 0.1, 0.0)
    hosts.hold(URL, 60.0, 0.2)
    served.opened(SegmentTable(tile(8 * MIB, [4 * MIB], 10)), 0.2)
    assert requests(served) == 1, "its first one alone, as nothing was heard yet"
    served.tick(0.4, {1: 1000})
    assert requests(served) == 1


def test_a_rename_that_was_under_way_when_the_pause_was_asked_for_completes_the_task() -> None:
    run = world(Server(content(100)))
    run.run(10, lambda: run.machine.phase is Phase.FINISHING)
    run.machine.pause()
    assert run.machine.phase is Phase.PAUSED
    run.machine.finished()
    assert run.machine.status is DownloadStatus.COMPLETED


def test_what_connections_tell_after_the_end_changes_nothing() -> None:
    machine = receiving()
    machine.pause()
    machine.actions.clear()
    machine.head(2, Head(404, ()), 0.3, 0.0)
    machine.ended(1, Ended(Trouble.BROKEN), 0.3)
    machine.tick(0.4, {1: 100})
    machine.fail(NetworkError("late"))
    assert machine.phase is Phase.PAUSED and not machine.actions and machine.error is None


def test_a_disk_that_fails_ends_the_task_with_its_own_error() -> None:
    for machine in (opening(), receiving()):
        machine.fail(StorageError("the disk is gone"))
        assert machine.phase is Phase.FAILED and isinstance(machine.error, StorageError)
    machine = receiving()
    machine.ended(1, Ended(error=StorageError("cannot be written")), 0.5)
    assert machine.phase is Phase.FAILED and isinstance(machine.error, StorageError)


def test_a_wrong_checksum_ends_the_task_after_the_last_byte() -> None:
    run = world(Server(content(100)))
    run.run(10, lambda: run.machine.phase is Phase.FINISHING)
    run.machine.fail(IntegrityError("the checksum is another one"))
    run.perform()
    assert run.machine.phase is Phase.FAILED and run.closes == 1


def test_a_connection_that_breaks_while_the_part_file_is_made_is_opened_again() -> None:
    server = bent(Server(content(4 * MIB)), lambda ask: ask.number == 1, cut=0, trouble=Trouble.BROKEN)
    run = world(server, 4)
    run.disk = 2.0
    run.download()


def test_a_disk_that_takes_long_is_not_taken_for_silence_of_the_network() -> None:
    server = Server(content(4 * MIB), rate=MIB, latency=0.2)
    bent(server, always, rate=lambda now: MIB if now > 70.5 else 0)
    run = world(server, 4, timeout=60)
    run.disk = 70.0
    run.download()


# ---------------------------------------------------------------------- what is shown


def test_speed_and_time_left_are_near_the_truth() -> None:
    run = world(Server(content(64 * MIB), rate=MIB), 8).run_for(4)
    assert run.machine.speed == pytest.approx(8 * MIB, rel=0.15)
    assert run.machine.eta == pytest.approx((64 * MIB - run.received) / (8 * MIB), rel=0.2)


def test_nobody_can_say_how_long_a_stream_takes() -> None:
    run = world(Server(content(8 * MIB), length=False, ranges=False, rate=MIB)).run_for(1)
    assert run.machine.eta is None and run.received > MIB / 2


def test_every_phase_can_be_reached_and_left_and_has_a_status() -> None:
    assert set(STATUS) == set(Phase)
    assert set(TRANSITIONS.values()) == set(Phase) - {Phase.PENDING}
    assert {before for before, _ in TRANSITIONS} == set(Phase) - {Phase.COMPLETED, Phase.FAILED}


def test_the_machine_says_what_it_waits_for_in_words_and_not_in_the_servers() -> None:
    run = world(Server(content(100), on(lambda ask: ask.number == 1, refusal(503, x="\x1b[31m")))).download()
    assert isinstance(run.notices[0], Notify) and run.notices[0].reason.isprintable()


def test_what_the_file_is_is_known_from_the_first_answer_on() -> None:
    run = world(Server(content(8 * MIB), rate=MIB)).run_for(0.5)
    assert run.machine.content == Content(8 * MIB, ETAG, "Sun, 06 Nov 1994 08:49:37 GMT") == run.begun


# ---------------------------------------------------------------------- everything at once


class Chaos:
    """A server with random faults. `passing`: only such as may be gone the next time, and never for long."""

    def __init__(self, seed: int, passing: bool) -> None:
        self.chance, self.passing = random.Random(seed), passing
        chance = self.chance
        self.size = chance.choice([0, 5, 100 * KIB, MIB, 2 * MIB + 77, 4 * MIB, 6 * MIB + 1])
        self.server = Server(
            content(self.size),
            self.fault,
            rate=chance.choice([256.0 * KIB, MIB, 8.0 * MIB]),
            latency=chance.choice([0.0, 0.02, 0.3]),
            etag=chance.choice([ETAG, None]),
            modified=chance.choice(["x", None]),
            ranges=chance.random() < 0.9,
            length=chance.random() < 0.95,
        )
        self.rate = chance.choice([0.1, 0.3, 0.6])
        self.options = Options(
            connections=chance.choice([1, 2, 4, 8, 16]),
            retries=1000 if passing else 3,
            timeout=10_000 if passing else 60,
            on_change=chance.choice(["fail", "restart"]),
        )

    def fault(self, ask: Ask) -> Reply | None:
        chance, server, usual = self.chance, self.server, self.server.usual(ask)
        if chance.random() > self.rate or usual.status not in (200, 206):
            return None
        if not self.passing and chance.random() < 0.3:
            return self.lasting(ask, usual)
        size = len(usual.body)
        kinds: list[Callable[[], Reply]] = [
            lambda: trouble(chance.choice(sorted(PASSING - {Trouble.RESOLVE}, key=str)), chance.choice([0.0, 0.5])),
            lambda: refusal(chance.choice([408, 425, 429, 500, 502, 503, 504])),
            lambda: refusal(chance.choice([429, 503]), retry_after=chance.choice(["0", "1", "2", "soon"])),
            lambda: SILENCE,
            lambda: usual.but(cut=chance.randint(0, size), trouble=Trouble.BROKEN),
            lambda: usual.but(cut=chance.randint(0, size)),
            lambda: usual.but(rate=usual.rate / chance.choice([3, 30, 300])),  # type: ignore[operator]
            lambda: usual.but(latency=chance.uniform(0, 3)),
            lambda: refusal(302, location=f"/other/{chance.randint(0, 3)}"),
        ]
        if usual.status == 206 and size > 1:
            first = ask.first or 0
            kinds.append(lambda: server.part(first, first + chance.randint(1, size)))
            kinds.append(lambda: server.part(first, len(server.body)))
        return chance.choice(kinds)()

    def lasting(self, ask: Ask, usual: Reply) -> Reply:
        chance, server = self.chance, self.server
        start, stop = sorted(chance.choices(range(len(server.body) + 1), k=2))
        kinds: list[Callable[[], Reply]] = [
            lambda: refusal(chance.choice([204, 304, 400, 401, 403, 404, 405, 410, 412, 416, 451, 501])),
            lambda: refusal(416, content_range=f"bytes */{chance.choice([len(server.body), 17])}"),
            lambda: server.part(start, stop + 1) if stop < len(server.body) else server.whole(),
            server.whole,
            lambda: usual.but(fields={"content-range": chance.choice([None, "bytes 0-1/2", "bytes 0-9/*", "x"])}),
            lambda: usual.but(fields={"content-encoding": "gzip"}),
            lambda: usual.but(fields={"content-length": chance.choice(["12abc", "-1", "7" if usual.status == 206 else "5 5"])}),
            lambda: usual.but(fields={"etag": chance.choice(['"v2"', 'W/"v1"', None]), "last-modified": "y"}),
            lambda: trouble(chance.choice(sorted(Trouble, key=str))),
            lambda: refusal(302, location=chance.choice(["", "file:///x", URL, "ftp://x/y"])),
        ]
        return chance.choice(kinds)()

    def run(self, kills: bool) -> World:
        """To the end, over as many runs as it takes."""
        left: Remains | None = None
        for n in range(12):
            run = World(self.server, self.options, self.chance.randrange(1 << 30), left)
            run.disk = self.chance.choice([0.0, 0.03, 0.5])
            if not kills or n == 11:
                return run.run(20_000)
            end = self.chance.uniform(0.1, 3)
            run.run(20_000, lambda run=run, end=end: run.now > end)
            if run.machine.ended_for_good:
                return run
            self.check(run)
            durable = run.begun is not None and (run.begun.total or 0) > MIB and run.table
            left = run.remains() if durable else None
        raise AssertionError("unreachable")

    def check(self, run: World) -> None:
        """At any instant: what is claimed is what the server has."""
        for start, stop in claims_of(run.table):
            assert run.file[start:stop] == self.server.body[start:stop], "a wrong byte is claimed"


@pytest.mark.parametrize("seed", range(150))
def test_troubles_that_pass_never_cost_more_than_time(seed: int) -> None:
    chaos = Chaos(seed, passing=True)
    run = chaos.run(kills=seed % 2 == 0)
    assert run.machine.phase is Phase.COMPLETED, repr(run.machine.error)
    assert run.file == chaos.server.body


@pytest.mark.parametrize("seed", range(150, 300))
def test_whatever_the_server_does_no_wrong_byte_is_ever_claimed(seed: int) -> None:
    chaos = Chaos(seed, passing=False)
    run = chaos.run(kills=seed % 3 == 0)
    if run.machine.phase is Phase.COMPLETED:
        assert run.file == chaos.server.body
    else:
        assert isinstance(run.machine.error, FastidmError)
        chaos.check(run)


@pytest.mark.parametrize("seed", range(300, 360))
def test_a_file_that_changes_at_any_request_is_never_mixed(seed: int) -> None:
    """The strong validator of one version is never sent with bytes of another: then the result is one of the two."""
    chaos = Chaos(seed, passing=True)
    server, old = chaos.server, chaos.server.body
    server.etag, server.modified = ETAG, None
    at = chaos.chance.randint(2, 40)

    def replaced(ask: Ask) -> None:
        if ask.number == at:
            server.etag, server.body = '"v2"', content(len(old), version=2)

    server.rules.insert(0, replaced)
    run = World(server, chaos.options, seed).run(20_000)
    if run.machine.phase is Phase.COMPLETED:
        assert run.file in (old, server.body)
    else:
        assert isinstance(run.machine.error, ContentChangedError)
        assert all(run.file[a:b] == old[a:b] for a, b in claims_of(run.table))
