"""One download's files on disk, from the first look at the folder to the final name."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Timer
from types import FrameType
from typing import Any

import pytest

from fastidm.core.segments import ROW_BYTES, SegmentTable
from fastidm.errors import (
    ExistsError,
    FastidmError,
    IntegrityError,
    InterruptedDownload,
    JournalVersionError,
    LockedError,
    NoSpaceError,
    StorageError,
    UnsafePathError,
)
from fastidm.options import Options
from fastidm.storage import linux, pages, whole
from fastidm.storage.journal import ROWS, Journal
from fastidm.storage.pages import JOURNAL_SIZE
from fastidm.storage.target import SMALL, Content, Resumable, Target

URL = "https://user:secret@host/file?token=secret"
MIB = 1 << 20
SIZE = 3 * MIB
BIG = Content(SIZE, '"tag"', "Sat, 01 Jan 2028 00:00:00 GMT")
SLICE = os.urandom(1 << 16)

HOLDER = """
import os, sys
from fastidm.options import Options
from fastidm.storage.target import Content, Target
path, size, written = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
target = Target(path, "https://host/file", Options())
target.prepare()
target.begin(Content(size, None, None))
if target.unclaimed:
    target.claim()
os.pwrite(target.fd, b"x" * written, 0)
row = target.table.cast("q")
row[1] = size
row[2], row[3] = written, ~written
print("holding", flush=True)
sys.stdin.read()
row.release()
target.close()
"""


def never() -> bool:
    return False


def make(path: Path, **options: Any) -> Target:
    return Target(str(path), URL, Options(**options))


def rows(*segments: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("=4q", *segment, ~segment[2]) for segment in segments)


def write(target: Target, start: int, stop: int, total: int = SIZE) -> None:
    """What sinks do: put bytes into the file, then move the position of row 0."""
    put(target, (SLICE * (total // len(SLICE) + 1))[start:stop], start)
    target.table[:ROW_BYTES] = rows((start, total, stop))


def put(target: Target, data: bytes, at: int = 0) -> None:
    if target.memory is None:
        os.pwrite(target.fd, data, at)
    else:
        target.memory[at : at + len(data)] = data


def begun(path: Path, content: Content = BIG, **options: Any) -> Target:
    target = make(path, **options)
    assert target.prepare() is None
    target.begin(content)
    return target


def interrupted(path: Path, received: int = 2 * MIB) -> None:
    """What a stopped download leaves: a part file with its first bytes and a journal."""
    target = begun(path)
    write(target, 0, received)
    target.close()


def found(path: Path, **options: Any) -> Resumable | None:
    target = make(path, **options)
    try:
        return target.prepare()
    finally:
        target.close()


@contextmanager
def another_process(path: Path, size: int = SIZE, written: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A second process that is downloading to `path`."""
    command = [sys.executable, "-c", HOLDER, str(path), str(size), str(written)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
        process.communicate()


def mounted(folder: Path, kind: str, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", kind, "-o", options, "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot mount a {kind}: {error.stderr.strip()}")
    try:
        yield folder
    finally:  # lazily: a failed test may have left a file open
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    yield from mounted(tmp_path / "disk", "tmpfs", "size=4m")


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() == 0:  # permissions do not stop root, a read-only disk does
        yield from mounted(tmp_path / "disk", "tmpfs", "ro")
        return
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    yield folder
    folder.chmod(0o700)


# Before the first request


def test_a_new_target_and_its_preparation_touch_nothing(tmp_path: Path) -> None:
    assert found(tmp_path / "file") is None
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_missing_or_none_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    for path in (tmp_path / "missing" / "file", tmp_path / "plain" / "file"):
        with pytest.raises(StorageError, match=str(path.parent)) as caught:
            make(path).prepare()
        assert type(caught.value) is StorageError
        assert "-d" in caught.value.hint


def test_a_folder_that_cannot_be_written_to_is_noticed_before_the_first_request(read_only_folder: Path) -> None:
    with pytest.raises(StorageError, match=r"Read-only|Permission") as caught:
        make(read_only_folder / "file").prepare()
    assert type(caught.value) is StorageError


def test_names_without_room_for_the_suffixes_are_refused(tmp_path: Path) -> None:
    limit = os.pathconf(tmp_path, "PC_NAME_MAX") - len(".fastidm")
    target = begun(tmp_path / ("x" * limit))
    target.discard()
    with pytest.raises(UnsafePathError, match="too long") as caught:
        make(tmp_path / ("x" * (limit + 1))).prepare()
    assert f"at most {limit} bytes" in caught.value.hint
    deep = tmp_path
    while len(str(deep)) < 4096 - 250:
        deep /= "d" * 100
    deep.mkdir(parents=True)
    assert found(deep / ("x" * (4095 - len(str(deep)) - 1 - 8))) is None
    with pytest.raises(UnsafePathError, match="too long"):
        make(deep / ("x" * (4096 - len(str(deep)) - 1 - 8))).prepare()
    with pytest.raises(UnsafePathError, match="too long"):
        Target("d/" * 3000 + "file", URL, Options()).prepare()


@pytest.mark.parametrize("name", ["", ".", "..", "folder/", "nul\0byte", "lone\ud800surrogate"])
def test_what_cannot_name_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafePathError, match="cannot name a file"):
        Target(f"{tmp_path}/{name}", URL, Options()).prepare()


def test_an_existing_file_or_link_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "link", "dangling"):
        with pytest.raises(ExistsError) as caught:
            make(tmp_path / name).prepare()
        assert "-o" in caught.value.hint
        assert "--overwrite" in caught.value.hint
        assert found(tmp_path / name, overwrite=True) is None


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_pipe_or_device_is_never_written_to(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "folder", tmp_path / "pipe"):
        with pytest.raises(UnsafePathError):
            make(path, overwrite=overwrite).prepare()
    # /dev cannot be written to by everybody
    with pytest.raises((UnsafePathError, StorageError)):
        make(Path("/dev/null"), overwrite=overwrite).prepare()


