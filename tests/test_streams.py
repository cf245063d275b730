"""A file that is read while it is downloaded: in order, or anywhere."""

from __future__ import annotations

import gc
import hashlib
import io
import itertools
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastidm
from fastidm import streams
from fastidm.api import shared_manager
from fastidm.errors import (
    BusyError,
    ContentChangedError,
    FastidmError,
    IntegrityError,
    InterruptedDownload,
    NetworkError,
    NotFoundError,
    UsageError,
)
from fastidm.manager import DownloadManager
from fastidm.options import Options
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Habit, Limited, OddServer
from tests.support.servers import Nginx, wait_until

KIB, MIB = 1 << 10, 1 << 20
Serve = Callable[[Habit], OddServer]


def whole(data: bytes, *lines: str) -> Habit:
    """A server that knows no ranges."""

    def habit(exchange: Exchange) -> None:
        exchange.answer(200, *lines, body=data)

    return habit


def seams(server: OddServer) -> int:
    """Bytes that were asked for twice, to be compared: each piece but the last has the first ones of the next."""
    return (len(server.exchanges) - 1) * streams.SEAM


# ---------------------------------------------------------------------- in order


@pytest.mark.parametrize("size", [0, 1, 4095, 256 * KIB, 256 * KIB + 1, 9 * MIB + 1])
def test_a_stream_of_any_size_is_right(size: int, nginx: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with fastidm.stream(nginx.add("stream.bin", content(size))) as stream:
        assert stream.size == size
        assert stream.read() == content(size)
        assert stream.read() == b""
    assert os.listdir(tmp_path) == []


def test_its_pieces_come_over_several_connections_and_each_byte_once_but_at_seams(odd: Serve) -> None:
    data = content(24 * MIB)
    server = odd(File(data))
    with fastidm.stream(server.url + "/wide.bin", connections=4) as stream:
        assert hashlib.sha256(stream.read()).digest() == hashlib.sha256(data).digest()
    assert 1 < len({exchange.number for exchange in server.exchanges}) <= 4
    assert sum(exchange.sent for exchange in server.exchanges) == len(data) + seams(server)


def test_a_server_without_parts_is_read_as_it_sends(odd: Serve) -> None:
    data = content(40 * MIB)
    with fastidm.stream(odd(whole(data)).url + "/one.bin") as stream:
        assert stream.size == len(data)
        assert b"".join(stream.blocks()) == data


def test_a_body_whose_length_nobody_says_is_read_to_its_end(odd: Serve) -> None:
    data = content(3 * MIB)

    def habit(exchange: Exchange) -> None:
        exchange.head(200, "Connection: close")
        exchange.send(data)
        exchange.close()

    with fastidm.stream(odd(habit).url + "/unknown") as stream:
        assert stream.size is None
        assert stream.read() == data


def test_bytes_that_flow_can_be_read_before_the_last_has_come(odd: Serve) -> None:
    data, go_on = content(8 * MIB), threading.Event()

    def habit(exchange: Exchange) -> None:
        exchange.head(200, f"Content-Length: {len(data)}")
        exchange.send(data[:MIB])
        go_on.wait(10)
        exchange.send(data[MIB:])

    with fastidm.stream(odd(habit).url + "/live") as stream:
        assert stream.read(MIB) == data[:MIB]
        go_on.set()
        assert stream.read() == data[MIB:]


def test_who_reads_slowly_holds_the_server_back(odd: Serve) -> None:
    data = content(96 * MIB)
    server = odd(File(data))
    with fastidm.stream(server.url + "/large.bin") as stream:
        taken = stream.read(MIB)
        quiet = threading.Event()

        def at_rest() -> bool:
            before = sum(exchange.sent for exchange in server.exchanges)
            quiet.wait(0.3)
            return before == sum(exchange.sent for exchange in server.exchanges)

        wait_until(at_rest, "the server's rest")
        assert sum(exchange.sent for exchange in server.exchanges) <= 56 * MIB
        assert taken + stream.read() == data


def test_who_reads_slowly_holds_a_server_without_parts_back(odd: Serve) -> None:
    data = content(96 * MIB)
    server = odd(whole(data))
    with fastidm.stream(server.url + "/large.bin") as stream:
        taken = stream.read(MIB)

        def at_rest() -> bool:
            before = stream.raw._part.piece._there if stream.raw._part else 0
            threading.Event().wait(0.3)
            return 0 < before == (stream.raw._part.piece._there if stream.raw._part else 0)

        wait_until(at_rest, "the server's rest")
        assert stream.raw._part is not None
        assert stream.raw._part.piece._there <= 64 * MIB
        assert taken + stream.read() == data


def test_lines_and_archives_are_read_on_the_fly(nginx: Nginx) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for n in range(3):
            member = tarfile.TarInfo(f"{n}.bin")
            member.size = MIB
            archive.addfile(member, io.BytesIO(content(MIB, seed=n)))
    url = nginx.add("some.tar.gz", packed.getvalue())
    with fastidm.stream(url) as stream, tarfile.open(fileobj=stream, mode="r|gz") as archive:
        for n, member in enumerate(archive):
            file = archive.extractfile(member)
            assert file is not None
            assert file.read() == content(MIB, seed=n)
    text = b"".join(b"%d\n" % n for n in range(100_000))
    with fastidm.stream(nginx.add("lines.txt", text)) as stream:
        assert sum(map(int, stream)) == sum(range(100_000))


def test_a_checksum_is_compared_at_the_end(nginx: Nginx) -> None:
    data = content(3 * MIB)
    url = nginx.add("summed.bin", data)
    with fastidm.stream(url, checksum="sha256:" + hashlib.sha256(data).hexdigest()) as stream:
        assert stream.read() == data
    with fastidm.stream(url, checksum="sha256:" + "0" * 64) as stream:
        with pytest.raises(IntegrityError, match="checksum"):
            stream.read(3 * MIB)  # before the last bytes are given out
        with pytest.raises(IntegrityError, match="checksum"):
            stream.read()


def test_what_is_wrong_from_the_beginning_is_raised_at_once(nginx: Nginx) -> None:
    with pytest.raises(NotFoundError):
        fastidm.stream(nginx.url + "/nothing")
    with pytest.raises(UsageError):
        fastidm.stream("ftp://127.0.0.1/nothing")


def test_a_file_that_changes_on_the_way_is_an_error_and_never_mixed(odd: Serve) -> None:
    old, new = content(40 * MIB), content(40 * MIB, seed=1)
    server = odd(File(old, etag='"1"'))
    with fastidm.stream(server.url + "/changing.bin", connections=2) as stream:
        seen = stream.read(MIB)
        server.habit = File(new, etag='"2"')
        with pytest.raises(ContentChangedError):  # noqa: PT012
            for block in stream.blocks():
                seen += block
    assert old.startswith(seen)


LAST_MODIFIED = "Mon, 02 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize("opener", [fastidm.stream, fastidm.open])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"etag": None}, {"etag": None}),
        ({"etag": '"1"', "modified": LAST_MODIFIED}, {"etag": '"2"', "modified": LAST_MODIFIED}),
        ({"etag": None, "modified": LAST_MODIFIED}, {"etag": None, "modified": LAST_MODIFIED}),
        ({"etag": '"1"'}, {"etag": None}),
    ],
    ids=["nothing", "two-servers", "date", "one-without"],
)
def test_a_change_of_which_the_server_says_nothing_is_found_where_pieces_meet(
    before: dict[str, Any], after: dict[str, Any], opener: Callable[..., io.BufferedReader], odd: Serve
) -> None:
    old, new = File(content(8 * MIB, seed=1), **before), File(content(8 * MIB, seed=2), **after)
    asked = itertools.count()

    def habit(exchange: Exchange) -> None:
        (old if next(asked) < 3 else new)(exchange)

    with opener(odd(habit).url + "/changes", connections=2) as source, pytest.raises(IntegrityError, match="fit together"):
        source.read()


