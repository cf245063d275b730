"""The queue of tasks, and the one who runs it.

Rules of this module: `run` drives the engine in the calling thread. `stop` may be called from any thread and from signal
handlers; everything else belongs to the thread that calls `run`. A manager belongs to the process that made it: after a fork
the child's calls raise RuntimeError, and the parent's downloads are not touched by the child's end.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import TracebackType

from fastidm.engine import Engine, free_descriptors
from fastidm.errors import FastidmError, InterruptedDownload, UsageError, redact
from fastidm.events import DownloadStatus, Event, Failed, Finished
from fastidm.options import MAX_DOWNLOADS, Options, check_url
from fastidm.running import RunningTask

TASK_FILES = 5
"""Descriptors that a task needs beside its connections: part file and journal, each once for its lock and once for its bytes,
and for a moment its folder."""


class DownloadTask:
    """One file to be downloaded. Made by `DownloadManager.add`."""

    def __init__(self, url: str, options: Options) -> None:
        self.url = url
        self.options = options
        self.result: Finished | None = None
        self._running: RunningTask | None = None
        self._stopped = False
        self._end: tuple[DownloadStatus, str | None, FastidmError | None] | None = None

    def __repr__(self) -> str:
        return f"<DownloadTask {redact(self.url)} {self.status.value}>"

    @property
    def status(self) -> DownloadStatus:
        if self._end is not None:
            return self._end[0]
        if self._running is None:
            return DownloadStatus.PAUSED if self._stopped else DownloadStatus.PENDING
        return self._running.machine.status

    @property
    def path(self) -> str | None:
        """Where the file is, or will be; None until the name is known."""
        if self._end is not None:
            return self._end[1]
        return self._running.path if self._running is not None else self.options.output

    @property
    def error(self) -> FastidmError | None:
        """Why it failed or was stopped; None otherwise."""
        if self.status is DownloadStatus.PAUSED:
            return InterruptedDownload("stopped before the end; everything received is kept")
        if self._end is not None:
            return self._end[2]
        return self._running.machine.error if self._running is not None else None

    def _ended(self) -> None:
        """Keep what may still be asked, and let go of the rest: of a thousand files all but a few have ended."""
        self._end = self.status, self.path, self.error
        self._running = None


class DownloadManager:
    """Runs tasks, a few at a time.

    Parameters: `observer(task, event)`, called in the thread of `run` with every event of `fastidm.events`; `max_downloads`,
    tasks that run at the same time. Both tasks and connections are fewer where the process may not open so many files.
    """

    def __init__(
        self, observer: Callable[[DownloadTask, Event], None] | None = None, *, max_downloads: int = MAX_DOWNLOADS
    ) -> None:
        if max_downloads < 1:
            raise UsageError("max_downloads must be at least 1")
        self._observer = observer
        self._process = os.getpid()
        room = free_descriptors()
        self._max_downloads = min(max_downloads, max(1, room // (TASK_FILES + 1)))
        self._ceiling = max(1, room // self._max_downloads - TASK_FILES)
        """Connections that a task may have at most, so that the process does not run out of descriptors."""
        self._engine = Engine(self._max_downloads * self._ceiling)
        self._waiting: deque[DownloadTask] = deque()
        self._stopping = False
        self._driven = False
        self._closed = False

    def __enter__(self) -> DownloadManager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(self, url: str, options: Options | None = None) -> DownloadTask:
        """Queue a file.

        Raises `UsageError` for what is no http or https URL; RuntimeError once closed.
        """
        self._check_open()
        check_url(url)
        task = DownloadTask(url, options or Options())
        self._waiting.append(task)
        return task

    def run(self) -> None:
        """Drive all tasks until each has ended, or `stop` was called. Raises RuntimeError once closed, and within itself."""
        self._check_open()
        if self._driven:
            raise RuntimeError("this manager is running already")
        self._driven = True
        try:
            self._start_more()
            self._engine.run(self._start_more)
        finally:
            self._driven = False
        if self._stopping:
            self._stop()  # for those that were not started; there may have been no loop to do it

    def stop(self) -> None:
        """Pause every task; `run` returns within a second. Safe in every thread and in signal handlers."""
        self._check_process()
        self._stopping = True
        self._engine.call(self._stop)

    def close(self) -> None:
        """Pause what still runs and give everything back. Idempotent; in a forked child it does nothing.

        Raises RuntimeError during `run`: `stop` ends that.
        """
        if os.getpid() != self._process:
            return
        if self._driven:
            raise RuntimeError("this manager is running: stop it first")
        self._closed = True
        self._engine.close()

    def _check_open(self) -> None:
        self._check_process()
        if self._closed:
            raise RuntimeError("this manager is closed")

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("this manager belongs to the process that made it: make one after the fork")

    def _start_more(self) -> bool:
        """Start what may run now; False when nothing was left to start."""
        started = False
        while self._waiting and not self._stopping and self._engine.running < self._max_downloads:
            task = self._waiting.popleft()
            options = task.options
            if options.connections > self._ceiling:
                options = replace(options, connections=self._ceiling)
            task._running = self._engine.add(task.url, options, partial(self._event, task))
            started = True
        if self._stopping and started:
            self._engine.call(self._stop)  # it was asked for between the look and the start
        return started

    def _stop(self) -> None:
        for task in self._waiting:
            task._stopped = True
        self._waiting.clear()
        self._engine.pause_all()

    def _event(self, task: DownloadTask, event: Event) -> None:
        if isinstance(event, Finished):
            task.result = event
        if isinstance(event, Finished | Failed):
            task._ended()
        if self._observer is not None:
            self._observer(task, event)
        if isinstance(event, Finished | Failed):
            self._start_more()
