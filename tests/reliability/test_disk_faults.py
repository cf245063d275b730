"""Disks that fail, and other programs that lay hands on the part file: exit 10, and no byte that is not the server's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

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
    resumed,
    run_patched,
    stop_at,
)
from tests.support.command import run
from tests.support.content import content, first_difference
from tests.support.oddserver import File, Gate
from tests.support.servers import Nginx

HALF = MIB + 300 * KIB
OTHER = content(SIZE, seed=99)
Deed = Callable[[Path], None]


# --- what other programs do to the part file ---


def cut(folder: Path) -> None:
    os.truncate(folder / "a.bin.part", 64 * KIB)


def cut_and_stretched(folder: Path) -> None:
    """Of the same length again, and a hole where the data was."""
    cut(folder)
    os.truncate(folder / "a.bin.part", SIZE)


def removed(folder: Path) -> None:
    (folder / "a.bin.part").unlink()


def replaced(folder: Path) -> None:
    (folder / "new").write_bytes(OTHER)
    (folder / "new").rename(folder / "a.bin.part")


def moved_away_and_copied_back(folder: Path) -> None:
    shutil.copyfile(folder / "a.bin.part", folder / "new")
    (folder / "new").rename(folder / "a.bin.part")


@pytest.mark.parametrize(
    ("deed", "io"),
    [
        pytest.param(cut, "pwrite", marks=pytest.mark.row("F5")),
        pytest.param(cut_and_stretched, "mmap", marks=pytest.mark.row("F5")),
        pytest.param(removed, "mmap", marks=pytest.mark.row("F6")),
        pytest.param(replaced, "pwrite", marks=pytest.mark.row("F6")),
    ],
)
def test_what_others_do_to_the_part_file_is_seen(deed: Deed, io: str, odd: Serve, folder: Path) -> None:
    """While the last byte has not come the next checkpoint sees it; nobody waits for the end."""
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with begin("--io", io, url, cwd=folder) as command:
        command.wait_for_received(HALF)
        deed(folder)
        gate.open(until=SIZE - 100 * KIB)
        outcome = command.finish()
        gate.open()
    assert outcome.code == 10, outcome
    assert "part was" in outcome.complaint
    assert "a.bin" not in os.listdir(folder)
    if deed is replaced:
        assert (folder / "a.bin.part").read_bytes() == OTHER, "it is not ours to touch"
    assert resumed(url, folder) == (64 * KIB if deed is cut_and_stretched else 0)


@pytest.mark.row("F5")
def test_a_store_into_a_mapped_page_that_is_gone_is_an_error(odd: Serve, folder: Path) -> None:
    """Without checkpoints, so that none can see it before."""
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with begin("--io", "mmap", "--no-sync", url, cwd=folder) as command:
        command.wait_for_received(HALF)
        cut(folder)
        gate.open()
        outcome = command.finish()
    assert outcome.code == 10, outcome
    assert outcome.complaint
    assert "a.bin" not in os.listdir(folder)
    assert resumed(url, folder) == 0


@pytest.mark.row("F6")
@pytest.mark.parametrize("deed", [removed, replaced])
def test_what_happens_in_the_last_moment_is_seen_too(deed: Deed, odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), SIZE - 1)
    with begin("--no-sync", odd(gate).url + "/a.bin", cwd=folder) as command:
        command.wait_for_received(SIZE - 1)
        deed(folder)
        gate.open()
        outcome = command.finish()
    assert outcome.code == 10, outcome
    assert outcome.complaint
    assert "a.bin" not in os.listdir(folder)


def shortened(folder: Path) -> None:
    os.truncate(folder / "a.bin.part", SIZE // 2)


def grown(folder: Path) -> None:
    with (folder / "a.bin.part").open("ab") as file:
        file.write(b"more")


@pytest.mark.row("F7")
@pytest.mark.parametrize("deed", [shortened, grown, cut_and_stretched, removed, replaced, moved_away_and_copied_back])
def test_a_part_file_that_is_not_as_it_was_left_is_never_built_on(deed: Deed, odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    stop_at(HALF, url, folder)
    deed(folder)
    gate.open()
    assert resumed(url, folder) == (64 * KIB if deed is cut_and_stretched else 0)


# --- errors of the disk ---


@pytest.mark.row("F8")
@pytest.mark.parametrize(("when", "error"), [("in the middle", "EIO"), ("at the end", "EIO"), ("at the end", "ENOSPC")])
def test_a_failed_sync_is_told_and_what_it_may_have_lost_is_fetched_again(
    when: str, error: str, odd: Serve, folder: Path
) -> None:
    """The kernel tells it once and then says that all is well. Its copy in memory may still be right, the disk's is not."""
    gate = Gate(File(DATA), HALF if when == "in the middle" else SIZE)
    url = odd(gate).url + "/a.bin"
    outcome = run_patched(f"sync-fails={error}", url, cwd=folder)
    assert_failed(outcome, 9 if error == "ENOSPC" else 10, folder, "a.bin.fastidm", "a.bin.part")
    with (folder / "a.bin.part").open("r+b") as part:  # what the disk has
        part.write(bytes(HALF))
    gate.open()
    assert resumed(url, folder) == 0


