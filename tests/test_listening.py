"""Events on their way to another thread: none is lost but Progress that is out of date; nobody waits for a slow listener."""

from __future__ import annotations

import asyncio
import threading

from hypothesis import given
from hypothesis import strategies as st

from fastidm.events import Event, Paused, Progress, Retrying
from fastidm.listening import Events, Mailbox


def progress(received: int) -> Progress:
    return Progress("u", "p", 100, received, 1.0, 1.0, 1, ())


def retry(number: int) -> Retrying:
    return Retrying("u", str(number), 0.0, number)


def all_of(mailbox: Mailbox) -> list[tuple[object, Event]]:
    found = []
    while (entry := mailbox.get_nowait()) is not None:
        found.append(entry)
    return found


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans())))
def test_only_the_latest_progress_of_each_waits_and_everything_else_stays_in_order(told: list[tuple[str, bool]]) -> None:
    mailbox = Mailbox()
    events = [(key, progress(n) if is_progress else retry(n)) for n, (key, is_progress) in enumerate(told)]
    for key, event in events:
        mailbox.put(event, key)
    last = {key: event for key, event in events if isinstance(event, Progress)}
    expected = [(key, event) for key, event in events if not isinstance(event, Progress) or event is last[key]]
    assert all_of(mailbox) == expected


def test_what_was_taken_is_not_replaced() -> None:
    mailbox = Mailbox()
    mailbox.put(progress(1))
    assert mailbox.get(0) == (None, progress(1))
    mailbox.put(progress(2))
    assert all_of(mailbox) == [(None, progress(2))]


def test_get_waits_until_something_comes_or_it_is_closed() -> None:
    mailbox = Mailbox()
    assert mailbox.get(0.01) is None
    threading.Timer(0.01, mailbox.put, (retry(1),)).start()
    assert mailbox.get(20) == (None, retry(1))
    threading.Timer(0.01, mailbox.close).start()
    assert mailbox.get(20) is None
    mailbox.put(retry(2))
    assert mailbox.get(20) is None, "it is closed"


def test_what_came_before_the_close_can_still_be_taken() -> None:
    mailbox = Mailbox()
    mailbox.put(retry(1))
    mailbox.close()
    assert list(Events(mailbox)) == [retry(1)]


def test_a_listener_in_an_event_loop_is_woken_from_another_thread() -> None:
    mailbox = Mailbox()
    told: list[Event] = [retry(1), progress(2), Paused("u", "p", 2)]

    async def main() -> list[Event]:
        teller = threading.Timer(0.01, lambda: [mailbox.put(event) for event in told])
        teller.start()
        return [event async for event in Events(mailbox)]

    assert asyncio.run(main()) == told
