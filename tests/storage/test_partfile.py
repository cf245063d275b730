"""The part file: reserved, locked, and never somebody else's file."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread, Timer

import pytest

from fastidm.errors import LockedError, NoSpaceError, StorageError, UnsafePathError
from fastidm.storage import linux, owned
from fastidm.storage.owned import drop
from fastidm.storage.partfile import SMALL, PartChanged, PartFile

MIB = 1 << 20
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked_by_another_process(path: Path) -> Iterator[None]:
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield
        process.communicate()


def mounted(folder: Path, kind: str, options: str, source: str = "none") -> Iterator[Path]:
    """`folder` as a file system of its own for one test; skips with the reason where that is not possible."""
    folder.mkdir()
    command = ["mount", "-t", kind, "-o", options, source, str(folder)]
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


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    if request.param == "tmpfs":
        yield from mounted(tmp_path / "disk", "tmpfs", "size=16m")
        return
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True, env={"PATH": "/sbin:/usr/sbin"})
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot make an ext4: {error}")
    yield from mounted(tmp_path / "disk", "ext4", "loop", str(image))


@pytest.fixture
def disk_without_fallocate(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "ramfs", "mode=700")


def create(path: Path, size: int | None = 3 * MIB, io: str = "auto") -> PartFile:
    return PartFile.create(str(path), size, io=io)


def free_bytes(folder: Path) -> int:
    facts = os.statvfs(folder)
    return facts.f_bfree * facts.f_frsize


# Creating


def test_a_new_part_file_is_private_and_has_its_length_and_real_blocks(tmp_path: Path) -> None:
    part = create(tmp_path / "a.part")
    facts = os.stat(tmp_path / "a.part")
    assert facts.st_mode & 0o777 == 0o600
    assert (facts.st_size, facts.st_dev, facts.st_ino) == (3 * MIB, part.device, part.inode)
    assert (part.size, part.path) == (3 * MIB, str(tmp_path / "a.part"))
    if part.map_allowed:
        assert facts.st_blocks * 512 >= 3 * MIB
    assert not os.get_inheritable(part.fd)
    part.close()


def test_a_file_system_that_keeps_reserved_blocks_may_be_mapped_unless_pwrite_is_asked_for(small_disk: Path) -> None:
    for io, allowed in (("auto", True), ("mmap", True), ("pwrite", False)):
        part = create(small_disk / "a.part", io=io)
        assert os.fstat(part.fd).st_blocks * 512 >= 3 * MIB
        assert part.map_allowed is allowed
        part.close()


@pytest.mark.parametrize("size", [None, 0, 1, SMALL])
def test_small_and_unknown_lengths_are_neither_reserved_nor_mapped(tmp_path: Path, size: int | None) -> None:
    part = create(tmp_path / "a.part", size)
    assert os.fstat(part.fd).st_size == (size or 0)
    assert part.size == (-1 if size is None else size)
    assert not part.map_allowed
    part.check()
    part.close()


def test_a_small_part_file_does_not_load_ctypes(tmp_path: Path) -> None:
    script = (
        "import sys; from fastidm.storage.partfile import PartFile\n"
        "PartFile.create(sys.argv[1], 1 << 20, io='auto').remove(); print('ctypes' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.part")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("size", [3 * MIB, None])
def test_what_stands_in_its_place_is_left_alone(tmp_path: Path, size: int | None) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "link.part").symlink_to(victim)
    (tmp_path / "dangling.part").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo.part")
    (tmp_path / "dir.part").mkdir()
    before = sorted(os.listdir(tmp_path))
    for name in ("link.part", "dangling.part", "fifo.part", "dir.part"):
        with pytest.raises(UnsafePathError, match="not a plain file"):
            create(tmp_path / name, size)
        with pytest.raises(UnsafePathError):
            PartFile.open(str(tmp_path / name), 8)
    assert sorted(os.listdir(tmp_path)) == before
    assert victim.read_bytes() == b"precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"theirs")
    os.chown(tmp_path / "a.part", 1, 1)
    with pytest.raises(UnsafePathError, match="another user"):
        create(tmp_path / "a.part")
    with pytest.raises(UnsafePathError, match="another user"):
        PartFile.open(str(tmp_path / "a.part"), 6)
    assert (tmp_path / "a.part").read_bytes() == b"theirs"


def test_a_stale_part_file_is_replaced_by_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"stale" * MIB)
    part = create(tmp_path / "a.part")
    assert os.pread(part.fd, 100, 0) == bytes(100)
    part.close()


def test_a_hard_link_to_a_stale_part_file_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"kept elsewhere")
    os.link(tmp_path / "a.part", tmp_path / "copy")
    create(tmp_path / "a.part").close()
    assert (tmp_path / "copy").read_bytes() == b"kept elsewhere"


def test_a_part_file_that_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    path.write_bytes(b"being written")
    with locked_by_another_process(path):
        for attempt in (lambda: create(path), lambda: PartFile.open(str(path), 13), lambda: drop(str(path))):
            with pytest.raises(LockedError, match=f"another process is downloading {tmp_path}/a$"):
                attempt()
        assert path.read_bytes() == b"being written"
    drop(str(path))
    assert not path.exists()


def test_the_lock_is_held_from_creation_to_close_even_while_a_map_remains(tmp_path: Path) -> None:
    part = create(tmp_path / "a.part")
    with mmap.mmap(part.fd, 4096):
        with pytest.raises(LockedError):
            PartFile.open(part.path, 3 * MIB)
        part.close()
        again = PartFile.open(part.path, 3 * MIB)
    with pytest.raises(LockedError):
        PartFile.open(part.path, 3 * MIB)
    again.close()


def test_an_absurd_size_fails_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(NoSpaceError, match=r"a\.part needs 50\.0 TiB and .* are free: too little space"):
        create(tmp_path / "a.part", 50 << 40)
    assert time.monotonic() - begun < 1
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_a_little_too_small_gets_all_its_space_back(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, size = free_bytes(small_disk), 20 * MIB
    real = os.statvfs(small_disk)
    # As if the space went away between the look at it and the reservation: what counts is what the kernel says.
    optimistic = os.statvfs_result([*real[:2], 1 << 40, 1 << 40, 1 << 40, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda path: optimistic)
    with pytest.raises(NoSpaceError, match=r"needs 20\.0 MiB and .* are free: No space left on device"):
        create(small_disk / "a.part", size)
    monkeypatch.undo()
    assert "a.part" not in os.listdir(small_disk)
    assert free_bytes(small_disk) == before


def test_a_size_that_does_not_fit_without_reserving_is_refused_as_well(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(free_bytes(small_disk) - 2 * MIB))
    with pytest.raises(NoSpaceError):
        create(small_disk / "a.part", SMALL * 3)
    (small_disk / "filler").unlink()
    create(small_disk / "a.part", SMALL * 3).remove()


def test_a_file_system_without_reservation_gets_a_sparse_file_that_is_never_mapped(
    disk_without_fallocate: Path,
) -> None:
    part = create(disk_without_fallocate / "a.part", 64 * MIB, "mmap")
    assert os.fstat(part.fd).st_size == 64 * MIB
    assert not part.map_allowed
    part.check()
    part.close()


def without(monkeypatch: pytest.MonkeyPatch, *names: str, error: int = errno.ENOSYS) -> None:
    """Let the C library's functions `names` fail."""
    real = linux._call
    monkeypatch.setattr(linux, "_call", lambda name, *rest: error if name in names else real(name, *rest))


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_nothing_can_be_reserved_free_space_is_looked_at_and_nothing_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    without(monkeypatch, "fallocate64", "fallocate", error=error)
    part = create(tmp_path / "a.part")
    facts = os.fstat(part.fd)
    assert facts.st_size == 3 * MIB
    assert facts.st_blocks * 512 < 3 * MIB
    assert not part.map_allowed
    part.check()
    part.remove()
    real = os.statvfs(tmp_path)
    tight = os.statvfs_result([*real[:4], 2 * MIB // real.f_frsize, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda path: tight)
    with pytest.raises(NoSpaceError, match=r"needs 3\.0 MiB and 2\.0 MiB are free"):
        create(tmp_path / "a.part")
    assert os.listdir(tmp_path) == []


def test_an_unknown_file_system_is_not_mapped_and_a_missing_function_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "fstatfs", "statx")
    part = create(tmp_path / "a.part")
    assert not part.map_allowed
    assert part.birth_ns == 0
    part.close()


@pytest.mark.parametrize("size", [MIB, 8 * MIB])
def test_a_limit_of_the_file_size_is_told_as_such(tmp_path: Path, size: int) -> None:
    script = (
        "import resource, sys\n"
        "from fastidm.errors import NoSpaceError\n"
        "from fastidm.storage.partfile import PartFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try: PartFile.create(sys.argv[1], int(sys.argv[2]), io='auto')\n"
        "except NoSpaceError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.part"), str(size)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "File too large" in output
    assert "MiB" in output
    assert os.listdir(tmp_path) == []


# Opening again


def test_an_earlier_part_file_is_opened_as_the_very_same_file(tmp_path: Path) -> None:
    first = create(tmp_path / "a.part")
    first.close()
    again = PartFile.open(first.path, 3 * MIB)
    identity = (first.device, first.inode, first.birth_ns, first.map_allowed)
    assert (again.device, again.inode, again.birth_ns, again.map_allowed) == identity
    again.close()


def test_a_missing_resized_or_linked_part_file_is_nothing_to_build_on(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    with pytest.raises(PartChanged):
        PartFile.open(str(path), 3 * MIB)
    create(path).close()
    with pytest.raises(PartChanged):
        PartFile.open(str(path), 3 * MIB + 1)
    os.link(path, tmp_path / "second name")
    with pytest.raises(PartChanged):
        PartFile.open(str(path), 3 * MIB)


def test_the_time_of_birth_is_the_one_that_stat_tells(tmp_path: Path) -> None:
    part = create(tmp_path / "a.part")
    try:
        told = subprocess.run(["stat", "-c", "%W", part.path], check=True, capture_output=True, text=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("there is no stat of GNU")
    assert part.birth_ns // 10**9 == int(told)
    part.close()


def test_of_two_who_reach_for_one_name_the_slower_one_withdraws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.part"
    real = fcntl.flock

    def faster(fd: int, operation: int) -> None:
        """The other one removes the file between our opening and our locking it, and creates its own."""
        path.unlink()
        path.write_bytes(b"the other one's")
        real(fd, operation)

    for attempt in (lambda: create(path), lambda: drop(str(path)), lambda: PartFile.open(str(path), 15)):
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(fcntl, "flock", faster)
            with pytest.raises(LockedError):
                attempt()
        assert path.read_bytes() == b"the other one's"


# While it is written


def test_an_undisturbed_part_file_passes_the_check(tmp_path: Path) -> None:
    part = create(tmp_path / "a.part")
    part.check()
    os.pwrite(part.fd, b"x" * MIB, MIB)
    part.sync()
    part.check()
    part.close()


def test_removing_replacing_and_cutting_by_another_program_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    part = create(path)
    path.rename(tmp_path / "moved")
    with pytest.raises(StorageError, match="was removed by another program"):
        part.check()
    path.write_bytes(bytes(3 * MIB))
    with pytest.raises(StorageError, match="was replaced by another program"):
        part.check()
    (tmp_path / "moved").rename(path)
    part.check()
    os.truncate(path, MIB)
    with pytest.raises(StorageError, match="was cut short by another program"):
        part.check()
    part.close()


def test_cutting_is_noticed_even_if_later_writes_restore_the_length(small_disk: Path) -> None:
    part = create(small_disk / "a.part")
    os.truncate(part.path, 0)
    os.pwrite(part.fd, b"the last bytes", 3 * MIB - 14)
    assert os.fstat(part.fd).st_size == 3 * MIB
    with pytest.raises(StorageError, match="was cut short"):
        part.check()
    part.close()


def test_only_what_was_written_counts_as_written(small_disk: Path) -> None:
    part = create(small_disk / "a.part")
    os.pwrite(part.fd, b"x" * 300_001, 0)
    for _ in "before the disk knows of it", "after":
        assert part.written_until(0, 300_001) == 300_001
        assert 300_001 <= part.written_until(0, MIB) < 310_000
        assert part.written_until(MIB, MIB + 5) == MIB
        part.sync()
    with mmap.mmap(part.fd, 3 * MIB) as pages:
        pages[2 * MIB : 2 * MIB + 5000] = b"y" * 5000
        assert part.written_until(2 * MIB + 17, 2 * MIB + 5000) == 2 * MIB + 5000
    os.truncate(part.path, 0)
    assert part.written_until(0, 300_001) == 0
    os.truncate(part.path, 3 * MIB)
    assert part.written_until(0, 300_001) == 0
    part.close()


def test_a_sync_that_failed_once_has_failed_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = create(tmp_path / "a.part")
    part.sync()

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "the disk is dying")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        part.sync()
    monkeypatch.undo()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        part.sync()
    part.close()


def test_what_is_handed_down_is_what_the_kernel_is_told_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    def call(name: str, *arguments: object) -> int:
        told.append((name, *(getattr(argument, "value", argument) for argument in arguments)))
        return 0

    part = create(tmp_path / "a.part")
    monkeypatch.setattr(linux, "_call", call)
    assert part.hand_down([(0, MIB), (2 * MIB, 2 * MIB + 5)])
    start_only = 2  # the flags that wait would take an error away from the next sync
    assert told == [
        ("sync_file_range", part.fd, 0, MIB, start_only),
        ("sync_file_range", part.fd, 2 * MIB, 5, start_only),
    ]
    part.close()


def test_handing_down_works_with_the_real_kernel_and_waits_for_nothing_it_cannot_do(tmp_path: Path) -> None:
    part = create(tmp_path / "a.part")
    os.pwrite(part.fd, b"x" * MIB, 0)
    part.hand_down([(0, MIB)])
    part.sync()
    part.close()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_kernel_that_cannot_be_told_to_begin_is_not_asked_again_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    asked = []

    def refuse(fd: int, start: int, stop: int) -> int:
        asked.append(start)
        return number

    monkeypatch.setattr(linux, "begin_writing", refuse)
    part = create(tmp_path / "a.part")
    assert part.hand_down([])
    assert not part.hand_down([(0, 5), (7, 9)])
    assert not part.hand_down([(7, 9)])
    assert asked == [0]
    part.sync()
    part.close()


def test_on_an_overlay_nothing_is_handed_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlayfs = 0x794C7630
    monkeypatch.setattr(linux, "file_system", lambda fd: overlayfs)
    monkeypatch.setattr(linux, "begin_writing", lambda *_: 0)
    part = create(tmp_path / "a.part")
    assert not part.hand_down([(0, 5)])
    part.close()


def test_an_error_that_handing_down_tells_of_is_one_of_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = create(tmp_path / "a.part")
    asked = []

    def broken(fd: int, start: int, stop: int) -> int:
        asked.append(start)
        return errno.EIO if start == 0 else 0

    monkeypatch.setattr(linux, "begin_writing", broken)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        part.hand_down([(0, 5), (7, 9)])
    assert asked == [0], "what comes after it cannot make it good"
    monkeypatch.undo()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        part.sync()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        part.hand_down([(7, 9)])
    part.close()


def test_a_sync_notices_what_was_lost_while_it_went_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has dropped bytes and is about to say so to `hand_down_now`, when the sync of what is left succeeds."""
    part = create(tmp_path / "a.part")
    dropped, told = Event(), Event()

    def begin_writing(fd: int, start: int, stop: int) -> int:
        dropped.set()
        assert told.wait(10)
        return errno.EIO

    def sync(fd: int) -> None:
        assert dropped.wait(10)
        Timer(0.05, told.set).start()

    monkeypatch.setattr(linux, "begin_writing", begin_writing)
    monkeypatch.setattr(owned, "sync", sync)
    answers: list[int] = []
    thread = Thread(target=lambda: answers.append(part.hand_down_now(0, MIB)))
    thread.start()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        part.sync()
    thread.join(10)
    assert answers == [errno.EIO]
    assert part.hand_down_now(MIB, 2 * MIB) == errno.EIO, "lost once is lost for ever"
    part.close()


def test_a_kernel_that_cannot_be_told_is_not_asked_again_by_any_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = create(tmp_path / "a.part")
    assert part.hand_down_now(0, MIB) == 0
    asked = []
    monkeypatch.setattr(linux, "begin_writing", lambda *range_: asked.append(range_) or errno.ENOSYS)
    assert [part.hand_down_now(0, MIB), part.hand_down_now(0, MIB)] == [-1, -1]
    assert not part.hand_down([(0, MIB)])
    assert len(asked) == 1
    part.sync()
    part.close()


# The end


def test_closing_keeps_the_file_and_removing_removes_it(tmp_path: Path) -> None:
    part = create(tmp_path / "a.part")
    part.close()
    part.close()
    assert os.listdir(tmp_path) == ["a.part"]
    part.remove()  # closed: no longer ours to remove
    assert os.listdir(tmp_path) == ["a.part"]
    part = create(tmp_path / "a.part")
    part.remove()
    assert os.listdir(tmp_path) == []


def test_removing_leaves_a_file_that_has_taken_its_place(tmp_path: Path) -> None:
    part = create(tmp_path / "a.part")
    (tmp_path / "a.part").unlink()
    (tmp_path / "a.part").write_bytes(b"another")
    part.remove()
    assert (tmp_path / "a.part").read_bytes() == b"another"
