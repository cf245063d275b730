"""A queue that outlives its process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastidm import DownloadManager, DownloadStatus
from fastidm.errors import FastidmError, LockedError, NotFoundError, StorageError, error_of
from fastidm.options import Options
from fastidm.storage.queuefile import NAME, QueueFile, Saved, _options_of, _text_of
from tests.support.content import content
from tests.support.oddserver import File, Habit, OddServer, Valve
from tests.support.servers import Nginx, wait_until

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]


def test_what_a_process_had_to_do_when_it_was_killed_is_done_by_the_next(odd: Serve, tmp_path: Path) -> None:
    data = content(8 * MIB)
    valve = Valve(File(data), allowed=2 * MIB)
    server = odd(valve)
    program = (
        "import sys, time\n"
        "from fastidm import DownloadManager\n"
        "manager = DownloadManager(state_dir=sys.argv[1])\n"
        "for name in 'abc':\n"
        "    manager.add(f'{sys.argv[2]}/{name}.bin', dir=sys.argv[3])\n"
        "while sum(task.progress.received for task in manager.tasks) < 1 << 20:\n"
        "    time.sleep(0.01)\n"
        "print('received', flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "state"), server.url, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == "received\n"
        os.kill(child.pid, signal.SIGKILL)
    valve.let(float("inf"))
    before = len(server.exchanges)
    with DownloadManager(state_dir=tmp_path / "state") as manager:
        assert [os.path.basename(task.url) for task in manager.tasks] == ["a.bin", "b.bin", "c.bin"]
        assert manager.wait_all(30)
        assert all(task.status is DownloadStatus.COMPLETED for task in manager.tasks)
        assert sum(task.result.resumed for task in manager.tasks if task.result) > 0
    assert all((tmp_path / f"{name}.bin").read_bytes() == data for name in "abc")
    assert any(exchange.first for exchange in server.exchanges[before:])
    with DownloadManager(state_dir=tmp_path / "state") as manager:
        assert manager.tasks == ()


def test_what_was_paused_or_has_failed_waits_and_what_was_cancelled_is_gone(nginx: Nginx, tmp_path: Path) -> None:
    url = nginx.add("later.bin", content(MIB))
    with DownloadManager(state_dir=tmp_path / "state", max_downloads=1) as manager:
        failed = manager.add(nginx.url + "/none.bin", dir=tmp_path)
        with pytest.raises(NotFoundError):
            failed.wait(10)
        paused = manager.add(url, tmp_path / "later.bin", limit_rate=1000)
        paused.pause()
        paused.settled(10)
        manager.add(url, tmp_path / "never.bin", limit_rate=1000).cancel()
    with DownloadManager(state_dir=tmp_path / "state") as manager:
        failed, paused = manager.tasks
        assert (failed.status, paused.status) == (DownloadStatus.FAILED, DownloadStatus.PAUSED)
        assert isinstance(failed.error, NotFoundError)
        paused.set_limit(None)
        paused.resume()
        assert paused.wait(10).size == MIB
    with DownloadManager(state_dir=tmp_path / "state") as manager:
        assert [task.status for task in manager.tasks] == [DownloadStatus.FAILED]
        manager.tasks[0].cancel()
    with DownloadManager(state_dir=tmp_path / "state") as manager:
        assert manager.tasks == ()


def test_what_is_closed_before_its_end_is_still_wanted(odd: Serve, tmp_path: Path) -> None:
    data = content(4 * MIB)
    valve = Valve(File(data), allowed=MIB)
    server = odd(valve)
    manager = DownloadManager(state_dir=tmp_path / "state")
    manager.add(server.url + "/some.bin", dir=tmp_path)
    wait_until(lambda: valve.sent >= MIB, "some bytes")
    manager.close()
    valve.let(float("inf"))
    with DownloadManager(state_dir=tmp_path / "state") as again:
        assert again.tasks[0].wait(20).size == len(data)


def test_one_process_at_a_time_has_the_queue(tmp_path: Path) -> None:
    with DownloadManager(state_dir=tmp_path / "state"), pytest.raises(LockedError, match="another process"):
        DownloadManager(state_dir=tmp_path / "state")
    DownloadManager(state_dir=tmp_path / "state").close()


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    with DownloadManager(state_dir=tmp_path / "state") as manager:
        manager.add("http://127.0.0.1:1/x", dir=tmp_path, user="ann:secret", retries=0)
        for path in (tmp_path / "state").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 100, b"SQLite format 3\0" + bytes(4000)])
def test_a_queue_that_cannot_be_read_is_left_alone(damage: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    (folder / NAME).write_bytes(damage)
    if not damage:  # as one that was just made
        DownloadManager(state_dir=folder).close()
        return
    with pytest.raises(StorageError, match="queue"):
        DownloadManager(state_dir=folder)
    assert (folder / NAME).read_bytes() == damage


def test_a_queue_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    import sqlite3

    QueueFile(str(tmp_path)).close()
    base = sqlite3.connect(tmp_path / NAME)
    base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(StorageError, match="newer"):
        QueueFile(str(tmp_path))


def test_what_add_has_returned_from_is_found_by_the_next(tmp_path: Path) -> None:
    file = QueueFile(str(tmp_path))
    saved = Saved("http://127.0.0.1:1/x?secret=1", Options(directory="/d", headers=("A: b",), checksum=("sha256", "0" * 64)), 3)
    number = file.add(saved)
    file.note(number, state="paused", path="/d/x")
    file.close()
    again = QueueFile(str(tmp_path))
    assert again.saved == [replace(saved, id=number, state="paused", path="/d/x")]
    again.forget(number)
    again.close()
    last = QueueFile(str(tmp_path))
    assert last.saved == []
    last.close()


def test_to_pause_all_takes_no_failed_task_for_a_paused_one(nginx: Nginx, tmp_path: Path) -> None:
    with DownloadManager(state_dir=tmp_path / "state") as manager:
        task = manager.add(nginx.url + "/none", dir=tmp_path)
        task.settled(10)
        manager.pause_all()
    with DownloadManager(state_dir=tmp_path / "state") as manager:
        assert [task.status for task in manager.tasks] == [DownloadStatus.FAILED]
        assert isinstance(manager.tasks[0].error, NotFoundError)


def test_what_was_to_begin_anew_has_done_so(odd: Serve, tmp_path: Path) -> None:
    valve = Valve(File(content(30 * MIB)), allowed=20 * MIB)
    url = odd(valve).url + "/anew.bin"
    manager = DownloadManager(state_dir=tmp_path / "state")
    task = manager.add(url, dir=tmp_path, restart=True)
    wait_until(lambda: task.progress.received >= 10 * MIB, "some of it")
    manager.close()
    valve.let(float("inf"))
    with DownloadManager(state_dir=tmp_path / "state") as manager:
        assert manager.tasks[0].wait(20).resumed >= 10 * MIB


@pytest.mark.timeout(20)
def test_a_closed_queue_takes_nothing_more(tmp_path: Path) -> None:
    manager = DownloadManager(state_dir=tmp_path / "state")
    manager.close()
    with pytest.raises(RuntimeError, match="closed"):
        manager.add("http://127.0.0.1:1/x", dir=tmp_path)
    assert manager.tasks == ()
    with QueueFile(str(tmp_path / "state")) as again:
        assert again.saved == []


@pytest.mark.timeout(20)
def test_a_forked_child_leaves_the_queue_to_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from fastidm import DownloadManager\n"
        "manager = DownloadManager(state_dir=sys.argv[1])\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(10)\n"
        "    try:\n"
        "        manager.add('http://127.0.0.1:1/x', dir=sys.argv[1])\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n"
        "    manager.close()\n"
        "    os._exit(0)\n"
        "assert os.wait()[1] == 0\n"
        "print(manager.tasks)\n"
        "manager.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "this one belongs to the process that made it: make one after the fork\n()\n", done.stderr


@pytest.mark.timeout(20)
def test_a_name_that_is_no_text_is_kept(tmp_path: Path) -> None:
    path = os.fsdecode(b"/d/\xff\xfe")
    with QueueFile(str(tmp_path)) as file:
        number = file.add(Saved("http://127.0.0.1:1/x", Options(output=path)))
        file.note(number, path=path)
        assert file.add(Saved("http://127.0.0.1:1/y", Options())) > number
    with QueueFile(str(tmp_path)) as again:
        assert [(saved.path, saved.options.output) for saved in again.saved] == [(path, path), (None, None)]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("options", ['{"connections": 0}', '{"io": 7}', '{"unheard": 1}', "[]", "{", "3"])
def test_options_that_nobody_has_written_are_an_error(options: str, tmp_path: Path) -> None:
    import sqlite3

    before = len(os.listdir("/dev/fd"))
    with QueueFile(str(tmp_path)) as file:
        file.add(Saved("http://127.0.0.1:1/x", Options()))
    base = sqlite3.connect(tmp_path / NAME)
    base.execute("UPDATE tasks SET options = ?", (options,))
    base.commit()
    base.close()
    with pytest.raises(StorageError, match="queue"):
        DownloadManager(state_dir=tmp_path)
    assert len(os.listdir("/dev/fd")) == before


@given(
    connections=st.integers(1, 128),
    headers=st.lists(st.sampled_from(["A: b", "C: d"]), max_size=2).map(tuple),
    sync=st.booleans(),
    output=st.none() | st.text(min_size=1, alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
def test_options_come_back_as_they_were(
    connections: int, headers: tuple[str, ...], sync: bool, output: str | None
) -> None:
    options = Options(connections=connections, headers=headers, sync=sync, output=output)
    assert _options_of(_text_of(options)) == options


def test_an_error_is_made_again_of_its_words() -> None:
    def leaves(kind: type[FastidmError]) -> list[type[FastidmError]]:
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in leaves(child))]

    for kind in leaves(FastidmError):
        if "exit_code" in vars(kind):
            assert type(error_of(kind.exit_code, "message", "hint")) is kind
    assert type(error_of(99, "message")) is FastidmError
