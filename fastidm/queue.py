"""Which task runs when, and with how many connections.

Rules of this module: `run` drives the engine in the calling thread. `call` and `stop` may be called from any thread, `stop`
from signal handlers too; everything else belongs to the thread that calls `run`. A queue belongs to the process that made it:
after a fork the child's calls raise RuntimeError, and the parent's downloads are not touched by the child's end.

The command line runs a queue in its only thread, `fastidm.manager` in one of its own.
"""

from __future__ import annotations

import os
from bisect import insort
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from types import TracebackType

from fastidm.core.redirect import origin
from fastidm.core.shares import may_join, shares
from fastidm.core.span import WHOLE, Span
from fastidm.engine import Engine, free_descriptors
from fastidm.errors import FastidmError, InterruptedDownload, UsageError, redact
from fastidm.events import DownloadStatus, Event, Failed, Finished, Paused
from fastidm.options import MAX_DOWNLOADS, Options, check_url
from fastidm.records import replace
from fastidm.running import Limit, RunningTask

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from fastidm.storage.memory import Nameless

ENDS = (Finished, Failed, Paused)
"""The last event of a task is one of these."""
TASK_FILES = 5
"""Descriptors that a task needs beside its connections: part file and journal, each once for its lock and once for its bytes,
and for a moment its folder."""


