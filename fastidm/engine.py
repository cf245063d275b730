"""The loop. One thread drives every connection of every task.

Rules of this module: it owns libcurl, the tables and the journals' live pages while it runs. Everything that other threads want
comes through `call`, everything that may block leaves through `Background`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic

from fastidm.background import Background
from fastidm.core.hosts import Hosts
from fastidm.core.span import WHOLE, Span
from fastidm.events import Event
from fastidm.net.transfers import Transfers
from fastidm.options import Options
from fastidm.running import Limit, RunningTask, Shared
from fastidm.storage.target import Target
from fastidm.storage.writers import Writers

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from fastidm.storage.memory import Nameless
    from fastidm.storage.sink import PureSink

TICK = 0.05
"""Seconds between two looks at speeds, stalls and splits."""
YOUNG = (0.005, 0.03)
"""Seconds after which a task is looked at that has begun to receive, and then again: its first bytes show how fast one
connection is, but the very first came from buffers."""
TICK_PER_TASK = 0.0025
"""Seconds between two looks for each task that runs: with more than twenty the looks become rarer, so that a thousand tasks
cost no more."""
GRACE = 0.5
"""Seconds that a stopping engine waits for the disk; the journal's live page is enough to go on with."""
NAP = 5.0
"""Seconds of suspension after which connections are taken for dead."""
RESERVED = 24
"""Descriptors that are left alone: for resolving names, certificates, and whatever else the process does meanwhile."""


def free_descriptors() -> int:
    """How many files and sockets the process may open now, apart from `RESERVED`; at least 1."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

        limit = getrlimit(RLIMIT_NOFILE)[0]
        used = len(os.listdir("/dev/fd"))
    except (ImportError, OSError):
        limit, used = 256, RESERVED  # the least that a system gives
    return 1 << 20 if limit == RLIM_INFINITY else max(1, limit - used - RESERVED)


def slept() -> float:
    """Seconds that this machine was suspended since its boot, as far as the system tells."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - monotonic() if hasattr(time, "CLOCK_BOOTTIME") else 0.0


NOTHING_TO_DO = 3600.0
"""Seconds until the loop comes round without a task, unless it is called."""