@pytest.mark.row("F8")
def test_a_real_error_on_the_way_to_the_disk_is_told(ext4: Callable[..., Path], nginx: Nginx) -> None:
    """ext4 has reserved the blocks, but the disk below it has room for a part of them only, and says so when they come."""
    data = content(16 * MIB, seed=5)
    url = nginx.add("a.bin", data)
    disk = ext4(64, 8)
    outcome = run("--quiet", url, cwd=disk)
    assert outcome.code in (9, 10), outcome  # a loop device passes on why its own disk could not
    assert outcome.complaint
    assert "a.bin" not in os.listdir(disk)
    below = disk.parent / "below"
    for command in (
        ["umount", str(disk)],  # what was in memory alone is gone now
        ["mount", "-o", "remount,size=64m", str(below)],
        ["e2fsck", "-p", str(below / "image")],
        ["mount", "-o", "loop", str(below / "image"), str(disk)],
    ):
        done = subprocess.run(command, check=False, capture_output=True)
        assert done.returncode in (0, 1), done  # e2fsck says 1 when it has mended something
    assert run("--quiet", url, cwd=disk).code == 0
    assert first_difference((disk / "a.bin").read_bytes(), data) is None


@pytest.mark.row("F9")
@pytest.mark.parametrize("how", ["read-only", "no permission"])
def test_a_folder_that_cannot_be_written_is_seen_before_the_server_is_asked(how: str, odd: Serve, small_disk: Path) -> None:
    place = small_disk / "sub"
    place.mkdir()
    server = odd(File(DATA))
    words: tuple[str, ...] = ()
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    else:
        words = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
        for above in (small_disk, *small_disk.parents[:3]):
            above.chmod(0o755)
    outcome = run("--quiet", "-d", place, server.url + "/a.bin", cwd=Path("/"), wrapper=words)
    assert_failed(outcome, 10, place)
    assert server.exchanges == []


@pytest.mark.row("F9")
def test_a_file_system_that_turns_read_only_in_the_middle_keeps_what_came(ext4: Callable[..., Path], odd: Serve) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    disk = ext4(16, 20)
    device = subprocess.run(["findmnt", "-no", "SOURCE", str(disk)], check=True, capture_output=True, text=True).stdout.strip()
    alarm = Path("/sys/fs/ext4") / os.path.basename(device) / "trigger_fs_error"
    with begin("--io", "pwrite", url, cwd=disk) as command:
        command.wait_for_received(HALF)
        alarm.write_text("a test")
        gate.open()
        outcome = command.finish()
    assert_failed(outcome, 10, disk, "a.bin.fastidm", "a.bin.part")
    assert f"{disk}/a.bin" in outcome.complaint


# --- the folder itself ---


