"""A download with a queue of its own: nothing is shared with what other tests did before."""

from __future__ import annotations

from collections.abc import Callable

from fastidm.events import Event, Finished
from fastidm.options import Options
from fastidm.queue import Queue


def download(url: str, options: Options, on_event: Callable[[Event], object] = lambda event: None) -> Finished:
    """Download one file; returns what came of it, raises why it failed."""
    with Queue(lambda task, event: on_event(event) and None) as queue:
        task = queue.add(url, options)
        queue.run()
    if task.error is not None:
        raise task.error
    assert task.result is not None
    return task.result
