"""Who fills which segment: make before break, steal first and kill last, at most two on one segment."""

from __future__ import annotations

import pytest

from fastidm.core.actions import Action, Arm, Cancel, Request
from fastidm.core.connections import OVERLAP, Connections
from fastidm.core.health import OUTAGE_AFTER, STALLED_AFTER, Connection, Role
from fastidm.core.scheduler import ALIGN
from fastidm.core.segments import WORDS, SegmentTable, restore, tile

MIB = 1 << 20
URL = "http://server.test/file.bin"


class Desk:
    """Connections over a table, and what they wished. `move` is the sinks: it brings bytes to whoever has a segment."""

    def __init__(
        self, rows: bytearray, ceiling: int = 8, *, ranges: bool = True, resumed: bool = False, anew: bool = False
    ) -> None:
        self.actions: list[Action] = []
        self.rows, self.table = rows, SegmentTable(rows)
        self.connections = Connections(self.actions, URL, ceiling)
        self.connections.ranges = ranges
        self.connections.opened(self.table, resumed, 0.0, anew)
        self.received: dict[int, int] = {}
        self.now = 0.0

    def requests(self) -> list[Request]:
        """The requests wished since the last call; everything else is dropped."""
        requests = [action for action in self.actions if isinstance(action, Request)]
        self.actions.clear()
        return requests

    def assign(self) -> list[Request]:
        self.connections.assign(self.now)
        return self.requests()

    def answer(self, id: int) -> Arm | None:
        connection = self.connections.get(id)
        assert connection is not None
        self.connections.answered(connection, self.now)
        return self.connections.place(connection, self.now)

    def answer_all(self, requests: list[Request]) -> list[Arm]:
        return [arm for request in requests if (arm := self.answer(request.connection)) is not None]

    def open_all(self) -> list[Connection]:
        """Assign and answer until nothing more is wished; returns those that receive."""
        while requests := self.assign():
            self.answer_all(requests)
        return self.connections.busy

    def move(self, seconds: float, **speeds: float) -> None:
        """Time passes; `c1=5` lets connection 1 bring 5 bytes per second, `rest=` all others."""
        for _ in range(round(seconds * 20)):
            self.now += 0.05
            for connection in self.connections.busy:
                count = int(speeds.get(f"c{connection.id}", speeds.get("rest", 0)) * 0.05)
                row = connection.row
                assert row is not None
                _, stop, position = self.table[row]
                count = min(count, stop - position)
                self.table._words[WORDS * row + 2] = position + count
                self.received[connection.id] = self.received.get(connection.id, 0) + count
            self.connections.count(self.received, self.now, False)


def cancelled(desk: Desk) -> list[int]:
    return [action.connection for action in desk.actions if isinstance(action, Cancel)]


# ---------------------------------------------------------------------- filling


def test_every_segment_gets_a_connection_from_the_front_on() -> None:
    desk = Desk(tile(4 * MIB, [MIB, 2 * MIB, 3 * MIB], 10))
    connections = desk.open_all()
    assert sorted((c.first, c.last) for c in connections) == [
        (n * MIB, min((n + 1) * MIB + OVERLAP, 4 * MIB) - 1) for n in range(4)
    ]
    assert len({c.row for c in connections}) == 4 == desk.connections.peak


def test_a_written_segment_gets_none_and_a_half_written_one_is_asked_for_from_its_position() -> None:
    desk = Desk(restore(4 * MIB, [(0, MIB), (2 * MIB, 3 * MIB)], (), 10))
    assert sorted((c.first, c.last) for c in desk.open_all()) == [
        (MIB, 2 * MIB + OVERLAP - 1),
        (3 * MIB, 4 * MIB - 1),
    ]


def test_what_an_earlier_run_wrote_is_asked_for_again_a_little_and_only_once() -> None:
    desk = Desk(restore(4 * MIB, [(MIB, 2 * MIB)], (), 10), ceiling=2, resumed=True)
    front, back = desk.open_all()
    assert (front.first, back.first) == (0, 2 * MIB - OVERLAP)
    desk.move(0.5, rest=MIB)
    desk.connections.cancel(back)
    again = desk.assign()
    assert [request.first for request in again] == [desk.table.position(back.row or 0)]


def test_an_overlap_never_reaches_beyond_what_is_claimed() -> None:
    desk = Desk(restore(4 * MIB, [(MIB, MIB + 100)], (), 10), resumed=True)
    assert sorted(c.first or 0 for c in desk.open_all()) == [0, MIB]


