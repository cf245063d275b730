"""Downloads in the background of a Python program: a queue with a thread of its own.

Rules of this module:

* Every method may be called from any thread at any time, also from a callback. What changes a task is done in the queue's
  thread, soon; what only looks reads what that thread has left, and costs nothing.
* Callbacks run in a thread of their own. One that raises fails its task and no other; one that blocks stops no transfer: of the
  `Progress` events that it could not take only the latest waits.
* Threads are daemons, and what still runs when the program ends is paused first: a program that ends never hangs here.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from threading import Event as Flag
from threading import Lock, Thread, current_thread
from time import monotonic
from types import TracebackType
from weakref import WeakSet

from fastidm.core.segments import FIELDS
from fastidm.errors import FastidmError, UsageError, error_of
from fastidm.events import DownloadStatus, Event, Failed, Finished, Paused, Result, Started
from fastidm.listening import LAST, Events, Mailbox
from fastidm.options import MAX_DOWNLOADS, MOST, Options, check_url, options_from
from fastidm.queue import Queue, Task
from fastidm.records import replace

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Unpack

    from numpy import void
    from numpy.typing import NDArray

    from fastidm.options import Arguments
    from fastidm.storage.queuefile import QueueFile

STOP_SECONDS = 3.0
"""How long `close` waits for the thread. It pauses its tasks within one second, whatever disk and network do."""


class TaskProgress:
    """How far a task is, at the moment in which an attribute is read. Sizes are bytes, rates bytes per second."""

    def __init__(self, task: DownloadTask) -> None:
        self._task = task

    def __repr__(self) -> str:
        return f"<TaskProgress {self.received} of {self.total} bytes, {self.rate:.0f} B/s>"

    @property
    def received(self) -> int:
        """Bytes of the file that are written, those of an earlier run included."""
        if self._task.result is not None:
            return self._task.result.size
        running = self._task._running
        return running.received if running is not None else self._task._received

    @property
    def total(self) -> int | None:
        """Length of the file; None while nobody knows."""
        if self._task.result is not None:
            return self._task.result.size
        running = self._task._running
        return running.total if running is not None else None

    @property
    def rate(self) -> float:
        """Over the last seconds; 0.0 when it does not run."""
        running = self._task._running
        return running.speed if running is not None else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that are left at this rate; None when nobody can say."""
        running = self._task._running
        return running.eta if running is not None else None

    @property
    def segments(self) -> NDArray[void]:
        """The rows of the segment table, a structured array with the fields start, stop, position (int64, bytes) and check.

        While the task runs it is a view of the engine's own memory: nothing is copied, and it goes on changing. Rows that
        are not in use have stop 0. It is not to be written to.
        """
        import numpy

        running = self._task._running
        table = running.table if running is not None else None
        rows = numpy.empty(0, FIELDS) if table is None else table.array
        rows.flags.writeable = False
        return rows


