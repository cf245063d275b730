"""Download from Python: the short way, over one manager that all calls of a process share.

Rules of this module: it is thin. What is asked for here runs in the shared manager's thread, so calls from many threads, or
from many tasks of an asyncio program, are served by one engine and use each other's connections. Callbacks run where the
caller is: in its thread, or in its event loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

from fastidm.errors import UsageError
from fastidm.events import Progress, Result
from fastidm.manager import STOP_SECONDS, DownloadManager, DownloadTask
from fastidm.options import check_url, options_from, parse_size

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Unpack

    from fastidm.core.response import Content
    from fastidm.options import Arguments
    from fastidm.storage.memory import Body, MemoryTarget
    from fastidm.streams import RemoteFile, Stream

MOST = 1000
"""Downloads that run at the same time, if the process may open so many files: whoever calls decides how many they are."""

_lock = Lock()
_manager: DownloadManager | None = None


def download(
    url: str,
    path: str | os.PathLike[str] | None = None,
    *,
    on_progress: Callable[[Progress], object] | None = None,
    **options: Unpack[Arguments],
) -> Result:
    """Download one file and return what came of it.

    Parameters: `url`, http or https; `path`, of the file, None: the server or the URL names it, in the folder `dir`;
    `on_progress`, called in this thread several times a second, and once at the end; `options`, see `fastidm.Options`.

    Whatever ends it before the file is complete, an error, Ctrl-C, or what `on_progress` raised: all that was received is
    kept, and the same call goes on.

    Raises a leaf of `FastidmError`; see `fastidm.errors`.

    >>> checksum = "sha256:70e7ec2d04376850ed56414c155b36fa5d5f707992669355ae25984aaf59ef0c"
    >>> result = fastidm.download("https://example.com/disk.iso", "disk.iso", checksum=checksum)
    >>> result.size
    3145728
    """
    return _run(shared_manager().make(url, path, **options), on_progress)


def fetch(
    url: str,
    *,
    max_size: int | str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    **options: Unpack[Arguments],
) -> Body:
    """Download into memory; returns the body, an object with the buffer protocol, whose `result` says how it came.

    Parameters: `max_size`, bytes that it may have (or "64M"), None: half of the machine's memory; the others as of
    `download`. Options that are about the file on disk mean nothing here.

    Raises `LimitError` for a body that is larger, and whatever else `download` raises; then nothing is kept.

    >>> with fastidm.fetch("https://example.com/table.csv") as body:
    ...     bytes(body[:4])
    b'a,b\\n'
    """
    task, target = _in_memory(url, max_size, options)
    return target.taken(_run(task, on_progress))


def stream(url: str, **options: Unpack[Arguments]) -> Stream:
    """Read a file in order while it is downloaded, over many connections and with bounded memory.

    Returns a binary file, once the server has answered. Parameters: `options`, as of `download`; those that are about the file
    on disk mean nothing here, and `checksum` is compared when all was read.

    Raises a leaf of `FastidmError`.

    >>> with fastidm.stream("https://example.com/disk.iso") as stream:
    ...     sum(len(block) for block in stream.blocks())
    3145728
    """
    from fastidm.streams import InOrder, Run, Stream

    check_url(url)
    chosen = options_from(**options)
    run = Run(shared_manager(), url, chosen)
    file = Stream(InOrder(run, chosen.checksum))
    try:
        run.opened()
    except BaseException:
        file.close()
        raise
    return file


def open(url: str, **options: Unpack[Arguments]) -> RemoteFile:
    """Read a file wherever you like, and fetch only what you look at.

    Returns a seekable binary file, once the server has answered. A server that sends no parts has to send the whole file, which
    is then in memory. Parameters: `options`, as of `stream`, without `checksum`.

    Raises a leaf of `FastidmError`.

    >>> import zipfile
    >>> with fastidm.open("https://example.com/archive.zip") as file:
    ...     zipfile.ZipFile(file).namelist()
    ['readme.txt', 'large.bin']
    """
    from fastidm.streams import LOOK, Anywhere, RemoteFile, Run

    check_url(url)
    chosen = options_from(**options)
    if chosen.checksum is not None:
        raise UsageError("open cannot compare a checksum, as it does not read all of the file", "fetch or stream can")

    def start(position: int, content: Content | None) -> Run:
        return Run(shared_manager(), url, chosen, start=position, content=content, first=LOOK, eager=False)

    return RemoteFile(Anywhere(start, lambda: fetch(url, **options)))


async def adownload(
    url: str,
    path: str | os.PathLike[str] | None = None,
    *,
    on_progress: Callable[[Progress], object] | None = None,
    **options: Unpack[Arguments],
) -> Result:
    """As `download`, for asyncio: the loop stays free, and `on_progress` is called in it.

    Cancelling the task that awaits this pauses the download and keeps what was received.

    >>> asyncio.run(fastidm.adownload("https://example.com/disk.iso", "disk.iso")).size
    3145728
    """
    return await _arun(shared_manager().make(url, path, **options), on_progress)


async def afetch(
    url: str,
    *,
    max_size: int | str | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    **options: Unpack[Arguments],
) -> Body:
    """As `fetch`, for asyncio.

    >>> len(asyncio.run(fastidm.afetch("https://example.com/table.csv")))
    4000
    """
    task, target = _in_memory(url, max_size, options)
    return target.taken(await _arun(task, on_progress))


def _in_memory(url: str, max_size: int | str | None, options: Arguments) -> tuple[DownloadTask, MemoryTarget]:
    from fastidm.storage.memory import MemoryTarget

    if isinstance(max_size, str):
        max_size = parse_size(max_size)
    if max_size is not None and (not isinstance(max_size, int) or max_size < 0):
        raise UsageError(f"max_size must be a number of bytes, not {max_size!r}")
    task = shared_manager().make(url, **options)
    task.target = target = MemoryTarget(max_size)
    return task, target


def _run(task: DownloadTask, on_progress: Callable[[Progress], object] | None) -> Result:
    events = task.events() if on_progress is not None else ()
    task.begin()
    try:
        for event in events:
            if isinstance(event, Progress) and on_progress is not None:
                on_progress(event)
        return task.wait()
    except BaseException:
        if task._manager.usable:
            task.pause()
            task.settled(STOP_SECONDS)
        raise


async def _arun(task: DownloadTask, on_progress: Callable[[Progress], object] | None) -> Result:
    events = task.events() if on_progress is not None else None
    task.begin()
    try:
        if events is not None and on_progress is not None:
            async for event in events:
                if isinstance(event, Progress):
                    on_progress(event)
        await _settled(task)
    except BaseException:
        if task._manager.usable:
            import asyncio

            task.pause()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_settled(task), STOP_SECONDS)  # a disk that is stuck does not hold up the loop's end
        raise
    return task.wait()


async def _settled(task: DownloadTask) -> None:
    import asyncio

    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(over.set)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    task.when_settled(wake)
    await over.wait()


def shared_manager() -> DownloadManager:
    """The manager of `download` and its like; made at the first call, and again in a forked child."""
    global _manager
    with _lock:
        if _manager is None or not _manager.usable:
            _manager = DownloadManager(max_downloads=MOST)
            _manager.remember = False
        return _manager


if hasattr(os, "register_at_fork"):

    def _after_fork() -> None:
        global _lock, _manager
        _lock, _manager = Lock(), None  # somebody may have held the lock just then

    os.register_at_fork(after_in_child=_after_fork)