@pytest.mark.parametrize("opener", [fastidm.stream, fastidm.open])
@pytest.mark.parametrize("fate", ["hold", "reset"])
def test_a_second_request_that_is_answered_with_the_whole_file_brings_no_byte_twice(
    fate: str, opener: Callable[..., io.BufferedReader], odd: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "UNKNOWING", 0.1)
    data = content(8 * MIB)
    file, asked = File(data), itertools.count()

    def habit(exchange: Exchange) -> None:
        if exchange.first != 0:
            file(exchange)
        elif next(asked):
            exchange.headers.pop("range")  # a node that knows no ranges
            file(exchange)
        else:
            body = file.head(exchange)
            exchange.send(body[:1000])
            exchange.hold() if fate == "hold" else exchange.reset()

    with opener(odd(habit).url + "/nodes", connections=4, retries=0 if fate == "reset" else 5) as source:
        try:
            assert source.read() == data
        except NetworkError:
            assert fate == "reset"  # nothing else was under way


def test_a_server_that_refuses_a_second_request_is_asked_once(odd: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PATIENCE", 0.01)
    monkeypatch.setattr(streams, "SLOW", 0.1)
    data = content(12 * MIB)
    file, go_on = File(data), threading.Event()
    twice: list[int] = []
    seen: set[int] = set()

    def habit(exchange: Exchange) -> None:
        first = exchange.first or 0
        if first in seen:
            twice.append(first)
            exchange.answer(403)
            return
        seen.add(first)
        body = file.head(exchange)
        if len(seen) == 4:
            exchange.send(body[:1000])
            go_on.wait(1)
            body = body[1000:]
        exchange.send(body)

    with fastidm.stream(odd(habit).url + "/refused", connections=4) as stream:
        assert stream.read() == data
    assert len(twice) == len(set(twice))


def test_a_server_that_forbids_many_connections_is_read_over_few(odd: Serve) -> None:
    data = content(24 * MIB)

    def forbidden(exchange: Exchange) -> None:
        exchange.answer(403)

    with fastidm.stream(odd(Limited(2, File(data), forbidden)).url + "/limited.bin", connections=8) as stream:
        assert stream.read() == data


@pytest.mark.timeout(60)
def test_streams_that_nobody_closes_hold_up_nobody(odd: Serve) -> None:
    url = odd(File(content(3 * MIB))).url + "/dropped.bin"
    for _ in range(300):  # the collector closes them, most often in the engine's thread, wherever that is
        circle: list[object] = []
        stream = fastidm.stream(url, connections=2)
        circle += [circle, stream]
        stream.read(10)
        del circle, stream
    gc.collect()
    assert len(fastidm.fetch(url)) == 3 * MIB
    wait_until(lambda: shared_manager()._queue._engine.running == 0, "their end")


@pytest.mark.timeout(30)
def test_a_read_that_waits_ends_when_another_thread_closes_the_stream(odd: Serve) -> None:
    file = File(content(8 * MIB))
    waits = threading.Event()

    def habit(exchange: Exchange) -> None:
        body = file.head(exchange)
        if exchange.first:
            waits.set()
            exchange.hold()
        exchange.send(body)

    stream = fastidm.stream(odd(habit).url + "/waits")
    ends: list[BaseException] = []

    def read() -> None:
        try:
            stream.read()
        except ValueError as error:
            ends.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert waits.wait(10)
    stream.close()
    reader.join(10)
    assert len(ends) == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("connections", [1, 4])
def test_a_manager_that_is_closed_ends_who_reads(connections: int, odd: Serve) -> None:
    data = content(64 * MIB)
    url = odd(File(data)).url + "/large.bin"
    for pause in range(12):
        manager = DownloadManager()
        stream = streams.Stream(streams.InOrder(streams.Run(manager, url, Options(connections=connections)), None))
        stream.read(1)
        closing = threading.Timer(pause / 500, manager.close)
        closing.start()
        count = 1
        try:
            while block := stream.read(MIB):
                count += len(block)
        except (RuntimeError, InterruptedDownload):
            pass
        else:
            assert count == len(data), "an end that is none"
        closing.join()


def test_a_forked_child_cannot_read_what_its_parent_has_opened(nginx: Nginx) -> None:
    url = nginx.add("forked.bin", content(64 * MIB))
    program = (
        "import os, signal, sys, fastidm\n"
        "opened = [fastidm.stream(sys.argv[1]), fastidm.open(sys.argv[1])]\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(10)\n"
        "    for file in opened:\n"
        "        try:\n"
        "            file.read()\n"
        "        except RuntimeError as error:\n"
        "            print(error, flush=True)\n"
        "    os._exit(0)\n"
        "assert os.wait()[1] == 0\n"
        "assert len(opened[0].read()) == 64 << 20\n"
    )
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("belongs to the process that made it") == 2


def test_a_connection_that_breaks_is_made_again(odd: Serve) -> None:
    data, broken = content(8 * MIB), threading.Event()
    file = File(data)

    def habit(exchange: Exchange) -> None:
        body = file.head(exchange)
        if exchange.first and not broken.is_set():
            broken.set()
            exchange.send(body[: len(body) // 2])
            exchange.reset()
        exchange.send(body)

    with fastidm.stream(odd(habit).url + "/breaks.bin") as stream:
        assert stream.read() == data
    assert broken.is_set()


def test_a_server_without_parts_that_breaks_off_is_an_error(odd: Serve) -> None:
    data = content(40 * MIB)

    def habit(exchange: Exchange) -> None:
        exchange.head(200, f"Content-Length: {len(data)}")
        exchange.send(data[: 20 * MIB])
        exchange.reset()

    with fastidm.stream(odd(habit).url + "/breaks.bin", retries=1) as stream, pytest.raises(NetworkError, match="no parts"):
        stream.read()


def test_a_server_that_allows_few_connections_is_read_over_those(odd: Serve) -> None:
    data = content(24 * MIB)
    file = File(data)

    def busy(exchange: Exchange) -> None:
        exchange.answer(503)

    with fastidm.stream(odd(Limited(2, file, busy)).url + "/limited.bin", connections=8) as stream:
        assert stream.read() == data


def test_a_server_that_breaks_down_is_an_error(odd: Serve) -> None:
    data = content(40 * MIB)
    server = odd(File(data))

    def busy(exchange: Exchange) -> None:
        exchange.answer(503)

    with fastidm.stream(server.url + "/down.bin", connections=2, retries=0) as stream:
        stream.read(MIB)
        server.habit = busy
        with pytest.raises(BusyError):
            stream.read()


@pytest.mark.parametrize("opener", [fastidm.stream, fastidm.open])
def test_a_server_that_cannot_send_the_rest_is_an_error_and_left_alone(
    opener: Callable[..., io.BufferedReader], odd: Serve
) -> None:
    data, whole_until = content(40 * MIB), 3 * MIB
    file = File(data)

    def habit(exchange: Exchange) -> None:
        body = file.head(exchange)
        exchange.send(body[: max(0, whole_until - (exchange.first or 0))])
        if (exchange.last or 0) >= whole_until:
            exchange.reset()

    server = odd(habit)
    with opener(server.url + "/bad-disk.bin", retries=1) as source, pytest.raises(NetworkError):
        source.read()
    assert len(server.exchanges) <= 16 * 2 * 3


def test_a_piece_for_which_the_reader_waits_is_asked_for_a_second_time(odd: Serve) -> None:
    data = content(40 * MIB)
    file = File(data)
    helped = threading.Event()
    slow: list[int] = []

    def habit(exchange: Exchange) -> None:
        first = exchange.first or 0
        if not slow and first >= 2 * MIB:
            slow.append(first)
            exchange.send(file.head(exchange)[: 64 * KIB])
            exchange.hold()
        if slow == [first]:
            helped.set()
        file(exchange)

    with fastidm.stream(odd(habit).url + "/held.bin", connections=8) as stream:
        assert stream.read() == data
    assert helped.is_set()


def test_a_stream_that_is_closed_or_dropped_ends_its_downloads(odd: Serve) -> None:
    data = content(96 * MIB)
    server = odd(File(data))
    before = len(os.listdir("/proc/self/fd"))
    for end in ("close", "drop"):
        stream: fastidm.Stream | None = fastidm.stream(f"{server.url}/{end}.bin")
        assert stream is not None
        stream.read(MIB)
        if end == "close":
            stream.close()
            with pytest.raises(ValueError, match="closed"):
                stream.read(1)
        stream = None
        gc.collect()
        wait_until(lambda: shared_manager()._queue._engine.running == 0, "their end")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 32, "the end of their connections")


def test_a_rate_limit_is_that_of_the_whole_stream(nginx: Nginx) -> None:
    from time import monotonic

    url = nginx.add("limited.bin", content(4 * MIB))
    begun = monotonic()
    with fastidm.stream(url, limit_rate="4M", connections=8) as stream:
        assert stream.read() == content(4 * MIB)
    assert monotonic() - begun > 0.5


def test_two_threads_can_read_two_streams(nginx: Nginx) -> None:
    urls = [nginx.add(f"two-{n}.bin", content(8 * MIB, seed=n)) for n in range(2)]
    found: dict[int, bytes] = {}

    def read(n: int) -> None:
        with fastidm.stream(urls[n]) as stream:
            found[n] = stream.read()

    threads = [threading.Thread(target=read, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: content(8 * MIB, seed=n) for n in range(2)}


# ---------------------------------------------------------------------- anywhere


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1, 5 * MIB + 7])
def test_a_remote_file_reads_as_a_file(size: int, nginx: Nginx) -> None:
    data = content(size)
    with fastidm.open(nginx.add("file.bin", data)) as file:
        assert file.size == size
        assert file.seekable()
        assert file.readable()
        assert not file.writable()
        assert file.read() == data
        assert file.tell() == size
        for at in (0, size // 2, max(0, size - 1), size, size + 10):
            assert file.seek(at) == at
            assert file.read(100) == data[at : at + 100]
        assert file.seek(-min(size, 5), os.SEEK_END) == size - min(size, 5)
        assert file.read() == data[size - min(size, 5) :]
        with pytest.raises((ValueError, OSError)):
            file.seek(-1)


def test_only_what_is_looked_at_is_fetched(odd: Serve) -> None:
    data = content(64 * MIB)
    server = odd(File(data))
    with fastidm.open(server.url + "/large.bin") as file:
        for at in (60 * MIB, 1000, 30 * MIB, 60 * MIB + 10):
            file.seek(at)
            assert file.read(50) == data[at : at + 50]
    assert sum(exchange.sent for exchange in server.exchanges) <= 2 * MIB


def test_a_zip_archive_is_listed_and_one_member_read_without_fetching_the_rest(odd: Serve) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for n in range(64):
            archive.writestr(f"{n}.bin", content(MIB, seed=n))
    server = odd(File(packed.getvalue()))
    with fastidm.open(server.url + "/some.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == [f"{n}.bin" for n in range(64)]
        listed = sum(exchange.sent for exchange in server.exchanges)
        assert listed <= 256 * KIB
        assert archive.read("40.bin") == content(MIB, seed=40)
    # The member, what was read ahead, and on a busy machine pieces that were asked for twice; 64 MiB are the whole.
    assert sum(exchange.sent for exchange in server.exchanges) <= 8 * MIB


def test_reading_on_becomes_as_wide_as_a_download(odd: Serve) -> None:
    data = content(32 * MIB)
    server = odd(File(data))
    with fastidm.open(server.url + "/read.bin", connections=4) as file:
        assert file.read() == data
    assert len({exchange.number for exchange in server.exchanges}) > 1
    assert sum(exchange.sent for exchange in server.exchanges) == len(data) + seams(server)


def test_a_server_without_parts_sends_the_whole_file_once_for_all(odd: Serve) -> None:
    data = content(5 * MIB)
    server = odd(whole(data))
    with fastidm.open(server.url + "/whole.bin") as file:
        assert file.size == len(data)
        file.seek(3 * MIB)
        assert file.read(10) == data[3 * MIB : 3 * MIB + 10]
        file.seek(0)
        assert file.read() == data


def test_a_file_that_has_changed_is_an_error(odd: Serve) -> None:
    server = odd(File(content(8 * MIB), etag='"1"'))
    with fastidm.open(server.url + "/changing.bin") as file:
        assert file.read(10) == content(8 * MIB)[:10]
        server.habit = File(content(8 * MIB, seed=1), etag='"2"')
        file.seek(6 * MIB)
        with pytest.raises(ContentChangedError):
            file.read(10)


def test_reading_goes_on_after_an_error(odd: Serve) -> None:
    data = content(8 * MIB)
    server = odd(File(data))

    def refuses(exchange: Exchange) -> None:
        exchange.answer(503)

    with fastidm.open(server.url + "/sometimes.bin", retries=0) as file:
        server.habit = refuses
        file.seek(4 * MIB)
        with pytest.raises(FastidmError):
            file.read(10)
        server.habit = File(data)
        assert file.read(10) == data[4 * MIB : 4 * MIB + 10]
