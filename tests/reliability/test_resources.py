"""Little of everything: open files, memory, address space, processor; and much of what is asked for: bytes, URLs, segments."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from fastidm.core.response import Content
from fastidm.core.segments import restore
from fastidm.events import DownloadStatus, Event, Started
from fastidm.options import Options
from fastidm.queue import Queue, Task
from fastidm.storage import linux
from fastidm.storage.pages import ROWS
from fastidm.storage.partfile import PartFile
from fastidm.storage.target import Target
from tests.reliability.machine import (
    DATA,
    KIB,
    MIB,
    SIZE,
    Serve,
    assert_done,
    assert_failed,
    begin,
    patched,
)
from tests.support.command import Command, JsonEvent, Outcome, call, environment, run
from tests.support.content import content, first_difference
from tests.support.oddserver import Exchange, File, Gate, OddServer
from tests.support.servers import DemoServer, Nginx, wait_until

TIB = 1 << 40
MOST_RESIDENT = 100 * MIB
HALF = MIB + 300 * KIB


class Endless:
    """A file of any length at all: zeros, but for `data` in its middle, at `at`."""

    def __init__(self, size: int, at: int = 0, data: bytes = b"") -> None:
        self.size, self.at, self.data = size, at, data

    def __call__(self, exchange: Exchange) -> None:
        start = exchange.first or 0
        stop = self.size if exchange.last is None else min(self.size, exchange.last + 1)
        place = f"Content-Range: bytes {start}-{stop - 1}/{self.size}"
        exchange.head(206, place, f"Content-Length: {stop - start}", 'ETag: "1"')
        while start < stop:
            count = min(stop - start, 256 * KIB)
            exchange.send(self.bytes_at(start, start + count))
            start += count

    def bytes_at(self, start: int, stop: int) -> bytes:
        """What the file has there."""
        block = bytearray(stop - start)
        first, last = max(start, self.at), min(stop, self.at + len(self.data))
        if first < last:
            block[first - start : last - start] = self.data[first - self.at : last - self.at]
        return bytes(block)


# --- files and sockets ---


@pytest.mark.row("R1")
def test_with_64_open_files_many_downloads_finish_with_fewer_connections(folder: Path) -> None:
    """A server that is slow for each connection, so that each download would like to have many.

    Its rate is even: of a rate that comes in bursts, a connection may rightly be taken to crawl, which is a retry as well.
    """
    sizes = [3 * MIB + number for number in range(6)]
    with DemoServer(rate=200 * KIB) as server:
        urls = [server.url_of(size) for size in sizes]
        outcome = run("--json", "--conn", "64", *urls, cwd=folder, wrapper=("prlimit", "--nofile=64"))
        digests = {server.digest(size) for size in sizes}
    assert (outcome.code, outcome.stderr) == (0, "")
    assert [done["retries"] for done in outcome.of("done")] == [0] * 6
    assert 4 < max(done["connections"] for done in outcome.of("done")) < 64 // 3 - 8, "all three at once have room for them"
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == digests


@pytest.mark.row("R1")
def test_with_64_open_files_many_servers_are_no_problem(folder: Path) -> None:
    """The connections that are kept for later count as well."""
    with ExitStack() as stack:
        servers = [stack.enter_context(OddServer(File(DATA))) for _ in range(24)]
        urls = [f"{server.url}/{number}.bin" for number, server in enumerate(servers)]
        outcome = run("--json", *urls, cwd=folder, wrapper=("prlimit", "--nofile=64"))
    assert (outcome.code, outcome.stderr) == (0, "")
    assert all(done["retries"] == 0 for done in outcome.of("done"))
    assert len(os.listdir(folder)) == len(servers)


@pytest.mark.row("R1")
def test_as_many_downloads_at_once_as_there_are_files_for(odd: Serve, folder: Path) -> None:
    server = odd(File(DATA[: 200 * KIB]))
    text = """
import sys
from fastidm import Options
from fastidm.queue import Queue
with Queue(max_downloads=500) as manager:
    tasks = [manager.add(f"{sys.argv[1]}/{number}", Options(directory=".")) for number in range(120)]
    manager.run()