class Engine:
    """All running tasks, and the loop that serves them. Parameter: `sockets`, connections at most, idle ones included."""

    def __init__(self, sockets: int) -> None:
        self._dirty: list[PureSink] = []
        self._wanting: list[RunningTask] = []
        self._tasks: dict[RunningTask, None] = {}
        self._throttled: list[RunningTask] = []
        self._young: list[deque[tuple[float, RunningTask]]] = [deque() for _ in YOUNG]
        """Tasks that have just begun to receive, and when they are looked at: for the first time, and so on."""
        self._usual = 0.0
        """Bytes per second of an average task, as of the last tick of all."""
        self.limit = Limit()
        """Of all tasks together."""
        self._transfers = Transfers(self._settle, sockets)
        self._background = Background(self._transfers.wake)
        self._writers = Writers(self._transfers.wake_fd)
        self._shared = Shared(
            self._transfers,
            Hosts(),
            self._background,
            self._writers,
            self._dirty,
            self._settle,
            self._wanting,
            self._soon,
            self._tasks.pop,
            self.limit,
        )
        self._stop_at = float("inf")
        self._calls: deque[Callable[[], object]] = deque()

    @property
    def running(self) -> int:
        """Tasks that have not ended."""
        return len(self._tasks)

    def add(
        self,
        url: str,
        options: Options,
        observer: Callable[[Event], None],
        target: Nameless | None = None,
        span: Span = WHOLE,
        limit: Limit | None = None,
    ) -> RunningTask:
        """Take a task in; the loop starts it. In the engine's thread only. Parameters as of `RunningTask`."""
        task = RunningTask(url, options, self._shared, observer, target, span, limit)
        self._tasks[task] = None
        if task.throttled:
            self._throttled.append(task)
        self._calls.append(lambda: task.start(monotonic()))
        return task

    def forget(self, url: str, options: Options, then: Callable[[], None]) -> None:
        """Remove what an earlier run has left of `options.output`, then call `then`. In the engine's thread only."""
        self._background.submit(partial(_forget, url, options), lambda *_: then())

    def call(self, wish: Callable[[], object]) -> None:
        """Have `wish` called in the engine's thread. Safe in every thread and in signal handlers."""
        self._calls.append(wish)
        self._transfers.wake()

    def do_calls(self) -> None:
        """Do what `call` was given; a defect of one is told as that of a thread would be, and ends no other. In the engine's
        thread only."""
        while self._calls:
            try:
                self._calls.popleft()()
            except Exception as error:
                threading.excepthook(
                    threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
                )

    def pause_all(self) -> None:
        """Stop every task and keep what it has; `run` returns within `GRACE`. In the engine's thread only."""
        now = monotonic()
        self._stop_at = min(self._stop_at, now + GRACE)  # asked twice, it does not wait twice
        for task in list(self._tasks):
            task.pause(now)

    def run(self, idle: Callable[[], bool]) -> None:
        """Serve the tasks. Whenever none is left `idle` is asked: it may add some and return True, or end the loop."""
        now = next_tick = 0.0
        asleep = slept()
        while (self._tasks or idle()) and now < self._stop_at:
            self._transfers.wait(self._timeout(next_tick))
            self.do_calls()
            self._deliver()
            now = monotonic()
            if now >= next_tick:
                next_tick = now + max(TICK, TICK_PER_TASK * len(self._tasks))
                before, asleep = asleep, slept()
                if asleep - before > NAP:
                    for task in list(self._tasks):
                        task.woke(now)
                self._usual = sum(task.speed for task in self._tasks) / max(1, len(self._tasks))
                for task in list(self._tasks):
                    task.tick(now, self._usual)
                self._throttled = [task for task in self._tasks if task.throttled]
            self._look_at_young(now)
            while self._wanting:
                self._wanting.pop().turn(now)
            self._writers.go()

    def close(self) -> None:
        """End what is left and give everything back. Idempotent."""
        self.pause_all()
        self._writers.go()
        while self._pending and (left := self._stop_at - monotonic()) > 0:
            self._transfers.wait(left)
            self._deliver()
        for task in list(self._tasks):
            task.abandon()
        self._tasks.clear()
        for looks in self._young:
            looks.clear()
        self._background.close()
        self._writers.close()
        self._transfers.close()

    @property
    def _pending(self) -> int:
        """What the disk has not finished yet."""
        return self._background.pending + self._writers.pending

    def _deliver(self) -> None:
        self._background.deliver()
        self._writers.deliver()

    def _timeout(self, next_tick: float) -> float:
        if self._calls:
            return 0.0  # they were left by this thread, which need not be woken
        if not self._tasks:
            return TICK if self._pending else NOTHING_TO_DO
        now = monotonic()
        waits = [wait for task in self._throttled if not task.ended and (wait := task.throttle(now)) is not None]
        waits += [looks[0][0] - now for looks in self._young if looks]
        return min([next_tick - now, *waits])

    def _look_at_young(self, now: float) -> None:
        for number, looks in enumerate(self._young, 1):
            while looks and now >= looks[0][0]:
                _, task = looks.popleft()
                if not task.ended:
                    task.tick(now, self._usual)
                    if number < len(YOUNG):
                        self._young[number].append((now + YOUNG[number], task))

    def _soon(self, task: RunningTask) -> None:
        self._young[0].append((monotonic() + YOUNG[0], task))
        if task.throttled and task not in self._throttled:
            self._throttled.append(task)

    def _settle(self) -> None:
        """Write out what the sinks gathered: SIGKILL then costs what one socket brought, and no more."""
        if self._dirty:
            for sink in self._dirty:
                sink.flush()
            self._dirty.clear()


def _forget(url: str, options: Options) -> None:
    """In the helper thread."""
    assert options.output is not None
    target = Target(options.output, url, options)
    target.prepare()
    target.close()