def test_an_overlap_that_was_not_compared_to_its_end_is_asked_for_again() -> None:
    desk = Desk(restore(4 * MIB, [(0, MIB)], (), 10), ceiling=1, resumed=True)
    (connection,) = desk.open_all()
    assert connection.first == MIB - OVERLAP
    desk.connections.pop(connection.id)  # answered, but not a byte of the body came
    assert [request.first for request in desk.assign()] == [MIB - OVERLAP]


def test_a_server_without_ranges_is_asked_for_everything_by_one_connection() -> None:
    desk = Desk(restore(4 * MIB, [(0, MIB)], (), 10), ceiling=1, ranges=False, resumed=True)
    (request,) = desk.assign()
    assert (request.first, request.last) == (None, None)
    assert desk.answer(request.connection) == Arm(request.connection, desk.table.order[0], 0, 0)


@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_a_new_file_is_cut_so_that_all_end_together_however_far_ahead_the_first_one_is(seconds: float) -> None:
    desk = Desk(tile(10 * MIB, (), 10), ceiling=4, anew=True)
    desk.connections.request(Role.PROBE, 0, None, None, desk.now)
    desk.answer_all(desk.requests())
    desk.move(seconds, rest=MIB)
    assert len(desk.open_all()) == 4
    left = [desk.table.remaining(row) for row in desk.table.order]
    assert max(left) - min(left) <= 2 * ALIGN


def test_a_cut_that_was_given_up_because_this_process_was_the_limit_is_not_made_up_for_later() -> None:
    desk = Desk(tile(64 * MIB, (), 10), ceiling=4, anew=True)
    desk.connections.request(Role.PROBE, 0, None, None, desk.now)
    desk.answer_all(desk.requests())
    desk.move(0.5, rest=MIB)
    second = desk.assign()
    desk.connections.note_load(1.0, 64 * MIB, desk.now)
    desk.answer_all(second)
    assert len(desk.table.order) == 2
    desk.move(0.5, rest=MIB)
    third = desk.assign()[:1]
    desk.answer_all(third)
    assert third and len(desk.table.order) == 3


def test_the_ceiling_is_never_passed() -> None:
    desk = Desk(tile(64 * MIB, range(MIB, 64 * MIB, MIB), 100), ceiling=5)
    while requests := desk.assign():
        assert len(desk.connections) <= 5
        desk.answer_all(requests)
    assert len(desk.connections) == 5 == len(desk.connections.busy)


def test_a_smaller_share_ends_those_that_brought_least_and_a_larger_one_lets_more_in() -> None:
    desk = Desk(tile(64 * MIB, range(8 * MIB, 64 * MIB, 8 * MIB), 100))
    best = desk.open_all()[:2]
    desk.move(0.5, **{f"c{c.id}": MIB for c in best}, rest=1024)
    desk.connections.limit(2)
    assert {c.id for c in desk.connections.busy} == {c.id for c in best}
    desk.requests()
    assert desk.assign() == []
    desk.connections.limit(5)
    desk.open_all()
    assert len(desk.connections) == 5
    desk.connections.limit(0)
    assert len(desk.connections) == 1


# ---------------------------------------------------------------------- splitting


def test_a_running_segment_is_cut_when_the_new_connection_is_answered_and_not_before() -> None:
    desk = Desk(tile(16 * MIB, [], 10), ceiling=2)
    (first,) = desk.assign()
    desk.answer(first.connection)
    desk.move(1, rest=MIB)
    (second,) = desk.assign()
    assert second.last == 16 * MIB - 1 and second.first is not None
    assert len(desk.table.order) == 1
    arm = desk.answer(second.connection)
    assert arm == Arm(second.connection, desk.table.order[1], second.first, OVERLAP)
    assert desk.table[desk.table.order[0]].stop == desk.table[desk.table.order[1]].start == second.first
    assert not cancelled(desk)


