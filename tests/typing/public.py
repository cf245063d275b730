"""What type checkers see of the public names. Not run: `test_typing.py` compares what they reveal with the comments."""

from dataclasses import asdict, replace
from typing import reveal_type

import fastidm


def synchronous() -> None:
    result = fastidm.download("https://example.com/x", "x", connections=8, headers={"A": "b"}, limit_rate="2M")
    reveal_type(result)  # Result
    reveal_type(result.path)  # str
    reveal_type(result.digests)  # dict[str, str]
    with fastidm.fetch("https://example.com/x", max_size=1) as body:
        reveal_type(body)  # Body
        reveal_type(memoryview(body))  # memoryview[int]
        reveal_type(body.result)  # Result
    with fastidm.stream("https://example.com/x") as stream:
        reveal_type(stream)  # Stream
        reveal_type(stream.read(1))  # bytes
        reveal_type(stream.size)  # int | None
        for block in stream.blocks():
            reveal_type(block)  # bytes
    with fastidm.open("https://example.com/x") as file:
        reveal_type(file)  # RemoteFile
        reveal_type(file.size)  # int
        reveal_type(file.seek(0))  # int


async def asynchronous() -> None:
    reveal_type(await fastidm.adownload("https://example.com/x"))  # Result
    reveal_type(await fastidm.afetch("https://example.com/x"))  # Body


def managed() -> None:
    with fastidm.DownloadManager(max_downloads=2, state_dir="queue") as manager:
        reveal_type(manager)  # DownloadManager
        task = manager.add("https://example.com/x", priority=1)
        reveal_type(task)  # DownloadTask
        reveal_type(task.status)  # DownloadStatus
        reveal_type(task.wait(1.0))  # Result
        reveal_type(task.error)  # FastidmError | None
        reveal_type(task.progress.received)  # int
        reveal_type(task.progress.eta)  # float | None
        reveal_type(manager.tasks)  # tuple[DownloadTask, ...]


def values(result: fastidm.Result) -> None:
    """Records are dataclasses to a type checker."""
    reveal_type(replace(fastidm.Options(connections=8), retries=1))  # Options
    reveal_type(asdict(result))  # dict[str, Any]
    match result:
        case fastidm.Result(_, path):
            reveal_type(path)  # str
    result.size = 1  # error
    fastidm.Options(conections=8)  # error


def wrong() -> None:
    fastidm.download("https://example.com/x", conections=8)  # error
    fastidm.download("https://example.com/x", connections="8")  # error
    fastidm.DownloadManager(max_downloads="2")  # error