class Task:
    """One file to be downloaded. `priority`: those with a higher one begin first, others in the order in which they came."""

    def __init__(self, url: str, options: Options, priority: int = 0) -> None:
        self.url = url
        self.options = options
        self.priority = priority
        self.target: Nameless | None = None
        """Where it goes, if that is no file."""
        self.span: Span = WHOLE
        """The part of the file that is wanted."""
        self.limit: Limit | None = None
        """Its rate limit, if it has that together with others."""
        self.result: Finished | None = None
        self._running: RunningTask | None = None
        self._queued = False
        self._stopped = False
        self._again = False
        """It is to go on as soon as it has stopped."""
        self._cancelled = False
        self._end: tuple[DownloadStatus, str | None, FastidmError | None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {redact(self.url)} {self.status.value}>"

    @property
    def status(self) -> DownloadStatus:
        """Where it is in its life."""
        if self._end is not None:
            return self._end[0]
        running = self._running
        if running is None:
            return DownloadStatus.PAUSED if self._stopped else DownloadStatus.PENDING
        return running.status

    @property
    def path(self) -> str | None:
        """Where the file is, or will be; None until the name is known."""
        if self._end is not None:
            return self._end[1]
        running = self._running
        return running.path if running is not None else self.options.output

    @property
    def error(self) -> FastidmError | None:
        """Why it failed or was stopped; None otherwise."""
        if self.status is DownloadStatus.PAUSED:
            return InterruptedDownload("stopped before the end; everything received is kept")
        if self._end is not None:
            return self._end[2]
        running = self._running
        return running.error if running is not None else None

    def heard(self, event: Event) -> None:
        """Called in the queue's thread with each event of this task."""

    def _ended(self) -> None:
        """Keep what may still be asked, and let go of the rest: of a thousand files all but a few have ended."""
        self._end = self.status, self.path, self.error
        self._running = None


class Queue:
    """Runs tasks, a few at a time.

    Parameters: `observer(task, event)`, called in the thread of `run` with every event of `fastidm.events`; `max_downloads`,
    tasks that run at the same time; `max_connections` and `max_per_host`, connections of all of them and of those to one
    server, None for no such limit. All of these are fewer where the process may not open so many files.
    """

    def __init__(
        self,
        observer: Callable[[Task, Event], None] | None = None,
        *,
        max_downloads: int = MAX_DOWNLOADS,
        max_connections: int | None = None,
        max_per_host: int | None = None,
        limit_rate: int | None = None,
    ) -> None:
        for name, value in (
            ("max_downloads", max_downloads), ("max_connections", max_connections), ("max_per_host", max_per_host),
            ("limit_rate", limit_rate),
        ):  # fmt: skip
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1")
        self._observer = observer
        self._process = os.getpid()
        self._room = free_descriptors()
        self._max_downloads = min(max_downloads, max(1, self._room // (TASK_FILES + 1)))
        self._max_connections = max_connections or self._room
        self._max_per_host = max_per_host or self._room
        self._engine = Engine(self._room)
        self._engine.limit.set(limit_rate)
        self._waiting: deque[Task] = deque()
        self._active: dict[Task, str] = {}
        """Tasks that run, in the order in which they began, and the server of each."""
        self._wished = 0
        """Connections that they would like to have, all together."""
        self._shared = False
        """Whether tasks have fewer connections than they would like."""
        self._stopping = False
        self._serving = False
        self._driven = False
        self._closed = False

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------------ tasks

    def add(self, url: str, options: Options | None = None) -> Task:
        """Queue a file.

        Raises `UsageError` for what is no http or https URL; RuntimeError once closed.
        """
        self.check_open()
        check_url(url)
        task = Task(url, options or Options())
        self.put(task)
        return task

    def put(self, task: Task) -> None:
        """Let a task wait for its turn; also one that was paused or has failed, which then goes on."""
        if task._running is not None:
            task._again = task._stopped  # it is about to stop: then it goes on
        elif not task._queued and not task._cancelled and task.result is None:
            self._put(task)
        if self._driven:
            self._start_more()

    def _put(self, task: Task) -> None:
        if task.path and (task._end is not None or task._running is not None):
            # It goes on under the name that it has got; to look for a free one again would find the next.
            task.options = replace(task.options, output=task.path, rename=False, restart=False)
            task._running = None
        task._end, task._stopped, task._queued = None, False, True
        if self._waiting and self._waiting[-1].priority < task.priority:
            insort(self._waiting, task, key=lambda other: -other.priority)
        else:
            self._waiting.append(task)

    def pause(self, task: Task) -> None:
        """Stop a task; everything received is kept."""
        task._again = False
        if task._running is not None:
            task._stopped = True
            task._running.pause(monotonic())
        elif task._queued:
            self._waiting.remove(task)
            self._stop_waiting(task)

    def cancel(self, task: Task, delete: bool = False) -> None:
        """End a task for good. `delete`: part file and journal are removed; a finished file is not."""
        if task._cancelled or task.result is not None:
            return
        task._cancelled, task._again = True, False
        if task._running is not None:
            task._stopped = True
            (task._running.drop if delete else task._running.pause)(monotonic())
            return
        if task._queued:
            self._waiting.remove(task)
            task._queued = False
        if delete and task.path:
            options = replace(task.options, output=task.path, rename=False, restart=True)
            task._end = None  # it has not ended before nothing is left
            self._engine.forget(task.url, options, partial(self._end_cancelled, task))
        else:
            self._end_cancelled(task)

    def fail(self, task: Task, error: FastidmError) -> None:
        """End a task with `error`, unless it has ended; everything received is kept."""
        if task._running is not None:
            task._running.fail(error, monotonic())
        elif task._queued:
            self._waiting.remove(task)
            task._queued = False
            self._end_failed(task, error)

    def set_limit(self, rate: int | None, task: Task | None = None) -> None:
        """Limit one task, or all together, to `rate` bytes per second; None: no limit."""
        if task is None:
            self._engine.limit.set(rate)
            return
        task.options = replace(task.options, limit_rate=rate)
        if task._running is not None:
            task._running.limit.set(rate)

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Drive all tasks until each has ended, or `stop` was called. Raises RuntimeError once closed, and within itself."""
        self.check_open()
        if self._driven:
            raise RuntimeError("this queue is running already")
        self._driven = True
        try:
            self._start_more()
            self._engine.run(lambda: self._start_more() or self._serving)
            self._engine.do_calls()  # those that came too late
        finally:
            self._driven = False
        if self._stopping:
            self._stop()  # for those that were not started; there may have been no loop to do it

    def serve(self) -> None:
        """As `run`, but wait for more when all tasks have ended; until `stop`."""
        self._serving = not self._stopping
        self.run()

    def call(self, wish: Callable[[], object]) -> None:
        """Have `wish` called in the thread of `run`."""
        self._engine.call(wish)

    def stop(self) -> None:
        """Pause every task; `run` returns within a second. Safe in every thread and in signal handlers."""
        self.check_process()
        self._stopping = True
        self._serving = False
        self._engine.call(self._stop)

    def close(self) -> None:
        """Pause what still runs and give everything back. Idempotent; in a forked child it does nothing.

        Raises RuntimeError during `run`: `stop` ends that.
        """
        if not self.is_ours():
            return
        if self._driven:
            raise RuntimeError("this queue is running: stop it first")
        if not self._closed:
            self._closed = self._stopping = True
            self._engine.do_calls()  # those that nobody has come to do
            self._stop()
        self._engine.close()

    def check_open(self) -> None:
        """Raise RuntimeError once closed, and in a forked child."""
        self.check_process()
        if self._closed:
            raise RuntimeError("this one is closed")

    def is_ours(self) -> bool:
        """Whether this process made it."""
        return os.getpid() == self._process

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child."""
        if not self.is_ours():
            raise RuntimeError("this one belongs to the process that made it: make one after the fork")

    # ------------------------------------------------------------------ who runs

    def _start_more(self) -> bool:
        """Start what may run now; False when nothing was left to start."""
        started = False
        while not self._stopping and self._engine.running < self._max_downloads and (task := self._next()) is not None:
            self._active[task] = origin(task.url)
            self._wished += task.options.connections
            task._running = self._engine.add(
                task.url, task.options, partial(self._event, task), task.target, task.span, task.limit
            )
            started = True
        if started:
            self._share()
        if self._stopping and started:
            self._engine.call(self._stop)  # it was asked for between the look and the start
        return started

    def _next(self) -> Task | None:
        """Take the first that may begin from the queue."""
        hosts = list(self._active.values())
        if len(hosts) >= self._max_connections:
            return None
        for place, task in enumerate(self._waiting):
            if may_join(origin(task.url), hosts, self._max_connections, self._max_per_host):
                del self._waiting[place]
                task._queued = False
                return task
        return None

    def _share(self) -> None:
        """Give the connections out anew: a task has begun or ended."""
        total = min(self._max_connections, self._room - TASK_FILES * len(self._active))
        enough = self._wished <= min(total, self._max_per_host)
        if enough and not self._shared:
            return
        self._shared = not enough
        now = monotonic()
        parts = shares(list(self._active.values()), total, self._max_per_host)
        for task, part in zip(list(self._active), parts, strict=True):
            if task._running is not None:
                task._running.share(task.options.connections if enough else part, now)

    def _stop(self) -> None:
        for task in self._waiting:
            self._stop_waiting(task)
        self._waiting.clear()
        for task in self._active:
            task._stopped, task._again = True, False
        self._engine.pause_all()

    def _stop_waiting(self, task: Task) -> None:
        task._stopped, task._queued = True, False
        task._ended()
        self._tell(task, Paused(redact(task.url), task.path, 0))

    def _end_cancelled(self, task: Task) -> None:
        self._end_failed(task, InterruptedDownload("cancelled on request"))

    def _end_failed(self, task: Task, error: FastidmError) -> None:
        task._end = DownloadStatus.FAILED, task.path, error
        self._tell(task, Failed(redact(task.url), error.name, error.exit_code, error.message, error.hint))

    def _event(self, task: Task, event: Event) -> None:
        if not isinstance(event, ENDS):
            self._tell(task, event)
            return
        if isinstance(event, Finished):
            task.result = event
        if self._active.pop(task, None) is not None:
            self._wished -= task.options.connections
        if task._again and isinstance(event, Paused):
            task._again = False
            self._put(task)  # without an end in between, which somebody might take for one
            self._share()
            self._start_more()
            return
        task._ended()
        if task._cancelled and not isinstance(event, Finished):
            self._end_cancelled(task)
        else:
            self._tell(task, event)
        self._share()
        self._start_more()

    def _tell(self, task: Task, event: Event) -> None:
        task.heard(event)
        if self._observer is not None:
            self._observer(task, event)