def test_what_has_come_and_was_not_taken_yet_is_not_asked_for_by_another() -> None:
    desk = Desk(tile(1000 * MIB, (), 8), 2)
    (first,) = desk.open_all()[:1]
    desk.move(1.0, rest=MIB)
    for queued in (0, 3 * MIB, 60 * MIB):
        for other in [c for c in desk.connections.busy if c is not first]:
            desk.connections.cancel(other)
        desk.requests()
        desk.connections.queue({first.id: queued, 99: 1})
        for request in desk.assign():
            assert request.first is not None
            assert request.first >= desk.table.position(0) + queued
        assert len(desk.connections) == 2
    desk.connections.queue({first.id: 1000 * MIB})
    for other in [desk.connections.get(id) for id in range(2, 9)]:
        if other is not None:
            desk.connections.cancel(other)
    assert desk.assign() == [], "nothing is left to be asked for"


def test_cuts_lose_no_more_than_a_small_share_of_the_file() -> None:
    for queued, cuts in ((0, 3), (3 * MIB, 1), (5 * MIB, 0)):
        desk = Desk(tile(800 * MIB, (), 8), 2)
        (first,) = desk.assign()
        desk.answer(first.connection)
        desk.move(1.0, rest=MIB)
        for nth in range(3):
            desk.connections.queue({first.connection: queued})
            found = desk.assign()
            assert len(found) == (nth < cuts), (queued, nth)
            for request in found:
                connection = desk.connections.get(request.connection)
                assert connection is not None
                desk.connections.cancel(connection)


def test_a_victim_that_came_further_meanwhile_runs_on_and_the_late_one_is_ended() -> None:
    desk = Desk(tile(16 * MIB, [], 10), ceiling=2)
    (first,) = desk.assign()
    desk.answer(first.connection)
    desk.move(1, rest=MIB)
    (second,) = desk.assign()
    desk.move(1, rest=12 * MIB)
    position = desk.table.position(desk.table.order[0])
    assert position > (second.first or 0)
    assert desk.answer(second.connection) is None, "all that it brings first is there"
    assert cancelled(desk) == [second.connection]
    assert desk.table[desk.table.order[0]] == (0, 16 * MIB, position)


def test_a_split_that_is_answered_too_late_is_ended() -> None:
    desk = Desk(tile(16 * MIB, [], 10), ceiling=2)
    (first,) = desk.assign()
    desk.answer(first.connection)
    desk.move(1, rest=MIB)
    (second,) = desk.assign()
    desk.move(1, rest=16 * MIB)
    assert desk.table.complete()
    assert desk.answer(second.connection) is None
    assert cancelled(desk) == [second.connection] and len(desk.table.order) == 1


def test_a_full_table_makes_room_by_melting_and_splits_no_more_when_it_cannot() -> None:
    desk = Desk(tile(64 * MIB, [MIB], 2), ceiling=4)
    busy = desk.open_all()
    assert len(busy) == 2
    desk.move(0.5, rest=MIB)
    assert desk.assign() == [], "both rows are held"
    quick = next(c for c in busy if c.first == 0)
    desk.move(2, **{f"c{quick.id}": MIB, "rest": 1024})
    desk.connections.pop(quick.id)
    assert desk.assign() and desk.table.room() == 1


def test_a_server_without_ranges_is_never_split_or_hedged() -> None:
    desk = Desk(tile(64 * MIB, [], 10), ceiling=4, ranges=False)
    desk.answer_all(desk.assign())
    desk.move(2, rest=1024)
    assert desk.assign() == []


# ---------------------------------------------------------------------- hedging


def slow_tail() -> tuple[Desk, Connection]:
    """Three of four segments are all but done, the first one is; the last one crawls, and is too small to be split."""
    desk = Desk(tile(4 * MIB, [MIB, 2 * MIB, 3 * MIB], 4), ceiling=4)
    busy = desk.open_all()
    slow = busy[-1]
    desk.move(1.2, **{f"c{slow.id}": 20 * 1024, "rest": MIB - 100_000})
    quick = next(c for c in busy if c is not slow)
    desk.connections.pop(quick.id)
    assert quick.row is not None
    desk.table._words[WORDS * quick.row + 2] = desk.table.stop(quick.row)
    return desk, slow


def test_while_this_process_is_the_limit_nothing_is_asked_for_a_second_time() -> None:
    desk, _ = slow_tail()
    desk.connections.note_load(1.0, 64 * MIB, desk.now)
    assert desk.assign() == []


def test_the_slow_tail_is_hedged_and_the_first_to_come_wins() -> None:
    desk, slow = slow_tail()
    requests = desk.assign()
    hedges = [r for r in requests if (c := desk.connections.get(r.connection)) and c.target == slow.row]
    assert hedges
    arm = desk.answer(hedges[0].connection)
    assert arm is not None and arm.cursor <= desk.table.position(arm.row)