@pytest.mark.row("F13")
@pytest.mark.parametrize(("how", "io"), [("removed", "mmap"), ("moved", "pwrite"), ("unmounted", "mmap")])
def test_a_folder_that_goes_away_in_the_middle(how: str, io: str, odd: Serve, small_disk: Path) -> None:
    place = small_disk / "sub"
    place.mkdir()
    gate = Gate(File(DATA), HALF)
    with begin("--io", io, "-d", place, odd(gate).url + "/a.bin", cwd=Path("/")) as command:
        command.wait_for_received(HALF)
        if how == "removed":
            shutil.rmtree(place)
        elif how == "moved":
            place.rename(small_disk / "elsewhere")
        else:
            subprocess.run(["umount", "-l", str(small_disk)], check=True)
        gone = time.monotonic()
        gate.open(until=SIZE - 100 * KIB)
        outcome = command.finish()
        assert time.monotonic() - gone < 5
    assert outcome.code == 10, outcome
    assert outcome.complaint
    assert not (place / "a.bin").exists()


@pytest.mark.row("F14")
def test_the_part_file_is_on_the_disk_of_the_file(odd: Serve, small_disk: Path, folder: Path) -> None:
    (folder / "here").symlink_to(small_disk)
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with begin("-d", "here", url, cwd=folder, env={"TMPDIR": str(folder)}) as command:
        command.wait_for("start")
        assert sorted(os.listdir(small_disk)) == ["a.bin.fastidm", "a.bin.part"]
        assert os.listdir(folder) == ["here"]
        inode = (small_disk / "a.bin.part").stat().st_ino
        gate.open()
        outcome = command.finish()
    assert_done(outcome, small_disk)
    assert (small_disk / "a.bin").stat().st_ino == inode, "renamed, not copied"


@pytest.mark.row("F15")
@pytest.mark.parametrize("name", ["n" * 255, "n" * 250, "d/" * 2040 + "a.bin"], ids=["name", "suffix", "path"])
def test_a_name_without_room_is_refused_before_the_server_is_asked(name: str, odd: Serve, folder: Path) -> None:
    server = odd(File(DATA))
    assert_failed(run("--quiet", "-o", name, server.url + "/a.bin", cwd=folder), 13, folder)
    assert server.exchanges == []


# --- file systems that can do less ---


@pytest.mark.row("F11")
@pytest.mark.parametrize(("io", "env"), [("auto", {}), ("mmap", {}), ("mmap", {"FASTIDM_PURE": "1"})])
def test_where_nothing_can_be_mapped_plain_writes_do_it(io: str, env: dict[str, str], odd: Serve, folder: Path) -> None:
    url = odd(File(DATA)).url + "/a.bin"
    assert_done(run_patched("no-mmap", "--io", io, url, cwd=folder, env=env), folder)


@pytest.mark.row("F11")
def test_where_nothing_can_be_mapped_a_stop_loses_nothing(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with patched("no-mmap", url, cwd=folder) as command:
        received = command.wait_for("progress", lambda event: event["received"] >= HALF)["received"]
        command.send(signal.SIGTERM)
        assert command.finish().code == 7
    gate.open()
    assert run_patched("no-mmap", "--json", url, cwd=folder).done["resumed"] >= received
    assert os.listdir(folder) == ["a.bin"]


@pytest.mark.row("F11")
def test_where_nothing_can_be_mapped_a_kill_costs_what_came_since_the_last_checkpoint(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with patched("no-mmap,sync-takes=0,quick", url, cwd=folder) as command:
        command.wait_for("progress", lambda event: event["received"] >= HALF)
        command.wait_for("sync")
        seen = (folder / "a.bin.fastidm").read_bytes()
        while (folder / "a.bin.fastidm").read_bytes() == seen:
            time.sleep(0.01)  # the file system sends no event for this
        command.process.kill()
    gate.open()
    assert run_patched("no-mmap", "--json", url, cwd=folder).done["resumed"] > 0


@pytest.mark.row("F11")
def test_where_nothing_can_be_mapped_an_earlier_journal_is_gone_on_with(odd: Serve, folder: Path) -> None:
    """The folder is mounted in another way now."""
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    stop_at(HALF, url, folder)
    gate.open()
    assert run_patched("no-mmap", "--json", url, cwd=folder).done["resumed"] >= HALF
    assert os.listdir(folder) == ["a.bin"]
