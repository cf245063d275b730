"""Small files written by threads that stay out of the interpreter, in C and in Python."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from fastidm.storage import whole, writers
from fastidm.storage.writers import PureWriter, Writers
from tests.storage.test_sink import KINDS

SECONDS = 20.0


class Pipe:
    """What wakes the loop."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def wait(self, seconds: float = SECONDS) -> bool:
        """Whether a byte came; it is taken."""
        return bool(select.select([self.read], [], [], seconds)[0]) and bool(os.read(self.read, 4096))


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.read)
    os.close(made.write)


@pytest.fixture(params=["c", "pure"])
def kind(request: pytest.FixtureRequest) -> type[PureWriter]:
    if request.param not in KINDS:
        pytest.skip("the C extension fastidm._hotpath is not built")
    if request.param == "pure":
        return PureWriter
    written: type[PureWriter] = importlib.import_module("fastidm._hotpath").Writer
    return written


@pytest.fixture
def many(kind: type[PureWriter], pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writers]:
    monkeypatch.setattr(writers, "Writer", kind)
    made = Writers(pipe.write)
    yield made
    made.close()


def serving(writer: PureWriter, count: int = 1) -> list[threading.Thread]:
    threads = [threading.Thread(target=writer.serve, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def collected(writer: PureWriter, pipe: Pipe, count: int) -> dict[int, int]:
    """Number -> answer of so many files."""
    done: dict[int, int] = {}
    while len(done) < count:
        assert pipe.wait()
        done.update(writer.done())
    return done


def test_every_file_is_written_and_told_once(kind: type[PureWriter], pipe: Pipe, tmp_path: Path) -> None:
    writer = kind(pipe.write)
    contents = {f"file {number}": bytearray(os.urandom(number * 97)) for number in range(200)}
    threads = serving(writer, 4)
    numbers = {name: writer.put(os.fsencode(tmp_path), os.fsencode(tmp_path / name), data) for name, data in contents.items()}
    writer.go()
    assert len(set(numbers.values())) == len(contents)
    assert collected(writer, pipe, len(contents)) == dict.fromkeys(numbers.values(), 0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents
    assert (writer.waiting, writer.done()) == (0, [])
    writer.close()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_what_could_not_be_written_is_told_by_its_number(kind: type[PureWriter], pipe: Pipe, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"precious")
    writer = kind(pipe.write)
    taken = writer.put(os.fsencode(tmp_path), os.fsencode(tmp_path / "taken"), bytearray(b"x"))
    nowhere = writer.put(os.fsencode(tmp_path / "missing"), os.fsencode(tmp_path / "missing" / "x"), bytearray(b"x"))
    assert writer.waiting == 2
    serving(writer)
    assert collected(writer, pipe, 2) == {taken: errno.EEXIST, nowhere: whole.IMPOSSIBLE}
    assert (tmp_path / "taken").read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["taken"]
    writer.close()


def test_a_full_pipe_is_no_obstacle(kind: type[PureWriter], pipe: Pipe, tmp_path: Path) -> None:
    with suppress(BlockingIOError):
        while True:
            os.write(pipe.write, bytes(4096))
    writer = kind(pipe.write)
    serving(writer)
    number = writer.put(os.fsencode(tmp_path), os.fsencode(tmp_path / "x"), bytearray(b"x"))
    writer.go()
    until = monotonic() + SECONDS
    while not (done := writer.done()) and monotonic() < until:
        assert pipe.wait()  # of which there is enough
    assert done == [(number, 0)]
    writer.close()


def test_after_closing_nothing_is_written_neither_to_disk_nor_to_the_pipe(
    kind: type[PureWriter], pipe: Pipe, tmp_path: Path
) -> None:
    writer = kind(pipe.write)
    writer.put(os.fsencode(tmp_path), os.fsencode(tmp_path / "x"), bytearray(b"x"))
    writer.close()
    writer.close()
    writer.serve()  # returns
    assert os.listdir(tmp_path) == []
    assert not pipe.wait(0)


def test_wrong_arguments_are_refused(pipe: Pipe, tmp_path: Path) -> None:
    """In C; Python finds out by itself when it writes."""
    if "c" not in KINDS:
        pytest.skip("the C extension fastidm._hotpath is not built")
    kind = importlib.import_module("fastidm._hotpath").Writer
    writer = kind(pipe.write)
    data, folder, path = bytearray(b"x"), os.fsencode(tmp_path), os.fsencode(tmp_path / "x")
    for wrong in ((folder, b"a\0b", data), (b"a\0b", path, data), (folder, path, None), ("a", path, data), (folder, path)):
        with pytest.raises((TypeError, ValueError)):
            writer.put(*wrong)
    for arguments, named in (((), {}), (("text",), {}), ((1,), {"fd": 1})):
        with pytest.raises(TypeError):
            kind(*arguments, **named)
    assert writer.waiting == 0
    data.append(0)  # nobody holds it


def test_nothing_leaks(kind: type[PureWriter], pipe: Pipe, tmp_path: Path) -> None:
    data, folder, path = bytearray(b"x" * 1000), os.fsencode(tmp_path), os.fsencode(tmp_path / "x")
    references = [sys.getrefcount(thing) for thing in (data, folder, path)]
    writer = kind(pipe.write)
    threads = serving(writer)
    for _ in range(50):
        writer.put(folder, path, data)
    writer.go()
    collected(writer, pipe, 50)
    writer.close()
    for thread in threads:
        thread.join(SECONDS)
    writer.put(folder, path, data)  # nobody will ever begin with it
    del writer, threads
    gc.collect()
    assert [sys.getrefcount(thing) for thing in (data, folder, path)] == references


def test_each_answer_comes_back_in_a_call_to_deliver(many: Writers, pipe: Pipe, tmp_path: Path) -> None:
    told: list[tuple[str, int, threading.Thread]] = []

    def tell(name: str, error: int) -> None:
        told.append((name, error, threading.current_thread()))

    for name in ("one", "two", "one"):
        many.write(str(tmp_path / name), bytearray(b"x"), partial(tell, name))
    assert many.pending == 3
    many.go()
    while many.pending:
        assert pipe.wait()
        many.deliver()
    here = threading.current_thread()
    assert sorted(told, key=lambda entry: entry[:2]) == [("one", 0, here), ("one", errno.EEXIST, here), ("two", 0, here)]


def test_a_disk_that_is_stuck_holds_up_nothing_on_another(pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, written = threading.Event(), whole.write_whole

    def write(folder: bytes, path: bytes, data: bytearray, sync: bool) -> int:
        if path.endswith(b"stuck"):
            gate.wait(SECONDS)
        return written(folder, path, data, sync)

    monkeypatch.setattr(writers, "Writer", PureWriter)
    monkeypatch.setattr(whole, "write_whole", write)
    many = Writers(pipe.write)
    told: list[str] = []

    def tell(name: str, error: int) -> None:
        assert error == 0
        told.append(name)

    for name in ("stuck", "too stuck", "free"):
        many.write(str(tmp_path / name), bytearray(b"x"), partial(tell, name))
    until = monotonic() + SECONDS
    while not told and monotonic() < until:
        pipe.wait(writers.PATIENCE)
        many.deliver()
    assert told == ["free"]
    gate.set()
    while many.pending:
        assert pipe.wait()
        many.deliver()
    many.close()


def test_without_another_thread_a_file_is_written_as_soon_as_there_is_one(
    many: Writers, pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    told: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        many.write(str(tmp_path / "file"), bytearray(b"x"), told.append)
    until = monotonic() + SECONDS
    while not told and monotonic() < until:
        pipe.wait(writers.PATIENCE)
        many.deliver()
    assert told == [0]