print(sorted({task.status.value for task in tasks}))
"""
    outcome = script(text, server.url, folder=folder, words=("prlimit", "--nofile=64"))
    assert outcome == "['completed']\n"


def script(text: str, *arguments: str, folder: Path, words: tuple[str, ...] = ()) -> str:
    """What a program that embeds fastidm prints."""
    done = subprocess.run(
        [*words, sys.executable, "-c", text, *arguments],
        cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- memory ---


def peak(command: Command) -> int:
    """The most bytes that the command has had in memory, mapped files included; 0 when it has ended."""
    try:
        status = Path(f"/proc/{command.process.pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * KIB for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def highest(command: Command) -> tuple[Outcome, int]:
    """Its outcome, and the most memory that it was seen to have."""
    seen = 0
    while command.process.poll() is None:
        seen = max(seen, peak(command))
        time.sleep(0.005)  # nobody tells when memory is taken
    return command.finish(), seen


def large(nginx: Nginx, size: int) -> str:
    """The URL of a file of zeros that takes no room."""
    url = nginx.add("large.bin", b"")
    os.truncate(nginx.folder / url.removeprefix(nginx.url + "/"), size)
    return url


@pytest.mark.row("R2")
@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_a_large_file_takes_little_memory(io: str, nginx: Nginx, folder: Path) -> None:
    url = large(nginx, 256 * MIB)
    with Command("--quiet", "--no-sync", "--io", io, url, cwd=folder) as command:
        outcome, seen = highest(command)
    assert outcome.code == 0
    assert 0 < seen < MOST_RESIDENT
    assert (folder / "large.bin").stat().st_size == 256 * MIB


@pytest.mark.row("R3")
@pytest.mark.parametrize("io", ["mmap", "auto"])
def test_little_address_space_is_enough(io: str, nginx: Nginx, folder: Path) -> None:
    url = large(nginx, 80 * MIB)
    outcome = run("--json", "--no-sync", "--io", io, url, cwd=folder, wrapper=("prlimit", f"--as={300 * 10**6}"))
    assert (outcome.code, outcome.stderr) == (0, "")


@pytest.mark.row("R12")
@pytest.mark.parametrize("megabytes", [70, 100, 150])
def test_without_memory_it_fails_in_good_order(megabytes: int, odd: Serve, folder: Path) -> None:
    """Wherever it runs out, from the first import to the last window: an exit code and one line, or success."""
    server = odd(File(DATA))
    words = ("prlimit", f"--as={megabytes * 10**6}")
    outcome = run("--quiet", "--io", "mmap", server.url + "/a.bin", cwd=folder, wrapper=words)
    assert outcome.code >= 0, outcome
    if "a.bin" in os.listdir(folder):
        assert outcome.code == 0
        assert first_difference((folder / "a.bin").read_bytes(), DATA) is None
        (folder / "a.bin").unlink()
    elif server.exchanges:  # before it has begun Python itself may be what has no memory, and says so in its own way
        assert outcome.complaint
    assert_done(call("--json", server.url + "/a.bin", cwd=folder), folder)


# --- length ---

SPARSE = "blind,fallocate=EOPNOTSUPP"


@pytest.mark.row("R4")
def test_a_file_of_a_tebibyte_costs_no_more_than_another(odd: Serve, folder: Path) -> None:
    server = odd(Endless(TIB))
    url = server.url + "/a.bin"
    kept = 0
    for _ in range(2):
        with patched(SPARSE, url, cwd=folder) as command:
            told = command.wait_for_received(kept + 24 * MIB)
            assert peak(command) < MOST_RESIDENT
            command.send(signal.SIGTERM)
            assert command.finish().code == 7
        assert told["size"] == TIB
        assert (folder / "a.bin.part").stat().st_size == TIB
        assert (folder / "a.bin.fastidm").stat().st_size <= 64 * KIB
        target = Target(str(folder / "a.bin"), url, Options())
        begun = time.perf_counter()
        found = target.prepare()
        took = time.perf_counter() - begun
        target.close()
        assert took < 0.1
        assert found is not None
        before, kept = kept, sum(stop - start for start, stop in found.claims)
        assert kept >= told["received"] > before


@pytest.mark.row("R6")
def test_ten_thousand_segments_fit_and_a_checkpoint_is_cheap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "fallocate", lambda fd, size: errno.EOPNOTSUPP)
    monkeypatch.setattr("os.statvfs", lambda path: os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255)))
    step = 64 * MIB
    written = [(at * step, at * step + MIB + at) for at in range(1, 10_000, 2)]
    finished = [(at * step, (at + 1) * step) for at in range(10_000)]
    target = Target(str(folder / "a.bin"), "http://127.0.0.1/a.bin", Options())
    target.begin(Content(TIB, '"1"', None))
    for claims in (finished, written[:ROWS]):
        target.table[:] = restore(TIB, claims, (), ROWS)
        begun = time.thread_time()
        for _ in range(10):
            target.checkpoint(bytes(target.table))
        assert (time.thread_time() - begun) / 10 < 0.005
        assert (folder / "a.bin.fastidm").stat().st_size <= 64 * KIB
    target.close()


BOUNDARIES = [2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 1]


@pytest.mark.row("R7")
@pytest.mark.parametrize("size", [*BOUNDARIES, 2**32 + 2**31 + 12345])
@pytest.mark.parametrize("io", ["pwrite", "mmap"])
def test_bytes_around_the_limits_of_numbers_are_at_their_place(
    size: int, io: str, odd: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier run has all but the last bytes and those around each boundary."""
    around = 96 * KIB
    data = content(2 * around, seed=7)
    url = odd(Endless(size, size - len(data), data)).url + "/a.bin"
    gaps = [(max(0, at - around), min(size, at + around)) for at in (2**31, 2**32, size) if at - around < size]
    with monkeypatch.context() as patch:
        patch.setattr(linux, "fallocate", lambda fd, size: errno.EOPNOTSUPP)
        target = Target(str(folder / "a.bin"), url, Options())
        target.begin(Content(size, '"1"', None))
        edges = [0, *(edge for gap in sorted(set(gaps)) for edge in gap), size]
        claims = [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]
        target.table[:] = restore(size, claims, (), ROWS)
        os.pwrite(target.fd, data[:around], size - len(data))
        target.close()
    # The claimed zeros are holes, so on this file system nobody could believe them.
    monkeypatch.setattr(PartFile, "written_until", lambda self, start, stop: stop)
    monkeypatch.setattr(PartFile, "_has_all_blocks", lambda self: True)
    outcome = call("--json", "--no-sync", "--io", io, url, cwd=folder)
    assert (outcome.code, outcome.stderr) == (0, ""), outcome
    assert outcome.done["size"] == size
    assert os.listdir(folder) == ["a.bin"]
    with (folder / "a.bin").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == size
        assert first_difference(os.pread(file.fileno(), len(data), size - len(data)), data) is None
        assert os.fstat(file.fileno()).st_blocks * 512 < 4 * MIB, "it was written elsewhere too"


