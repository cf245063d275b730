"""Which files were to be downloaded: a queue that outlives its process, in SQLite.

Rules of this module:

* The folder belongs to one process at a time (`queue.lock`); another gets `LockedError`. Folder and files are for their owner
  alone: URLs and options may hold secrets, and without them nothing could go on.
* All of SQLite happens in one thread, so that no disk holds up the engine. `add` waits for it: what it has returned from is
  not forgotten, whenever the process dies. What is noted later is a matter of milliseconds; a task of which the last note is
  lost is simply looked at once more.
* A queue that cannot be read is left alone, and is an error.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, fields
from queue import SimpleQueue
from threading import Event as Flag
from threading import Lock, Thread
from types import TracebackType

from fastidm.errors import LockedError, StorageError, printable
from fastidm.options import Options
from fastidm.storage import owned
from fastidm.storage.errors import mapped

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
NAME = "queue.sqlite3"
LOCK = "queue.lock"
WANTED, PAUSED, FAILED = "wanted", "paused", "failed"
SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    id INTEGER PRIMARY KEY,
    url TEXT NOT NULL,
    options TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    path TEXT,
    exit_code INTEGER,
    message TEXT,
    hint TEXT
)
"""
PATIENCE = 3.0
"""Seconds that `close` waits for a disk that is stuck."""


@dataclass
class Saved:
    """One task, as the queue remembers it."""

    url: str
    options: Options
    priority: int = 0
    state: str = WANTED
    """WANTED: it is to be downloaded; PAUSED: once somebody says so; FAILED: it has failed, with `error`."""
    path: str | None = None
    """Under which name it was begun."""
    error: tuple[int, str, str] | None = None
    """Exit code, message and hint."""
    id: int = 0


class QueueFile:
    """The queue in the folder `folder`, which is made if it is not there. Methods may be called from any thread.

    Raises `LockedError` if another process has it, `UnsafePathError`, `StorageError`.
    """

    def __init__(self, folder: str) -> None:
        self._folder = os.path.abspath(folder)
        with mapped(folder):
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._lock = self._locked()
        self._gate = Lock()
        """Held while a job is put: none may come after the last one, since nobody would do it."""
        self._closed = False
        self._jobs: SimpleQueue[Callable[[sqlite3.Connection], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="fastidm-queue", daemon=True)
        self._failure: Exception | None = None
        self.saved: list[Saved] = []
        """What an earlier process has left, in the order in which it was added."""
        self._ready = Flag()
        self._thread.start()
        self._ready.wait()
        self._raise_failure()

    def __enter__(self) -> QueueFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(self, saved: Saved) -> int:
        """Remember a task; returns its id when that is done. Raises `StorageError`; RuntimeError once closed."""
        done = Flag()
        failures: list[Exception] = []

        def insert(base: sqlite3.Connection) -> None:
            try:
                row = (saved.url, _text_of(saved.options), saved.priority, saved.state)
                saved.id = (
                    base.execute("INSERT INTO tasks (url, options, priority, state) VALUES (?, ?, ?, ?)", row).lastrowid or 0
                )
            except Exception as error:
                failures.append(error)
            finally:
                done.set()

        if not self._put(insert):
            raise RuntimeError("this queue is closed")
        done.wait()
        if failures:
            raise self._as_ours(failures[0])
        return saved.id

    def note(self, id: int, **changes: object) -> None:
        """Remember what has become of a task: `state`, `path`, `exit_code`, `message`, `hint`. Returns at once."""
        names = ", ".join(f"{name} = ?" for name in changes)
        values = (*map(_stored, changes.values()), id)
        self._put(lambda base: self._tried(base, f"UPDATE tasks SET {names} WHERE id = ?", values))

    def forget(self, id: int) -> None:
        """A task is done, or nobody wants it any more. Returns at once."""
        self._put(lambda base: self._tried(base, "DELETE FROM tasks WHERE id = ?", (id,)))

    def close(self) -> None:
        """Write what is left and let go of the folder. Idempotent."""
        if self._lock < 0:
            return
        with self._gate:
            self._closed = True
            self._jobs.put(None)
        self._thread.join(PATIENCE)
        lock, self._lock = self._lock, -1
        os.close(lock)

    def _put(self, job: Callable[[sqlite3.Connection], None]) -> bool:
        """Have the thread do `job`; False once it is closed."""
        with self._gate:
            if not self._closed:
                self._jobs.put(job)
            return not self._closed

    def _raise_failure(self) -> None:
        if self._failure is not None:
            lock, self._lock = self._lock, -1
            os.close(lock)
            raise self._failure

    # ------------------------------------------------------------------ the thread

    def _work(self) -> None:
        path = os.path.join(self._folder, NAME)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            base = sqlite3.connect(path, isolation_level=None)
            try:
                self._open(base)
            except BaseException:
                base.close()
                raise
        except Exception as error:  # also what `Options` says of a text that somebody else has written
            self._failure = error if isinstance(error, StorageError) else self._as_ours(error)
            return
        finally:
            self._ready.set()
        try:
            while (job := self._jobs.get()) is not None:
                job(base)
        finally:
            base.close()

    def _open(self, base: sqlite3.Connection) -> None:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")
        (version,) = base.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise StorageError(
                f"{printable(self._folder)} holds the queue of a newer fastidm", "update fastidm, or use another folder"
            )
        base.execute(SCHEMA)
        base.execute(f"PRAGMA user_version = {VERSION}")
        rows = base.execute("SELECT id, url, options, priority, state, path, exit_code, message, hint FROM tasks ORDER BY id")
        for id, url, options, priority, state, file, exit_code, message, hint in rows:
            error = None if exit_code is None else (exit_code, message or "", hint or "")
            self.saved.append(Saved(url, _options_of(options), priority, state, _read(file), error, id))

    def _tried(self, base: sqlite3.Connection, what: str, values: tuple[object, ...]) -> None:
        try:
            base.execute(what, values)
        except sqlite3.Error:
            pass  # the file system is full, or failing: the queue is then as it was, and asks for a file that is there

    def _locked(self) -> int:
        path = os.path.join(self._folder, LOCK)
        with mapped(path):
            try:
                try:
                    return owned.create(path)
                except FileExistsError:
                    return owned.open_locked(path, linked=False)
            except LockedError:
                raise LockedError(
                    f"the queue in {printable(self._folder)} is another process's", "use another folder, or end that process"
                ) from None

    def _as_ours(self, error: Exception) -> StorageError:
        what = f"the queue in {printable(self._folder)} cannot be used: {error}"
        return StorageError(what, f"check the disk; to begin with an empty queue, move {NAME} away")


def _stored(value: object) -> object:
    """As SQLite takes it: a file name on disk may be no text."""
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return value.encode("utf-8", "surrogateescape")
    return value


def _read(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _text_of(options: Options) -> str:
    """What differs from the defaults, as JSON."""
    values = {field.name: getattr(options, field.name) for field in fields(Options)}
    return json.dumps({name: value for name, value in values.items() if value != getattr(Options, name, None)})


def _options_of(text: str) -> Options:
    """Raises ValueError, TypeError, `UsageError` for what `_text_of` did not write."""
    values: Any = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("options that are no object")
    for name in ("checksum", "headers"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return Options(**values)
