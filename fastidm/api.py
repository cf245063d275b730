"""Download from Python: thin over the manager."""

from __future__ import annotations

from collections.abc import Callable

from fastidm.events import Event, Finished
from fastidm.manager import DownloadManager
from fastidm.options import Options


def download(url: str, options: Options | None = None, on_event: Callable[[Event], None] | None = None) -> Finished:
    """Download one file and return what came of it.

    Parameters: `url`, http or https; `options`, see `fastidm.Options`; `on_event`, called in this thread with every event of
    `fastidm.events`.

    Returns the `Finished` event: path, size in bytes, seconds, mean rate in bytes per second and more.

    Raises a leaf of `FastidmError`; see `fastidm.errors`.
    """
    with DownloadManager(lambda task, event: on_event(event) if on_event is not None else None) as manager:
        task = manager.add(url, options)
        manager.run()
    if task.error is not None:
        raise task.error
    assert task.result is not None
    return task.result