@pytest.mark.row("R7")
@pytest.mark.parametrize("size", [2**31 + 1, 2**32 + 1, 2**40 - 1])
def test_segments_of_large_files_tile_them(size: int, odd: Serve, folder: Path) -> None:
    url = odd(Endless(size)).url + "/a.bin"
    with patched(f"{SPARSE},free", url, cwd=folder) as command:
        told = command.wait_for("progress", lambda event: len(event["segments"]) > 3)
        command.send(signal.SIGTERM)
        assert command.finish().code == 7
    edges = [(start, stop) for start, stop, _ in told["segments"]]
    assert edges[0][0] == 0
    assert edges[-1][1] == size
    assert all(one[1] == other[0] for one, other in pairwise(edges))


@pytest.mark.row("R7")
@pytest.mark.parametrize(("size", "code"), [(2**63 - 1, 9), (2**62, 9), (2**63, 14), (2**64, 14), (2**64 + SIZE, 14)])
@pytest.mark.parametrize("parts", [True, False])
def test_a_size_that_nothing_can_hold_is_refused(size: int, code: int, parts: bool, odd: Serve, folder: Path) -> None:
    def habit(exchange: Exchange) -> None:
        if parts:
            exchange.head(206, f"Content-Range: bytes 0-{size - 1}/{size}", f"Content-Length: {size}")
        else:
            exchange.head(200, f"Content-Length: {size}")
        exchange.send(DATA[:1000])
        exchange.hold()

    assert_failed(call("--quiet", "--retries", "0", odd(habit).url + "/a.bin", cwd=folder), code, folder)


# --- many ---


@pytest.mark.row("R5")
def test_a_url_in_the_queue_takes_little_memory_and_the_first_starts_at_once(odd: Serve, folder: Path) -> None:
    count = 20_000
    server = odd(File(DATA))
    options = Options(directory=str(folder))
    started: list[float] = []

    def observe(task: Task, event: Event) -> None:
        if isinstance(event, Started):
            started.append(time.monotonic())
            manager.stop()

    begun = time.monotonic()
    with Queue(observe) as manager:
        tracemalloc.start()
        tasks = [manager.add(f"{server.url}/{number}.bin", options) for number in range(count)]
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        manager.run()
    assert taken / count < 2048
    assert started[0] - begun < 5
    assert {task.status for task in tasks} == {DownloadStatus.PAUSED}