def test_no_segment_has_more_than_two_connections() -> None:
    desk = Desk(restore(2 * MIB, [(0, MIB), (MIB + 50_000, 2 * MIB - 50_000)], [MIB], 4), ceiling=8)
    slow = desk.open_all()[0]
    speeds = {f"c{slow.id}": 1024.0, "rest": 20_000.0}
    most = 0
    for _ in range(60):
        desk.move(0.1, **speeds)
        desk.answer_all(desk.assign())
        rows = [c.row for c in desk.connections.busy]
        most = max(most, rows.count(slow.row))
        assert all(rows.count(row) <= 2 for row in rows)
    assert most == 2


def test_a_hedge_that_turns_out_to_be_slow_itself_is_hedged_when_it_is_left_alone() -> None:
    desk = Desk(restore(MIB, [(MIB - 400_000, MIB - 50_000)], (), 4), ceiling=2)
    quick, slow = desk.open_all()
    while desk.table.remaining(quick.row or 0):
        desk.move(0.1, **{f"c{quick.id}": 400_000.0, "rest": 100.0})
    desk.connections.pop(quick.id)
    (hedge,) = desk.assign()
    desk.answer(hedge.connection)
    desk.move(1.0, rest=100.0)
    desk.connections.cancel(slow)
    desk.actions.clear()
    again: list[Request] = []
    while not again:
        assert desk.now < 60, "the slow one is left to itself"
        desk.move(0.1, rest=100.0)
        again = desk.assign()
    assert [connection.row for connection in desk.connections.busy] == [slow.row]


def test_what_waits_here_is_not_asked_for_twice_and_a_hedge_leaves_no_hole() -> None:
    desk = Desk(restore(MIB, [(MIB - 400_000, MIB - 50_000)], (), 4), ceiling=2)
    quick, slow = desk.open_all()
    while desk.table.remaining(quick.row or 0):
        desk.move(0.1, **{f"c{quick.id}": 400_000.0, "rest": 100.0})
    desk.connections.pop(quick.id)
    desk.connections.queue({slow.id: 10_000})
    assert desk.assign() == []
    for _ in range(20):
        desk.connections.queue({slow.id: 0})
    (hedge,) = desk.assign()
    desk.connections.queue({slow.id: 10_000})
    arm = desk.answer(hedge.connection)
    assert arm is not None and arm.cursor <= desk.table.position(arm.row)


def test_not_more_is_asked_for_twice_than_a_small_share_of_the_file() -> None:
    """The table is full, so that nothing can be split, and two of four segments stand nearly still."""
    desk = Desk(tile(24 * MIB, [6 * MIB, 12 * MIB, 18 * MIB], 4), ceiling=8)
    slow = {f"c{c.id}": 10.0 for c in desk.open_all()[:2]}
    hedged = 0
    for _ in range(10):
        desk.move(0.5, **slow, rest=MIB)
        requests = desk.assign()
        hedged += sum((r.last or 0) + 1 - (r.first or 0) for r in requests)
        desk.answer_all(requests)
    assert 0 < hedged <= 8 * MIB


# ---------------------------------------------------------------------- relief


def test_one_that_stands_still_is_ended_while_others_receive_and_its_segment_asked_for_afresh() -> None:
    desk = Desk(tile(200 * MIB, [100 * MIB], 10), ceiling=2)
    stuck, other = desk.open_all()
    desk.move(STALLED_AFTER + 1, **{f"c{other.id}": MIB})
    desk.connections.relieve(MIB, desk.now)
    assert cancelled(desk) == [stuck.id] and desk.connections.lost == 1
    (request,) = desk.assign()
    assert request.fresh and request.first == desk.table.position(stuck.row or 0)


def test_a_segment_is_not_relieved_again_and_again() -> None:
    desk = Desk(tile(200 * MIB, [100 * MIB], 10), ceiling=2)
    stuck, other = desk.open_all()
    for _ in range(80):
        desk.move(0.1, **{f"c{other.id}": MIB})
        desk.connections.relieve(MIB, desk.now)
        desk.answer_all(desk.assign())
    assert desk.connections.lost == 1 and desk.connections.get(stuck.id) is None


