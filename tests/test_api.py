"""The short way from Python: `download` and `adownload`, over one manager that all calls share."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

import fastidm
from fastidm import Options, Progress
from fastidm.errors import ExistsError, NotFoundError, UsageError
from fastidm.storage.target import Target
from tests.support.command import environment
from tests.support.content import content
from tests.support.oddserver import File, Gate, Habit, OddServer
from tests.support.servers import Nginx

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]


def test_download_returns_what_came_of_it(tmp_path: Path, nginx: Nginx) -> None:
    data = content(3_000_000)
    url = nginx.add("api.bin", data)
    done = fastidm.download(url, dir=tmp_path)
    assert Path(done.path) == tmp_path / "api.bin"
    assert Path(done.path).read_bytes() == data
    assert (done.size, done.received, done.resumed, done.retries) == (3_000_000, 3_000_000, 0, 0)
    assert done.connections >= 1
    assert (done.url, done.final_url) == (url, url)
    assert done.validator
    assert done.digests == {}
    assert os.listdir(tmp_path) == ["api.bin"]


def test_a_checksum_may_be_text_and_stands_in_the_result(tmp_path: Path, nginx: Nginx) -> None:
    import hashlib

    data = content(100_000)
    digest = hashlib.sha256(data).hexdigest()
    done = fastidm.download(nginx.add("sum.bin", data), tmp_path / "sum.bin", checksum=f"sha256:{digest}")
    assert done.digests == {"sha256": digest}


def test_progress_is_told_in_the_callers_thread_and_at_the_end_it_is_all(tmp_path: Path, nginx: Nginx) -> None:
    seen: list[tuple[threading.Thread, Progress]] = []
    url = nginx.add("progress.bin", content(3_000_000))
    fastidm.download(url, dir=tmp_path, on_progress=lambda event: seen.append((threading.current_thread(), event)))
    assert {thread for thread, _ in seen} == {threading.current_thread()}
    assert seen[-1][1].received == seen[-1][1].size == 3_000_000


def test_what_on_progress_raises_comes_out_and_what_was_received_is_kept(tmp_path: Path, nginx: Nginx) -> None:
    data = content(20 * MIB)
    url = nginx.add("raises.bin", data)

    def refuse(event: Progress) -> None:
        if event.received > MIB:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fastidm.download(url, dir=tmp_path, on_progress=refuse, limit_rate="20M")
    assert sorted(os.listdir(tmp_path)) == ["raises.bin.fastidm", "raises.bin.part"]
    assert fastidm.download(url, dir=tmp_path).resumed > MIB
    assert (tmp_path / "raises.bin").read_bytes() == data


def test_download_raises_the_leaf_of_the_error_tree(tmp_path: Path, nginx: Nginx) -> None:
    with pytest.raises(NotFoundError, match="404"):
        fastidm.download(nginx.url + "/nothing-here", dir=tmp_path)
    url = nginx.add("twice.bin", b"x")
    fastidm.download(url, dir=tmp_path)
    with pytest.raises(ExistsError):
        fastidm.download(url, dir=tmp_path)
    with pytest.raises(UsageError):
        fastidm.download("ftp://example.com/f")
    assert os.listdir(tmp_path) == ["twice.bin"]


def test_an_option_may_be_named_or_come_from_options_and_a_wrong_name_is_told(tmp_path: Path, nginx: Nginx) -> None:
    url = nginx.add("named.bin", b"x")
    base = Options(directory=str(tmp_path), connections=2)
    assert Path(fastidm.download(url, options=base).path) == tmp_path / "named.bin"
    assert Path(fastidm.download(url, tmp_path / "other.bin", options=base).path) == tmp_path / "other.bin"
    with pytest.raises(TypeError, match="connections"):
        fastidm.download(url, conections=3)  # type: ignore[call-arg]


def test_calls_from_many_threads_share_one_engine(tmp_path: Path, nginx: Nginx) -> None:
    urls = [nginx.add(f"thread-{n}.bin", content(300_000, seed=n)) for n in range(16)]
    threads = [threading.Thread(target=fastidm.download, args=(url,), kwargs={"dir": tmp_path}) for url in urls]
    for thread in threads:
        thread.start()
    assert sum(thread.name == "fastidm" for thread in threading.enumerate()) <= 1
    for thread in threads:
        thread.join(30)
    for n in range(16):
        assert (tmp_path / f"thread-{n}.bin").read_bytes() == content(300_000, seed=n)


# ---------------------------------------------------------------------- asyncio


def test_adownload_leaves_the_loop_free_and_tells_progress_in_it(tmp_path: Path, nginx: Nginx) -> None:
    data = content(5_000_000)
    url = nginx.add("async.bin", data)
    threads = set()
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.01)

    async def main() -> fastidm.Result:
        beating = asyncio.create_task(beat())
        done = await fastidm.adownload(
            url, dir=tmp_path, limit_rate=10_000_000, on_progress=lambda event: threads.add(threading.current_thread())
        )
        beating.cancel()
        return done

    done = asyncio.run(main())
    assert Path(done.path).read_bytes() == data
    assert threads == {threading.current_thread()}
    assert beats > 10


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_many_adownloads_at_once_are_all_right(run: Callable[..., Any], tmp_path: Path, nginx: Nginx) -> None:
    urls = [nginx.add(f"many-{n}.bin", content(MIB, seed=n)) for n in range(50)]

    async def main() -> list[fastidm.Result]:
        return await asyncio.gather(*(fastidm.adownload(url, dir=tmp_path) for url in urls))

    for n, done in enumerate(run(main())):
        assert Path(done.path).read_bytes() == content(MIB, seed=n)


def test_adownload_raises_what_download_raises(tmp_path: Path, nginx: Nginx) -> None:
    with pytest.raises(NotFoundError):
        asyncio.run(fastidm.adownload(nginx.url + "/not-there", dir=tmp_path))


def test_cancelling_the_one_that_awaits_pauses_and_keeps_what_was_received(tmp_path: Path, nginx: Nginx) -> None:
    data = content(20 * MIB)
    url = nginx.add("cancelled.bin", data)

    async def main() -> None:
        enough = asyncio.Event()

        def look(event: Progress) -> None:
            if event.received > MIB:
                enough.set()

        task = asyncio.create_task(fastidm.adownload(url, dir=tmp_path, limit_rate="20M", on_progress=look))
        await enough.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # All is closed and unlocked by now: it can go on at once.
        assert (await fastidm.adownload(url, dir=tmp_path)).resumed > MIB

    asyncio.run(main())
    assert (tmp_path / "cancelled.bin").read_bytes() == data


# ---------------------------------------------------------------------- the program around it


def program(text: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_ctrl_c_ends_a_download_and_what_was_received_is_kept(tmp_path: Path, odd: Serve) -> None:
    data = content(4 * MIB)
    gate = Gate(File(data), 2 * MIB)
    server = odd(gate)
    text = """
