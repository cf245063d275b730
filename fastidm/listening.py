"""How events come to those who listen in another thread or in an asyncio loop.

Rule of this module: who tells never waits for who listens. Of `Progress` events that nobody has taken yet only the latest of
each task is kept; all others are few.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from threading import Condition

from fastidm.events import Event, Failed, Finished, Paused, Progress

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Any

LAST = (Finished, Failed, Paused)
"""After one of these a task tells nothing more, unless it is resumed."""


class Mailbox:
    """Events on their way to one listener. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._entries: deque[list[Any]] = deque()
        """[key, event] each; [key, None] is one whose event was replaced by a later one."""
        self._progress: dict[Hashable, list[Any]] = {}
        """Key -> the entry with its latest Progress, as long as nobody has taken it."""
        self._changed = Condition()
        self._closed = False
        self._wake: Callable[[], None] | None = None

    def put(self, event: Event, key: Hashable = None) -> None:
        """Leave an event; `key` says whose it is."""
        with self._changed:
            if self._closed:
                return
            entry = [key, event]
            if isinstance(event, Progress):
                before = self._progress.get(key)
                if before is not None and before is self._entries[-1]:
                    before[1] = event
                    return
                if before is not None:
                    before[1] = None
                self._progress[key] = entry
            self._entries.append(entry)
            self._changed.notify()
            wake = self._wake
        if wake is not None:
            wake()

    def get(self, timeout: float | None = None) -> tuple[Hashable, Event] | None:
        """(key, event), the oldest; waits for one. None when it is closed and empty, or after `timeout` seconds."""
        with self._changed:
            while True:
                found = self._take()
                if found is not None or self._closed or not self._changed.wait(timeout):
                    return found or self._take()

    def get_nowait(self) -> tuple[Hashable, Event] | None:
        """As `get`, without waiting."""
        with self._changed:
            return self._take()

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Nothing more will come; what is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            wake = self._wake
        if wake is not None:
            wake()

    def when_changed(self, wake: Callable[[], None] | None) -> None:
        """Have `wake` called, in any thread, after each `put` and `close`."""
        with self._changed:
            self._wake = wake

    def _take(self) -> tuple[Hashable, Event] | None:
        while self._entries:
            entry = self._entries.popleft()
            key, event = entry
            if self._progress.get(key) is entry:
                del self._progress[key]
            if event is not None:
                return key, event
        return None


class Events:
    """The events of one task, for `for` and for `async for`; the last one is `Finished`, `Failed` or `Paused`."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        found = self._mailbox.get()
        if found is None:
            raise StopIteration
        return self._taken(found[1])

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        import asyncio

        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        self._mailbox.when_changed(wake)
        try:
            while (found := self._mailbox.get_nowait()) is None:
                if self._mailbox.closed:
                    raise StopAsyncIteration
                await changed.wait()
                changed.clear()
        finally:
            self._mailbox.when_changed(None)
        return self._taken(found[1])

    def _taken(self, event: Event) -> Event:
        if isinstance(event, LAST):
            self._mailbox.close()
        return event