def test_the_only_one_is_never_ended_for_being_slow() -> None:
    desk = Desk(tile(200 * MIB, [], 10), ceiling=1)
    desk.open_all()
    desk.move(60, rest=10)
    desk.connections.relieve(10.0, desk.now)
    assert cancelled(desk) == []


def test_one_whose_segment_another_one_has_filled_is_ended() -> None:
    desk = Desk(tile(200 * MIB, [100 * MIB], 10), ceiling=2)
    loser, _ = desk.open_all()
    assert loser.row is not None
    desk.connections._raced.add(loser.row)
    desk.table._words[WORDS * loser.row + 2] = desk.table.stop(loser.row)
    desk.connections.relieve(MIB, desk.now)
    assert cancelled(desk) == [loser.id]


# ---------------------------------------------------------------------- silence


def test_an_outage_is_when_all_are_silent_for_long() -> None:
    desk = Desk(tile(200 * MIB, [100 * MIB], 10), ceiling=2)
    one, _ = desk.open_all()
    desk.move(1, rest=MIB)
    desk.move(OUTAGE_AFTER - 0.5)
    assert not desk.connections.silent(desk.now)
    desk.move(0.3, **{f"c{one.id}": MIB})
    desk.move(1)
    assert not desk.connections.silent(desk.now), "one is heard of"
    desk.move(OUTAGE_AFTER)
    assert desk.connections.silent(desk.now)


def test_nobody_is_silent_when_a_rate_limit_holds_them_back() -> None:
    desk = Desk(tile(200 * MIB, [], 10), ceiling=1)
    desk.open_all()
    desk.connections.count({}, 59.9, True)
    assert not desk.connections.silent(60.0)


def test_without_connections_there_is_no_silence() -> None:
    assert not Desk(tile(200 * MIB, [], 10)).connections.silent(1000.0)


def test_requests_without_an_answer_are_told_after_the_users_patience_or_the_servers_habit() -> None:
    desk = Desk(tile(200 * MIB, [], 10))
    desk.connections.request(Role.FILL, 0, None, desk.table.order[0], 0.0)
    assert desk.connections.unanswered(15.0, False, 14.9) == []
    assert len(desk.connections.unanswered(15.0, False, 15.1)) == 1
    assert desk.connections.unanswered(15.0, True, 4.9) == []
    assert len(desk.connections.unanswered(15.0, True, 5.1)) == 1


# ---------------------------------------------------------------------- ends


def test_all_can_be_ended_at_once_and_ids_are_never_used_twice() -> None:
    desk = Desk(tile(4 * MIB, [MIB, 2 * MIB, 3 * MIB], 10))
    ids = {c.id for c in desk.open_all()}
    desk.connections.cancel_all()
    assert set(cancelled(desk)) == ids and len(desk.connections) == 0
    after = Connections(desk.actions, URL, 8)
    after.take_after(desk.connections)
    desk.actions.clear()
    after.request(Role.PROBE, 0, None, None, 1.0)
    assert desk.requests()[0].connection not in ids
    assert after.peak == 4


def test_to_end_one_that_has_ended_is_no_wish() -> None:
    desk = Desk(tile(4 * MIB, [], 10))
    (connection,) = desk.open_all()[:1]
    desk.connections.pop(connection.id)
    desk.connections.cancel(connection)
    assert cancelled(desk) == []


@pytest.mark.parametrize("first", [5 * MIB, MIB // 2 + OVERLAP + 1])
def test_a_first_answer_that_fits_no_segment_is_ended(first: int) -> None:
    desk = Desk(restore(4 * MIB, [(0, MIB // 2)], (), 10), resumed=True)
    desk.connections.request(Role.PROBE, first, None, None, 0.0)
    (request,) = desk.requests()
    assert desk.answer(request.connection) is None
    assert cancelled(desk) == [request.connection]


# ---------------------------------------------------------------------- seams


def test_a_seam_is_waited_for_although_the_tick_has_not_told_yet_what_came() -> None:
    """The file is complete in the same moment, by the word of another connection."""
    desk = Desk(tile(2 * MIB, [MIB], 10), ceiling=2)
    front, back = desk.open_all()
    desk.connections.pop(back.id)
    for row, (_, stop, _) in ((row, desk.table[row]) for row in desk.table.order):
        desk.table._words[WORDS * row + 2] = stop
    assert desk.table.complete() and front.received == 0
    assert desk.connections.crossing(desk.now)
    assert not desk.connections.crossing(desk.now + 5), "not for ever"