import sys, fastidm
try:
    fastidm.download(sys.argv[1], on_progress=lambda event: event.received > 1_000_000 and print("half", flush=True))
except KeyboardInterrupt:
    print("stopped")
"""
    with program(text, server.url + "/a.bin", folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=10)
    gate.open()
    assert (said.splitlines()[-1], complaint, process.returncode) == ("stopped", "", 0)
    assert sorted(os.listdir(tmp_path)) == ["a.bin.fastidm", "a.bin.part"]


def test_a_program_that_ends_in_the_middle_ends_at_once_and_loses_nothing(tmp_path: Path, odd: Serve) -> None:
    gate = Gate(File(content(4 * MIB)), 2 * MIB)
    server = odd(gate)
    text = """
import sys, threading, fastidm
half = threading.Event()
manager = fastidm.DownloadManager(lambda task, event: half.set() if getattr(event, "received", 0) > 1_000_000 else None)
manager.add(sys.argv[1])
half.wait()
"""
    with program(text, server.url + "/a.bin", folder=tmp_path) as process:
        said, complaint = process.communicate(timeout=10)
    gate.open()
    assert (said, complaint, process.returncode) == ("", "", 0)
    assert sorted(os.listdir(tmp_path)) == ["a.bin.fastidm", "a.bin.part"]


def test_a_forked_child_downloads_with_a_manager_of_its_own(tmp_path: Path, nginx: Nginx) -> None:
    urls = [nginx.add(f"fork-{n}.bin", content(300_000, seed=n)) for n in range(2)]
    text = """
import os, sys, fastidm
fastidm.download(sys.argv[1])
pid = os.fork()
if pid == 0:
    fastidm.download(sys.argv[2])
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    with program(text, *urls, folder=tmp_path) as process:
        said, complaint = process.communicate(timeout=20)
    assert (said, complaint, process.returncode) == ("", "", 0)
    for n in range(2):
        assert (tmp_path / f"fork-{n}.bin").read_bytes() == content(300_000, seed=n)


@pytest.mark.timeout(30)
def test_a_disk_that_is_stuck_does_not_hold_up_who_cancels(
    tmp_path: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastidm.api.STOP_SECONDS", 0.1)
    go_on, at_work, done, finish = threading.Event(), threading.Event(), threading.Event(), Target.finish

    def stuck(self: Target, *rest: Any) -> None:
        at_work.set()
        go_on.wait(10)
        finish(self, *rest)
        done.set()

    monkeypatch.setattr(Target, "finish", stuck)

    async def main() -> None:
        download = asyncio.create_task(fastidm.adownload(nginx.add("stuck.bin", content(4 << 20)), dir=tmp_path))
        await asyncio.to_thread(at_work.wait, 10)
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
        assert not done.is_set()

    try:
        asyncio.run(main())
    finally:
        go_on.set()
    assert done.wait(10)