class DownloadTask(Task):
    """One file to be downloaded. Made by `DownloadManager.add`."""

    def __init__(
        self,
        manager: DownloadManager,
        url: str,
        options: Options,
        priority: int = 0,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        super().__init__(url, options, priority)
        self.progress = TaskProgress(self)
        self._manager = manager
        self._on_event = on_event
        self._received = 0
        self._saved = 0
        """What the queue file calls it; 0: that does not know it."""
        self._changes = 0
        """Wishes to resume or cancel it that the queue has not done yet."""
        self._lock = Lock()
        self._waiters: list[Callable[[], object]] = []
        self._listeners: list[Mailbox] = []

    def begin(self) -> None:
        """Queue it, if `DownloadManager.make` made it. Raises RuntimeError once the manager is closed."""
        self._manager._begin(self)

    def pause(self) -> None:
        """Stop; everything received is kept, and `resume` goes on. Returns at once."""

        def pause(queue: Queue) -> None:
            if self.status in (DownloadStatus.PENDING, DownloadStatus.DOWNLOADING):
                self._manager._note(self, state="paused")
            queue.pause(self)

        self._manager._do(pause)

    def resume(self) -> None:
        """Go on after a pause, or try again after a failure. Returns at once."""

        def resume(queue: Queue) -> None:
            self._manager._note(self, state="wanted", exit_code=None)
            queue.put(self)

        self._change(resume)

    def cancel(self, delete: bool = False) -> None:
        """End it for good: its status becomes FAILED. Returns at once.

        `delete`: what was received is removed. A finished file is not.
        """
        self._manager._forget_saved(self)
        self._change(lambda queue: queue.cancel(self, delete))

    def set_limit(self, rate: int | str | None) -> None:
        """Receive at most `rate` bytes per second (or "2M"); None: as fast as can be. Raises `UsageError`."""
        limit = options_from(limit_rate=rate).limit_rate
        self._manager._do(lambda queue: queue.set_limit(limit, self))

    def wait(self, timeout: float | None = None) -> Result:
        """Wait until the file is complete and return what came of it.

        Raises the task's error if it failed, `InterruptedDownload` if it was paused or cancelled, `TimeoutError` after
        `timeout` seconds.
        """
        until = None if timeout is None else monotonic() + timeout
        while True:
            if not self.settled(None if until is None else max(0.0, until - monotonic())):
                raise TimeoutError(f"{self!r} is not done after {timeout} s")
            result, error = self.result, self.error
            if result is not None:
                return result
            if error is not None:
                raise error
            # Somebody has let it go on since.

    def settled(self, timeout: float | None = None) -> bool:
        """Wait until it is completed, failed or paused; False if it is not after `timeout` seconds."""
        self._manager.check_process()
        flag = Flag()
        self.when_settled(flag.set)
        try:
            return flag.wait(timeout)
        finally:
            with self._lock:
                if flag.set in self._waiters:
                    self._waiters.remove(flag.set)

    def when_settled(self, call: Callable[[], object]) -> None:
        """Have `call` called once it is completed, failed or paused: at once if it is, else in the queue's thread. It must
        not block."""
        with self._lock:
            if not self._is_over():
                self._waiters.append(call)
                return
        call()

    def events(self) -> Events:
        """Its events from now on, for `for` and for `async for`; the last is `Finished`, `Failed` or `Paused`.

        For a slow reader older `Progress` events are left out. A task that has ended gives none.
        """
        self._manager.check_process()
        mailbox = Mailbox()
        with self._lock:
            if self._is_over():
                mailbox.close()
            else:
                self._listeners.append(mailbox)
        return Events(mailbox)

    # ------------------------------------------------------------------ what the queue calls, in its thread

    def heard(self, event: Event) -> None:
        over = isinstance(event, LAST)
        with self._lock:
            if isinstance(event, Paused):
                self._received = event.received
            listeners, waiters = self._listeners, self._waiters
            if over:
                self._listeners = []
            if not self._is_over():
                waiters = []
            else:
                self._waiters = []
        for listener in listeners:
            listener.put(event)
        self._manager._heard(self, event, over)
        for call in waiters:
            call()

    # ------------------------------------------------------------------ between the threads

    def _change(self, wish: Callable[[Queue], object]) -> None:
        """Have a wish done that makes an end that was before none: who waits from now on waits for the next."""
        with self._lock:
            self._changes += 1

        def change(queue: Queue) -> None:
            try:
                wish(queue)
            finally:
                self._changed()

        try:
            self._manager._do(change)
        except RuntimeError:
            self._changed()
            raise

    def _changed(self) -> None:
        with self._lock:
            self._changes -= 1
            waiters: list[Callable[[], object]] = []
            if self._is_over():
                waiters, self._waiters = self._waiters, []
        for call in waiters:
            call()

    def _is_over(self) -> bool:
        return self._end is not None and not self._changes


class DownloadManager:
    """Downloads files in the background, a few at a time.

    Parameters: `on_event(task, event)`, called with every event of `fastidm.events`, in a thread of its own; `max_downloads`,
    tasks that run at the same time; `max_connections` and `max_per_host`, connections of all of them and of those to one
    server, None for no such limit; `limit_rate`, bytes per second of all of them, None for no limit; `state_dir`, a folder in
    which the queue is kept, so that a manager of a later process goes on with it: `tasks` has then what was not finished, and
    what was not paused runs. Relative paths are those of the process that added them; callbacks are not kept.

    As a context manager it waits for all tasks at the end of the block, or pauses them if the block raised.

    Raises `UsageError` for a value below 1; `LockedError` if another process uses `state_dir`, `StorageError` if it cannot be
    used. After a fork it belongs to the parent: in the child its methods raise RuntimeError.

    >>> with fastidm.DownloadManager(max_downloads=2) as manager:
    ...     tasks = [manager.add(f"https://example.com/{name}") for name in ("a.zip", "b.zip", "c.zip")]
    >>> [task.status.value for task in tasks]
    ['completed', 'completed', 'completed']
    """

    def __init__(
        self,
        on_event: Callable[[DownloadTask, Event], object] | None = None,
        *,
        max_downloads: int = MAX_DOWNLOADS,
        max_connections: int | None = None,
        max_per_host: int | None = None,
        limit_rate: int | None = None,
        state_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self._queue = Queue(
            max_downloads=max_downloads, max_connections=max_connections, max_per_host=max_per_host, limit_rate=limit_rate
        )
        self._on_event = on_event
        self.remember = True
        """Whether `tasks` has those that have ended, too."""
        self._tasks: dict[DownloadTask, None] = {}
        self._lock = Lock()
        self._thread: Thread | None = None
        self._mailbox: Mailbox | None = None
        self._caller: Thread | None = None
        self._closing = False
        self._file: QueueFile | None = None
        if state_dir is not None:
            from fastidm.storage.queuefile import QueueFile

            try:
                self._file = QueueFile(os.fspath(state_dir))
            except BaseException:
                self._queue.close()
                raise
            self._take_up(self._file)
        _managers.add(self)

    def __enter__(self) -> DownloadManager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait_all()
        finally:
            self.close()

    @property
    def tasks(self) -> tuple[DownloadTask, ...]:
        """All that were added, in that order, but those that were cancelled."""
        with self._lock:
            return tuple(self._tasks)

    def add(
        self,
        url: str,
        path: str | os.PathLike[str] | None = None,
        *,
        priority: int = 0,
        on_event: Callable[[Event], object] | None = None,
        **options: Unpack[Arguments],
    ) -> DownloadTask:
        """Queue a file; it begins as soon as it may.

        Parameters: `url`, http or https; `path`, of the file, None: the server or the URL names it; `priority`, those with a
        higher one begin first; `on_event`, called with each of its events, in the thread for callbacks; `options`, see
        `fastidm.Options`.

        Raises `UsageError`; RuntimeError once closed.
        """
        task = self.make(url, path, priority=priority, on_event=on_event, **options)
        task.begin()
        return task

    def make(
        self,
        url: str,
        path: str | os.PathLike[str] | None = None,
        *,
        priority: int = 0,
        on_event: Callable[[Event], object] | None = None,
        **options: Unpack[Arguments],
    ) -> DownloadTask:
        """As `add`, but it waits for its `begin`: for those who listen to it from its first event on."""
        check_url(url)
        if type(priority) is not int or not -MOST <= priority <= MOST:
            raise UsageError(f"priority must be a whole number of at most {MOST}, not {priority!r}")
        return DownloadTask(self, url, _from_the_root(options_from(path, **options)), priority, on_event)

    @property
    def usable(self) -> bool:
        """Whether it is open, and of this process."""
        return self._queue.is_ours() and not self._closing

    def pause_all(self) -> None:
        """Pause every task that has not ended. Returns at once."""
        for task in self.tasks:
            task.pause()

    def resume_all(self) -> None:
        """Let every paused task go on. Returns at once."""
        for task in self.tasks:
            if task.status is DownloadStatus.PAUSED:
                task.resume()

    def wait_all(self, timeout: float | None = None) -> bool:
        """Wait until each task is completed, failed or paused; False if one is not after `timeout` seconds."""
        until = None if timeout is None else monotonic() + timeout
        return all(task.settled(None if until is None else max(0.0, until - monotonic())) for task in self.tasks)

    def set_limit(self, rate: int | str | None) -> None:
        """Let all tasks together receive at most `rate` bytes per second (or "2M"); None: as fast as can be. Raises
        `UsageError`."""
        limit = options_from(limit_rate=rate).limit_rate
        self._do(lambda queue: queue.set_limit(limit))

    def close(self) -> None:
        """Pause what still runs and give everything back; takes about a second at most. Idempotent.

        Not to be called from a callback: that raises RuntimeError.
        """
        if not self._queue.is_ours():
            return
        if current_thread() is self._caller:
            raise RuntimeError("a callback cannot close its manager")
        with self._lock:
            self._closing = True
            thread = self._thread
        if thread is None:
            self._queue.close()
        else:
            self._queue.stop()
            thread.join(STOP_SECONDS)
        if self._mailbox is not None:  # that thread may have made it just now
            self._mailbox.close()
        if self._file is not None:
            self._file.close()

    def call(self, wish: Callable[[], object]) -> None:
        """Have `wish` called in the queue's thread, if there is one and it lives. Takes no lock of a manager or task, so that a
        finalizer may call it."""
        if self._queue.is_ours():
            self._queue.call(wish)

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child."""
        self._queue.check_process()

    # ------------------------------------------------------------------ between the threads

    def _do(self, wish: Callable[[Queue], object]) -> None:
        """Have `wish` done in the queue's thread. Raises RuntimeError once closed, in a forked child, and where that thread
        cannot be had."""
        self.check_process()  # before the lock: in a child there may be nobody to release it
        with self._lock:
            self._check_usable()
            if self._thread is None:
                thread = Thread(target=self._work, name="fastidm", daemon=True)
                thread.start()
                self._thread = thread
            self._queue.call(lambda: wish(self._queue))

    def _check_usable(self) -> None:
        self._queue.check_process()
        if self._closing:
            raise RuntimeError("this manager is closed")

    def _begin(self, task: DownloadTask) -> None:
        self._check_usable()
        if self._file is not None and not task._saved:
            from fastidm.storage.queuefile import Saved

            task._saved = self._file.add(Saved(task.url, task.options, task.priority))
        with self._lock:
            self._tasks[task] = None
        try:
            self._do(lambda queue: queue.put(task))
        except RuntimeError:
            self._forget(task)
            raise

    def _take_up(self, file: QueueFile) -> None:
        """Go on with what an earlier process has left."""
        for saved in file.saved:
            options = saved.options
            if saved.path is not None:
                options = replace(options, output=saved.path, rename=False, restart=False)
            task = DownloadTask(self, saved.url, options, saved.priority)
            task._saved = saved.id
            if saved.state == "wanted":
                self._begin(task)
                continue
            with self._lock:
                self._tasks[task] = None
            if saved.error is not None and saved.state == "failed":
                task._end = DownloadStatus.FAILED, saved.path, error_of(*saved.error)
            else:
                task._end = DownloadStatus.PAUSED, saved.path, None

    def _note(self, task: DownloadTask, **changes: object) -> None:
        if self._file is not None and task._saved and not self._closing:
            self._file.note(task._saved, **changes)

    def _forget_saved(self, task: DownloadTask) -> None:
        if self._file is not None and task._saved:
            self._file.forget(task._saved)

    def _remember(self, task: DownloadTask, event: Event) -> None:
        """In the queue's thread: keep what has become of a task. What `close` pauses is wanted all the same."""
        if self._file is None or not task._saved:
            return
        if isinstance(event, Finished) or task._cancelled:
            self._forget_saved(task)
        elif isinstance(event, Started):
            self._file.note(task._saved, path=event.path)
        elif isinstance(event, Failed):
            self._file.note(
                task._saved, state="failed", exit_code=event.exit_code, message=event.message, hint=event.hint
            )

    def _work(self) -> None:
        """The queue's thread."""
        try:
            self._queue.serve()
        finally:
            self._closing = True  # whatever has ended it: nobody is to wait for this thread
            self._queue.close()

    def _heard(self, task: DownloadTask, event: Event, over: bool) -> None:
        """In the queue's thread."""
        self._remember(task, event)
        if task._cancelled or (over and not self.remember):
            self._forget(task)
        if self._on_event is not None or task._on_event is not None:
            if self._mailbox is None:
                self._mailbox = Mailbox()
                self._caller = Thread(target=self._call_back, args=(self._mailbox,), name="fastidm-callbacks", daemon=True)
                self._caller.start()
            self._mailbox.put(event, task)

    def _call_back(self, mailbox: Mailbox) -> None:
        """The thread for callbacks."""
        while (found := mailbox.get()) is not None:
            task, event = found
            assert isinstance(task, DownloadTask)
            try:
                if self._on_event is not None:
                    self._on_event(task, event)
                if task._on_event is not None:
                    task._on_event(event)
            except BaseException as error:  # also sys.exit, which would silently end all callbacks
                self._blame(task, error)

    def _blame(self, task: DownloadTask, error: BaseException) -> None:
        failure = FastidmError(f"a callback raised {type(error).__name__}: {error}", "everything received is kept")
        failure.__cause__ = error
        try:
            self._do(lambda queue: queue.fail(task, failure))
        except RuntimeError:
            pass  # it is closed, and the task with it

    def _forget(self, task: DownloadTask) -> None:
        with self._lock:
            self._tasks.pop(task, None)


def _from_the_root(options: Options) -> Options:
    """With paths that mean the same later, in another thread and in another process."""
    names = ("output", "directory", "cookie_file", "cacert", "cert", "key")
    given = {name: value for name in names if (value := getattr(options, name)) and not os.path.isabs(value)}
    try:
        here = os.getcwd()
    except OSError:
        return options  # this folder is gone
    # A slash at the end stays: it says that a folder is meant.
    paths = {name: os.path.normpath(os.path.join(here, path)) + "/" * path.endswith("/") for name, path in given.items()}
    return replace(options, **paths) if paths else options


_managers: WeakSet[DownloadManager] = WeakSet()


@atexit.register
def _close_all() -> None:
    """The program ends: threads that are daemons would be cut off anywhere."""
    for manager in list(_managers):
        try:
            manager.close()
        except RuntimeError:
            pass  # the program is ended by a callback