@pytest.mark.row("R5")
def test_of_many_urls_those_that_fail_are_told_and_the_others_are_there(nginx: Nginx, folder: Path) -> None:
    url = nginx.add("0", b"")
    place = nginx.folder / url.removeprefix(nginx.url + "/")
    names = [f"{number}.bin" for number in range(1, 500)]
    for name in names:
        (place.parent / name).write_bytes(name.encode() * 100)
    missing = {"17.bin", "250.bin", "499.bin"}
    for name in missing:
        (place.parent / name).unlink()
    urls = [f"{url[:-1]}{name}" for name in names]
    outcome = run("--quiet", "--no-sync", *urls, cwd=folder)
    assert outcome.code == 3
    assert len(outcome.stderr.splitlines()) == len(missing)
    assert set(os.listdir(folder)) == set(names) - missing
    assert all((folder / name).read_bytes() == name.encode() * 100 for name in set(names) - missing)


# --- the terminal ---


@pytest.mark.row("R8")
@pytest.mark.parametrize("how", ["--json >&-", "2>&-", "--json >/dev/full", "2>/dev/full", "<&- >&- 2>&-"])
def test_nobody_listens_and_the_file_is_whole_all_the_same(how: str, nginx: Nginx, folder: Path) -> None:
    url = nginx.add("a.bin", DATA)
    outcome = run(url, cwd=folder, wrapper=("sh", "-c", f'exec "$@" {how}', "sh"))
    assert outcome.code == 0
    assert os.listdir(folder) == ["a.bin"]
    assert first_difference((folder / "a.bin").read_bytes(), DATA) is None


@pytest.mark.row("R8")
def test_a_reader_that_goes_away_ends_nothing(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    with begin(odd(gate).url + "/a.bin", cwd=folder, words=("sh", "-c", '"$@" | head -n 3; wait', "sh")) as command:
        gate.open()
        command.finish()
    wait_until((folder / "a.bin").exists, "the file")
    assert first_difference((folder / "a.bin").read_bytes(), DATA) is None


@pytest.mark.row("R8")
@pytest.mark.parametrize("env", [{"COLUMNS": "0"}, {"COLUMNS": "x"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_odd_surroundings_change_nothing(env: dict[str, str], odd: Serve, folder: Path) -> None:
    server = odd(File(DATA))
    outcome = run(server.url + "/%C3%BC%E2%80%AE.bin", cwd=folder, env=env)
    assert outcome.code == 0
    assert "\u202e" not in outcome.stderr
    assert outcome.stderr.isascii() or "PYTHONIOENCODING" not in env
    (name,) = os.listdir(folder)
    assert first_difference((folder / name).read_bytes(), DATA) is None


# --- what looks like an option ---


@pytest.mark.row("R9")
@pytest.mark.parametrize(
    "url",
    ["--", "-x", "http://127.0.0.1/a\nhttp://127.0.0.1/b", "http://127.0.0.1/a\r\nX-Evil: 1", "http://127.0.0.1/\x1b[2J",
     "\ufeffhttp://127.0.0.1/a", "http://127.0.0.1/a b", "@file", ""],
    ids=repr,
)  # fmt: skip
def test_a_url_is_data_and_a_bad_one_is_told_before_anything_is_done(url: str, odd: Serve, folder: Path) -> None:
    server = odd(File(DATA))
    outcome = call("--quiet", server.url + "/good.bin", "--", url, cwd=folder)
    assert_failed(outcome, 2, folder)
    assert server.exchanges == []


# --- slower than the network ---


@pytest.mark.row("R13")
def test_what_waits_for_a_slow_disk_does_not_grow_without_end(nginx: Nginx, folder: Path) -> None:
    url = large(nginx, 800 * MIB)
    last: list[int] = []

    def stands_still(event: JsonEvent) -> bool:
        last.append(event["received"])
        return event["received"] > 0 and last[-30:] == last[-1:] * 30

    with patched("sync-takes=60,unsynced-most=209715200", url, cwd=folder) as command:
        command.wait_for("sync")
        received = command.wait_for("progress", stands_still)["received"]
        command.send(signal.SIGTERM)
        assert command.finish().code == 7
    assert received < 500 * MIB