@pytest.mark.parametrize("suffix", [".part", ".fastidm"])
@pytest.mark.parametrize("restart", [False, True])
def test_what_is_planted_at_the_other_names_is_not_followed(tmp_path: Path, suffix: str, restart: bool) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f"a{suffix}").symlink_to(victim)
    os.mkfifo(tmp_path / f"b{suffix}")
    (tmp_path / f"c{suffix}").mkdir()
    for name in "abc":
        target = make(tmp_path / name, restart=restart)
        with pytest.raises(UnsafePathError):
            target.prepare()
        with pytest.raises(UnsafePathError):
            target.begin(BIG)
        target.close()
    assert victim.read_bytes() == b"precious"
    assert len(os.listdir(tmp_path)) == 4


def test_a_small_download_loads_neither_msgpack_nor_ctypes_nor_mmap(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from fastidm.options import Options\n"
        "from fastidm.storage.target import Content, Target\n"
        "target = Target(sys.argv[1], 'https://host/file', Options())\n"
        "target.prepare()\n"
        "target.begin(Content(1 << 20, None, None))\n"
        "target.finish(1 << 20, None, lambda: False)\n"
        "heavy = {'msgpack', 'ctypes', 'mmap', 'numpy', 'tempfile', 'shutil', 'hashlib', 'logging', 'pathlib'}\n"
        "print(heavy & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "file")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"
    assert os.listdir(tmp_path) == ["file"]


# Beginning


def test_a_large_download_has_a_journal_and_an_empty_table(tmp_path: Path) -> None:
    target = begun(tmp_path / "file")
    assert target.has_journal
    assert target.size == SIZE
    assert bytes(target.table) == bytes(ROWS * ROW_BYTES)
    assert sorted(os.listdir(tmp_path)) == ["file.fastidm", "file.part"]
    assert (tmp_path / "file.fastidm").stat().st_mode & 0o777 == 0o600
    assert b"secret" not in (tmp_path / "file.fastidm").read_bytes()
    target.close()


@pytest.mark.parametrize("total", [0, 1, SMALL, None])
def test_a_small_or_unknown_length_has_none_and_leaves_nothing_when_interrupted(tmp_path: Path, total: int | None) -> None:
    target = begun(tmp_path / "file", Content(total, None, None))
    assert not target.has_journal
    assert not target.map_allowed
    assert target.size == (-1 if total is None else total)
    assert bytes(target.table) == bytes(ROW_BYTES)
    target.table.cast("q")[2] = 1
    if target.unclaimed:
        assert os.listdir(tmp_path) == []
        target.claim()
    assert not target.unclaimed
    assert os.listdir(tmp_path) == ["file.part"]
    target.checkpoint(bytes(target.table))
    target.close()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_before_the_first_byte_and_leaves_nothing(small_disk: Path) -> None:
    target = make(small_disk / "file")
    target.prepare()
    with pytest.raises(NoSpaceError, match=r"needs 5\.0 MiB and 4\.0 MiB are free"):
        target.begin(Content(5 * MIB, None, None))
    assert os.listdir(small_disk) == []


def test_a_disk_with_room_for_the_file_but_not_for_its_journal_is_full(small_disk: Path) -> None:
    target = make(small_disk / "file")
    target.prepare()
    with pytest.raises(NoSpaceError, match=r"file\.(fastidm|part)|file"):
        target.begin(Content(4 * MIB - 8192, None, None))
    assert os.listdir(small_disk) == []


def test_fifty_terabytes_are_refused_at_once(tmp_path: Path) -> None:
    target = make(tmp_path / "file")
    with pytest.raises(NoSpaceError, match=r"needs 50\.0 TiB"):
        target.begin(Content(50 << 40, None, None))
    assert os.listdir(tmp_path) == []


def test_a_limit_of_the_file_size_is_no_space(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from fastidm.errors import NoSpaceError\n"
        "from fastidm.options import Options\n"
        "from fastidm.storage.target import Content, Target\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "target = Target(sys.argv[1], 'https://host/file', Options())\n"
        "target.prepare()\n"
        "try: target.begin(Content(8 << 20, None, None))\n"
        "except NoSpaceError as error: print(error.exit_code)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "file")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "9\n"
    assert os.listdir(tmp_path) == []


def test_neither_beginning_nor_going_on_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy disk a sync takes 20 to 200 ms, which would hold up the first byte."""
    for name in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(os, name, lambda *arguments: pytest.fail("waited"))
    interrupted(tmp_path / "file")
    target = make(tmp_path / "file")
    assert target.prepare() is not None
    target.resume(rows((0, SIZE, 2 * MIB)))
    target.close()


# Going on


def test_what_an_interrupted_download_wrote_is_found_again(tmp_path: Path) -> None:
    interrupted(tmp_path / "file")
    target = make(tmp_path / "file")
    assert target.prepare() == Resumable(BIG, [(0, 2 * MIB)], same_url=True)
    target.resume(rows((0, 2 * MIB, 2 * MIB), (2 * MIB, SIZE, 2 * MIB)))
    assert SegmentTable(target.table).snapshot() == ((0, 2 * MIB, 2 * MIB), (2 * MIB, SIZE, 2 * MIB))
    assert (target.size, target.has_journal) == (SIZE, True)
    assert os.pread(target.fd, 100, 0) == SLICE[:100]
    target.close()
    assert found(tmp_path / "file") == Resumable(BIG, [(0, 2 * MIB)], same_url=True)


def test_another_url_is_told(tmp_path: Path) -> None:
    interrupted(tmp_path / "file")
    target = Target(str(tmp_path / "file"), URL + "2", Options())
    resumable = target.prepare()
    target.close()
    assert resumable == Resumable(BIG, [(0, 2 * MIB)], same_url=False)


def test_starting_from_nothing_drops_what_was_found(tmp_path: Path) -> None:
    interrupted(tmp_path / "file")
    target = make(tmp_path / "file")
    assert target.prepare() is not None
    target.begin(Content(2 * MIB, None, None))
    assert os.pread(target.fd, 100, 0) == bytes(100)
    target.close()
    assert found(tmp_path / "file") == Resumable(Content(2 * MIB, None, None), [], same_url=True)


def test_a_restart_drops_what_an_earlier_run_left(tmp_path: Path) -> None:
    interrupted(tmp_path / "file")
    assert found(tmp_path / "file", restart=True) is None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [b"", bytes(JOURNAL_SIZE), random.Random(1).randbytes(JOURNAL_SIZE), random.Random(2).randbytes(100), b"x" * MIB],
    ids=["empty", "zeros", "random", "random and short", "long"],
)
def test_a_damaged_journal_is_worth_nothing_and_in_nobodys_way(tmp_path: Path, damage: bytes) -> None:
    interrupted(tmp_path / "file")
    (tmp_path / "file.fastidm").write_bytes(damage)
    target = begun(tmp_path / "file")
    write(target, 0, SIZE)
    target.finish(SIZE, None, never)
    assert os.listdir(tmp_path) == ["file"]


def test_a_journal_of_a_newer_version_is_left_as_it_is_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("fastidm.storage.pages.VERSION", 2)
        interrupted(tmp_path / "file")
    before = (tmp_path / "file.fastidm").read_bytes()
    with pytest.raises(JournalVersionError):
        found(tmp_path / "file")
    assert (tmp_path / "file.fastidm").read_bytes() == before
    assert (tmp_path / "file.part").exists()
    assert found(tmp_path / "file", restart=True) is None


def test_a_journal_without_its_part_file_and_the_reverse_are_worth_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "a")
    (tmp_path / "a.part").unlink()
    assert found(tmp_path / "a") is None
    interrupted(tmp_path / "b")
    (tmp_path / "b.fastidm").unlink()
    assert found(tmp_path / "b") is None
    begun(tmp_path / "b").discard()
    assert os.listdir(tmp_path) == []


def copied(part: Path) -> None:
    content = part.read_bytes()
    part.rename(part.with_suffix(".kept"))  # so that the copy cannot get the same inode number
    part.write_bytes(content)


def cut(part: Path) -> None:
    os.truncate(part, MIB)


def grown(part: Path) -> None:
    os.truncate(part, SIZE + 1)


@pytest.mark.parametrize("change", [copied, cut, grown])
def test_a_part_file_that_is_not_the_one_of_the_journal_is_dropped_with_it(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    interrupted(tmp_path / "file")
    change(tmp_path / "file.part")
    assert found(tmp_path / "file") is None
    assert set(os.listdir(tmp_path)) <= {"file.kept"}


def another_device(path: Path) -> None:
    """As after a new mount of a file system without a device of its own: another number, all else the same."""
    image = path.read_bytes()
    identity, _ = pages.read_header(image[: pages.PAGE], "file")
    path.write_bytes(pages.pack_header(replace(identity, device=identity.device + 1)) + image[pages.PAGE :])


def test_a_part_file_of_which_the_time_of_birth_is_known_may_have_another_device_number(tmp_path: Path) -> None:
    target = begun(tmp_path / "file")
    if not (target._part and target._part.birth_ns):
        pytest.skip("this file system keeps no time of birth")
    write(target, 0, 2 * MIB)
    target.close()
    another_device(tmp_path / "file.fastidm")
    assert found(tmp_path / "file") == Resumable(BIG, [(0, 2 * MIB)], same_url=True)


def test_without_a_time_of_birth_the_device_must_be_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "birth_ns", lambda fd: 0)
    interrupted(tmp_path / "file")
    assert found(tmp_path / "file") == Resumable(BIG, [(0, 2 * MIB)], same_url=True)
    another_device(tmp_path / "file.fastidm")
    assert found(tmp_path / "file") is None


def test_a_part_file_of_another_time_of_birth_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = linux.birth_ns
    interrupted(tmp_path / "file")
    monkeypatch.setattr(linux, "birth_ns", lambda fd: real(fd) + 1)
    assert found(tmp_path / "file") is None


def test_bytes_that_were_never_written_are_not_believed(tmp_path: Path) -> None:
    interrupted(tmp_path / "file")
    os.truncate(tmp_path / "file.part", MIB)
    os.truncate(tmp_path / "file.part", SIZE)
    resumable = found(tmp_path / "file")
    assert resumable is not None
    assert resumable.claims == [(0, MIB)]


def test_while_one_process_downloads_a_second_one_is_locked_out_and_changes_nothing(tmp_path: Path) -> None:
    with another_process(tmp_path / "file", written=MIB):
        before = {name: (tmp_path / name).stat().st_ino for name in os.listdir(tmp_path)}
        for options in ({}, {"restart": True}, {"overwrite": True}):
            target = make(tmp_path / "file", **options)
            with pytest.raises(LockedError):
                target.prepare()
            with pytest.raises(LockedError):
                target.begin(BIG)
            target.close()
            target.discard()
        assert {name: (tmp_path / name).stat().st_ino for name in os.listdir(tmp_path)} == before
    assert found(tmp_path / "file") is not None


def test_a_small_download_is_locked_as_well(tmp_path: Path) -> None:
    with another_process(tmp_path / "file", size=1000):
        for options in ({}, {"restart": True}, {"overwrite": True}):
            target = make(tmp_path / "file", **options)
            with pytest.raises(LockedError, match=r"downloading .*file$"):
                target.prepare()
            with pytest.raises(LockedError):
                target.begin(BIG)
            target.close()
            assert os.listdir(tmp_path) == ["file.part"]


def test_a_download_whose_journal_is_not_there_yet_or_not_whole_is_locked_as_well(tmp_path: Path) -> None:
    """Between the two, the moment in which the journal exists and has no lock yet: it must not be taken for a stale one."""
    begun(tmp_path / "file").close()
    (tmp_path / "file.part").write_bytes(bytes(SIZE))
    with (tmp_path / "file.part").open("r+b") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        (tmp_path / "file.fastidm").write_bytes(b"")
        for options in ({}, {"restart": True}):
            with pytest.raises(LockedError):
                found(tmp_path / "file", **options)
            with pytest.raises(LockedError):
                make(tmp_path / "file").begin(BIG)
        assert (tmp_path / "file.fastidm").exists()
        (tmp_path / "file.fastidm").unlink()
        with pytest.raises(LockedError):
            found(tmp_path / "file")
    assert found(tmp_path / "file") is None


def test_a_damaged_journal_is_not_removed_when_another_process_has_just_locked_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "file")
    image = (tmp_path / "file.fastidm").read_bytes()
    (tmp_path / "file.fastidm").write_bytes(b"")
    real = Journal.open

    def meanwhile(path: str) -> Journal:
        try:
            return real(path)
        finally:  # the other one's: found damaged by us, replaced and locked by it
            (tmp_path / "file.fastidm").unlink()
            (tmp_path / "file.fastidm").write_bytes(image)
            (tmp_path / "file.fastidm").chmod(0o600)
            held.append(os.open(path, os.O_RDWR))
            fcntl.flock(held[0], fcntl.LOCK_EX)

    held: list[int] = []
    monkeypatch.setattr(Journal, "open", meanwhile)
    with pytest.raises(LockedError):
        found(tmp_path / "file")
    monkeypatch.undo()
    os.close(held[0])
    assert found(tmp_path / "file") == Resumable(BIG, [(0, 2 * MIB)], same_url=True)


def test_who_is_locked_out_by_the_part_file_does_not_keep_the_journal(tmp_path: Path) -> None:
    interrupted(tmp_path / "file")
    target = make(tmp_path / "file")
    with (tmp_path / "file.part").open("r+b") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            target.prepare()
    assert found(tmp_path / "file") is not None
    assert target.fd == -1


def test_two_tasks_of_one_process_lock_each_other_out(tmp_path: Path) -> None:
    first = begun(tmp_path / "file")
    with pytest.raises(LockedError):
        found(tmp_path / "file")
    first.close()
    assert found(tmp_path / "file") is not None


@pytest.mark.parametrize("removes", [True, False])
def test_of_two_that_begin_at_once_the_holder_of_the_part_file_gets_its_journal(
    removes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has seen neither of the two, takes the new journal for a stale one, and then meets the part file."""
    real, other = fcntl.flock, []

    def meanwhile(fd: int, operation: int) -> None:
        if not other and (tmp_path / "file.fastidm").exists():
            other.append(os.open(tmp_path / "file.fastidm", os.O_RDWR))
            real(other[0], fcntl.LOCK_EX)
            if removes:
                (tmp_path / "file.fastidm").unlink()
            Timer(0.01, os.close, other).start()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    target = begun(tmp_path / "file")
    assert other
    with pytest.raises(LockedError):
        found(tmp_path / "file")
    target.close()
    assert found(tmp_path / "file") is not None


def test_a_killed_process_gives_up_its_lock_and_loses_nothing(tmp_path: Path) -> None:
    with another_process(tmp_path / "file", written=2 * MIB + 17) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumable = found(tmp_path / "file")
    assert resumable is not None
    assert resumable.claims == [(0, 2 * MIB + 17)]


def test_a_kill_in_the_middle_of_resuming_never_leads_to_a_larger_claim(tmp_path: Path) -> None:
    target = begun(tmp_path / "file")
    os.pwrite(target.fd, bytes(MIB // 2), 0)
    os.pwrite(target.fd, bytes(MIB // 2), 2 * MIB)
    target.checkpoint(rows((0, 2 * MIB, MIB // 4), (2 * MIB, SIZE, 2 * MIB)))
    # The rows are in another order and cut differently afterwards, so that old and new words meet in one row.
    target.table[: 2 * ROW_BYTES] = rows((0, 2 * MIB, MIB // 2), (2 * MIB, SIZE, 5 * MIB // 2))
    target.close()
    truth = [(0, MIB // 2), (2 * MIB, 5 * MIB // 2)]
    target = make(tmp_path / "file")
    resumable = target.prepare()
    assert resumable is not None
    assert resumable.claims == truth
    snapshots: list[bytes] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(("storage/target.py", "storage/journal.py")):
            return None
        if event == "line":
            snapshots.append((tmp_path / "file.fastidm").read_bytes())
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        target.resume(rows((2 * MIB, SIZE, 5 * MIB // 2), (0, MIB, MIB // 2), (MIB, 2 * MIB, MIB)))
    finally:
        sys.settrace(previous)
    snapshots.append((tmp_path / "file.fastidm").read_bytes())
    target.close()
    seen = []
    for number, snapshot in enumerate(dict.fromkeys(snapshots)):
        copy = tmp_path / f"{number}.fastidm"
        copy.write_bytes(snapshot)
        copy.chmod(0o600)
        journal = Journal.open(str(copy))
        seen.append(journal.believed(part_size=SIZE))
        journal.close()
    assert len(seen) >= 5
    assert set(map(str, seen)) == {str(("live", truth))}
    assert (found(tmp_path / "file") or resumable).claims == truth


def test_when_claims_cannot_be_withdrawn_the_download_does_not_go_on_and_nothing_more_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = begun(tmp_path / "file")
    write(target, 0, 2 * MIB)
    target.checkpoint(bytes(target.table))
    target.close()
    os.truncate(tmp_path / "file.part", MIB)
    os.truncate(tmp_path / "file.part", SIZE)
    target = make(tmp_path / "file")
    assert target.prepare() == Resumable(BIG, [(0, MIB)], same_url=True)

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(StorageError, match=r"file\.fastidm"):
            target.resume(rows((0, SIZE, MIB)))
    target.close()
    assert found(tmp_path / "file") == Resumable(BIG, [(0, MIB)], same_url=True)


# Checkpoints


def failing_sync(monkeypatch: pytest.MonkeyPatch, target: Target, number: int) -> None:
    real, data = os.fdatasync, target.fd

    def fdatasync(fd: int) -> None:
        if fd == data:
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, StorageError), (errno.ENOSPC, NoSpaceError)])
def test_after_a_failed_sync_only_the_last_checkpoint_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StorageError]
) -> None:
    target = begun(tmp_path / "file")
    write(target, 0, MIB)
    target.checkpoint(bytes(target.table))
    write(target, 0, 2 * MIB)
    failing_sync(monkeypatch, target, number)
    with pytest.raises(kind) as caught:
        target.checkpoint(bytes(target.table))
    assert type(caught.value) is kind
    monkeypatch.undo()
    with pytest.raises(kind):  # a second try would succeed in the kernel's eyes
        target.checkpoint(bytes(target.table))
    with pytest.raises(kind):
        target.finish(SIZE, None, never)
    target.close()
    assert not (tmp_path / "file").exists()
    assert found(tmp_path / "file") == Resumable(BIG, [(0, MIB)], same_url=True)
    target = make(tmp_path / "file")
    target.prepare()
    target.resume(rows((0, SIZE, MIB)))
    write(target, 0, MIB + 5)
    target.close()
    assert found(tmp_path / "file") == Resumable(BIG, [(0, MIB + 5)], same_url=True)


def test_after_an_error_in_handing_down_only_the_last_checkpoint_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = begun(tmp_path / "file")
    write(target, 0, MIB)
    target.checkpoint(bytes(target.table))
    write(target, 0, 2 * MIB)
    with monkeypatch.context() as patch:
        patch.setattr(linux, "begin_writing", lambda fd, start, stop: errno.EIO)
        with pytest.raises(StorageError, match="file"):
            target.hand_down([(MIB, 2 * MIB)])
    for step in (lambda: target.checkpoint(bytes(target.table)), lambda: target.finish(SIZE, None, never)):
        with pytest.raises(StorageError):
            step()
    target.close()
    assert not (tmp_path / "file").exists()
    assert found(tmp_path / "file") == Resumable(BIG, [(0, MIB)], same_url=True)


def test_after_an_error_that_a_sink_was_told_of_only_the_last_checkpoint_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = begun(tmp_path / "file")
    write(target, 0, MIB)
    assert target.hand_down_now(0, MIB) in (0, -1)
    target.checkpoint(bytes(target.table))
    write(target, 0, 2 * MIB)
    with monkeypatch.context() as patch:
        patch.setattr(linux, "begin_writing", lambda fd, start, stop: errno.EIO)
        assert target.hand_down_now(MIB, 2 * MIB) == errno.EIO
    with pytest.raises(StorageError):
        target.checkpoint(bytes(target.table))
    target.close()
    assert found(tmp_path / "file") == Resumable(BIG, [(0, MIB)], same_url=True)


def test_what_is_handed_down_is_in_no_checkpoint(tmp_path: Path) -> None:
    target = begun(tmp_path / "file")
    write(target, 0, 2 * MIB)
    assert target.hand_down([(0, 2 * MIB)]) in (True, False)
    with (tmp_path / "file.fastidm").open("r+b") as journal:  # as after a power cut: the live page is of another boot
        journal.seek(4096 + 3)
        journal.write(bytes(16))
    target.close()
    assert found(tmp_path / "file") in (None, Resumable(BIG, [], same_url=True))


@pytest.mark.parametrize("sync", [True, False])
def test_the_disk_begins_while_the_checksum_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool) -> None:
    steps = []
    target = begun(tmp_path / "file", sync=sync)
    write(target, 0, SIZE)
    monkeypatch.setattr(linux, "begin_writing", lambda fd, start, stop: steps.append((start, stop)) or 0)
    monkeypatch.setattr(target, "_verify", lambda *_: steps.append("verified"))
    target.finish(SIZE, ("sha256", ""), never)
    assert steps == ([(0, SIZE), "verified"] if sync else ["verified"])


def test_a_checkpoint_notices_that_the_part_file_is_gone(tmp_path: Path) -> None:
    target = begun(tmp_path / "file")
    (tmp_path / "file.part").unlink()
    with pytest.raises(StorageError, match="was removed by another program"):
        target.checkpoint(bytes(target.table))
    target.close()
    assert found(tmp_path / "file") is None


# Finishing


@pytest.mark.parametrize(
    ("total", "claimed"), [(SIZE, False), (1000, False), (1000, True), (0, False), (0, True), (None, False)]
)
@pytest.mark.parametrize("sync", [True, False])
def test_the_finished_file_has_its_name_its_content_and_usual_permissions_and_is_all_that_is_left(
    tmp_path: Path, total: int | None, sync: bool, claimed: bool
) -> None:
    size = 5000 if total is None else total
    content = (SLICE * (size // len(SLICE) + 1))[:size]
    target = begun(tmp_path / "file", Content(total, None, None), sync=sync)
    put(target, content)
    if claimed:
        target.claim()
    assert not (tmp_path / "file").exists()
    umask = os.umask(0o027)
    try:
        target.finish(size, ("sha256", hashlib.sha256(content).hexdigest()), never)
    finally:
        os.umask(umask)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == content
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "file").stat().st_nlink == 1
    assert target.fd == -1
    target.close()
    target.discard()
    assert os.listdir(tmp_path) == ["file"]


def test_of_an_unknown_length_what_is_beyond_the_end_is_cut_off_and_what_is_missing_is_an_error(tmp_path: Path) -> None:
    target = begun(tmp_path / "long", Content(None, None, None))
    os.pwrite(target.fd, b"content and more", 0)
    target.finish(7, None, never)
    assert (tmp_path / "long").read_bytes() == b"content"
    target = begun(tmp_path / "short", Content(None, None, None))
    os.pwrite(target.fd, b"cont", 0)
    with pytest.raises(StorageError):
        target.finish(7, None, never)
    target.close()
    assert os.listdir(tmp_path) == ["long"]


def test_a_wrong_checksum_names_both_and_leaves_nothing(tmp_path: Path) -> None:
    target = begun(tmp_path / "file")
    write(target, 0, SIZE)
    got = hashlib.sha256((tmp_path / "file.part").read_bytes()).hexdigest()
    with pytest.raises(IntegrityError) as caught:
        target.finish(SIZE, ("sha256", "0" * 64), never)
    assert got in caught.value.message
    assert "0" * 64 in caught.value.message
    target.close()
    assert os.listdir(tmp_path) == []


def test_a_checksum_that_is_interrupted_can_be_computed_by_the_next_run(tmp_path: Path) -> None:
    target = begun(tmp_path / "file")
    write(target, 0, SIZE)
    with pytest.raises(InterruptedDownload):
        target.finish(SIZE, ("sha256", "0" * 64), lambda: True)
    target.close()
    assert found(tmp_path / "file") == Resumable(BIG, [(0, SIZE)], same_url=True)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("moment", ["early", "last"])
def test_a_file_that_appeared_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool, moment: str
) -> None:
    target = begun(tmp_path / "file")
    write(target, 0, SIZE)
    real_link = os.link if links else no_link

    def link_too_late(source: str, name: str) -> None:
        (tmp_path / "file").write_bytes(b"mine")
        real_link(source, name)

    if moment == "early":
        (tmp_path / "file").write_bytes(b"mine")
    monkeypatch.setattr(os, "link", link_too_late)
    with pytest.raises(ExistsError):
        target.finish(SIZE, None, never)
    target.close()
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert found(tmp_path / "file", overwrite=True) == Resumable(BIG, [(0, SIZE)], same_url=True)


def no_link(source: str, name: str, **named: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM), source, None, name)


def test_without_hard_links_the_file_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_link)
    target = begun(tmp_path / "file")
    target.finish(SIZE, None, never)
    assert os.listdir(tmp_path) == ["file"]


def test_overwriting_replaces_a_file_and_a_link_but_not_what_the_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("victim")
    (tmp_path / "file").write_bytes(b"old")
    for name in ("link", "file"):
        target = begun(tmp_path / name, overwrite=True)
        assert (tmp_path / name).read_bytes() in (b"precious", b"old")
        target.finish(SIZE, None, never)
        assert (tmp_path / name).stat().st_size == SIZE
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "victim"]


@pytest.mark.parametrize("thing", [os.mkdir, os.mkfifo])
def test_a_folder_or_pipe_that_appeared_meanwhile_is_left_alone_even_when_overwriting(
    tmp_path: Path, thing: Callable[[Path], None]
) -> None:
    target = begun(tmp_path / "file", overwrite=True)
    thing(tmp_path / "file")
    with pytest.raises(UnsafePathError):
        target.finish(SIZE, None, never)
    target.close()
    assert not (tmp_path / "file").is_file()


def test_a_part_file_of_another_length_or_one_that_was_cut_does_not_get_the_final_name(tmp_path: Path) -> None:
    target = begun(tmp_path / "file")
    with pytest.raises(StorageError, match=f"has {SIZE} bytes and should have {SIZE + 1}"):
        target.finish(SIZE + 1, None, never)
    os.truncate(tmp_path / "file.part", MIB)
    with pytest.raises(StorageError, match="was cut short by another program"):
        target.finish(SIZE, ("sha256", "0" * 64), never)
    target.close()
    assert not (tmp_path / "file").exists()


def test_a_part_file_that_is_replaced_while_it_is_verified_does_not_get_the_final_name(tmp_path: Path) -> None:
    target = begun(tmp_path / "file")
    checksum = ("sha256", hashlib.sha256(bytes(SIZE)).hexdigest())

    def meanwhile() -> bool:
        if not (tmp_path / "kept").exists():
            (tmp_path / "file.part").rename(tmp_path / "kept")
            (tmp_path / "file.part").write_bytes(b"evil")
        return False

    with pytest.raises(StorageError, match="was replaced by another program"):
        target.finish(SIZE, checksum, meanwhile)
    target.close()
    assert not (tmp_path / "file").exists()


def test_the_data_is_on_disk_before_the_name_and_the_name_before_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def recorded(name: str) -> None:
        real = getattr(os, name)

        def step(*arguments: Any) -> Any:
            steps.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, step)

    for sync in (True, False):
        target = begun(tmp_path / f"file-{sync}", sync=sync)
        with monkeypatch.context():
            for name in ("fchmod", "fdatasync", "link", "fsync"):
                recorded(name)
            steps.clear()
            target.finish(SIZE, None, never)
        assert steps == (["fchmod", "fdatasync", "link", "fsync"] if sync else ["fchmod", "link"])
        monkeypatch.undo()


def test_a_run_that_ended_between_naming_the_file_and_cleaning_up_is_in_nobodys_way(tmp_path: Path) -> None:
    interrupted(tmp_path / "file", SIZE)
    os.link(tmp_path / "file.part", tmp_path / "file")
    with pytest.raises(ExistsError):
        found(tmp_path / "file")
    target = begun(tmp_path / "file", overwrite=True)
    target.finish(SIZE, None, never)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("total", "claimed"), [(SIZE, False), (1000, False), (1000, True)])
@pytest.mark.parametrize("links", [True, False])
def test_wherever_a_run_is_killed_while_it_finishes_nothing_but_the_file_is_left_after_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, links: bool, claimed: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    source = tmp_path / "source"
    source.mkdir()
    target = begun(source / "file", Content(total, None, None))
    write(target, 0, total, total)
    if claimed:
        target.claim()
    states: list[list[str]] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        names = sorted(os.listdir(source))
        if event == "line" and "file" in names and names not in states:
            keep(names)
        return trace if "storage" in frame.f_code.co_filename else None

    def keep(names: list[str]) -> None:
        """A copy of the folder as a kill would leave it now; the part file and the final one stay one file if they are."""
        copy = tmp_path / str(len(states))
        copy.mkdir()
        for name in names:
            if name == "file.part" and os.path.samefile(source / "file", source / name):
                os.link(copy / "file", copy / name)
            else:
                (copy / name).write_bytes((source / name).read_bytes())
                (copy / name).chmod(0o600)
        states.append(names)

    target_was_unclaimed = target.unclaimed
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        target.finish(total, None, never)
    finally:
        sys.settrace(previous)
    journal = ["file.fastidm"] if total == SIZE else []
    assert states[-1] == ["file"]
    at_once = links and target_was_unclaimed
    assert (["file", *journal, "file.part"] in states) is (links and not at_once)
    assert (["file", *journal]) in states
    for number in range(len(states)):
        folder = tmp_path / str(number)
        with pytest.raises(ExistsError):
            found(folder / "file")
        assert os.listdir(folder) == ["file"]
        assert (folder / "file").read_bytes() == (source / "file").read_bytes()


def test_what_lies_beside_an_existing_file_stays_if_it_can_be_resumed_or_is_in_use_or_is_not_ours(tmp_path: Path) -> None:
    interrupted(tmp_path / "resumable")
    interrupted(tmp_path / "held")
    (tmp_path / "held.part").unlink()
    (tmp_path / "link.fastidm").symlink_to("precious")
    for name in ("resumable", "held", "link", "precious"):
        (tmp_path / name).write_bytes(b"mine")
    before = sorted(os.listdir(tmp_path))
    with (tmp_path / "held.fastidm").open("r+b") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        for name in ("resumable", "held", "link"):
            with pytest.raises(ExistsError):
                found(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before
    assert found(tmp_path / "resumable", overwrite=True) == Resumable(BIG, [(0, 2 * MIB)], same_url=True)


def test_a_change_of_the_current_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    target = Target("file", URL, Options())
    target.prepare()
    target.begin(BIG)
    monkeypatch.chdir(tmp_path / "elsewhere")
    target.checkpoint(bytes(target.table))
    target.finish(SIZE, None, never)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "file"]
    assert target.path == "file"


def test_messages_cannot_move_the_terminals_cursor(tmp_path: Path) -> None:
    path = tmp_path / "evil\x1b[2Jname"
    path.write_bytes(b"")
    raised: list[FastidmError] = []
    for attempt in (path, path / "below", tmp_path / ("\x1b" * 300), tmp_path / "\x1b" / "file"):
        with pytest.raises(StorageError) as caught:
            make(attempt).prepare()
        raised.append(caught.value)
    assert all((error.message + error.hint).isprintable() for error in raised)


# Ending otherwise


def test_discarding_leaves_nothing_and_closing_is_always_allowed(tmp_path: Path) -> None:
    target = begun(tmp_path / "file")
    target.discard()
    target.close()
    target.close()
    assert os.listdir(tmp_path) == []
    assert (target.fd, target.size, target.has_journal, target.map_allowed) == (-1, -1, False, False)


# --- files that fit into memory ---


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_where_no_file_can_be_without_a_name_a_small_one_takes_the_long_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(whole, "write_whole", lambda folder, path, data, sync: whole.IMPOSSIBLE)
    target = begun(tmp_path / "file", Content(1000, None, None), sync=sync, **options)
    put(target, SLICE[:1000])
    target.finish(1000, None, never)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == SLICE[:1000]


def test_a_small_file_whose_name_was_taken_meanwhile_has_the_next_one_or_fails(tmp_path: Path) -> None:
    for options, claimed in [({}, False), ({}, True), ({"rename": True}, False), ({"rename": True}, True)]:
        folder = tmp_path / f"{len(options)}{claimed}"
        folder.mkdir()
        target = begun(folder / "file", Content(1000, None, None), **options)
        put(target, SLICE[:1000])
        (folder / "file").write_bytes(b"of somebody else")
        if not options:
            with pytest.raises(ExistsError):
                target.claim() if claimed else target.finish(1000, None, never)
            target.close()
            assert os.listdir(folder) == ["file"]
        else:
            if claimed:
                target.claim()
            target.finish(1000, None, never)
            assert target.path == str(folder / "file (1)")
            assert sorted(os.listdir(folder)) == ["file", "file (1)"]
            assert (folder / "file (1)").read_bytes() == SLICE[:1000]
        assert (folder / "file").read_bytes() == b"of somebody else"


def test_a_wrong_checksum_of_a_small_file_leaves_nothing(tmp_path: Path) -> None:
    target = begun(tmp_path / "file", Content(1000, None, None))
    with pytest.raises(IntegrityError):
        target.finish(1000, ("sha256", "0" * 64), never)
    target.close()
    assert os.listdir(tmp_path) == []


def test_a_stale_part_file_does_not_survive_a_small_download(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"of a run that was killed")
    target = begun(tmp_path / "file", Content(1000, None, None))
    put(target, SLICE[:1000])
    target.finish(1000, None, never)
    assert os.listdir(tmp_path) == ["file"]
