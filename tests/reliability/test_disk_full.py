"""Disks that are too small, that become full, or that cannot promise space: exit 9, nothing lost, nothing kept in vain."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.reliability.launcher import BTRFS, wrapper
from tests.reliability.machine import (
    DATA,
    KIB,
    MIB,
    SIZE,
    Serve,
    assert_done,
    assert_failed,
    begin,
    free,
    patched,
    resumed,
    run_patched,
    stop_at,
    unsized,
)
from tests.support.command import call, run
from tests.support.content import content, first_difference
from tests.support.oddserver import File, Gate, Valve
from tests.support.servers import Nginx

HALF = MIB + 300 * KIB


def fill(disk: Path) -> Path:
    """Another program takes all the room that is left."""
    other = disk / "other"
    with other.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(64 * KIB))
    assert free(disk) == 0
    return other


# --- too small from the start ---


@pytest.mark.row("F1")
@pytest.mark.parametrize("io", ["mmap", "pwrite"])
@pytest.mark.parametrize("known", [True, False])
def test_too_small_a_disk_is_seen_before_the_body_and_gets_its_space_back(
    known: bool, io: str, small_disk: Path, odd: Serve
) -> None:
    """Whether it is known how much is free, or fallocate alone tells."""
    valve = Valve(File(content(6 * MIB)))
    before = free(small_disk)
    arguments = ("--json", "--io", io, odd(valve).url + "/a.bin")
    outcome = run(*arguments, cwd=small_disk) if known else run_patched("blind", *arguments, cwd=small_disk)
    assert_failed(outcome, 9, small_disk)
    assert free(small_disk) == before
    assert valve.sent == 0


@pytest.mark.row("F2")
def test_too_small_a_disk_that_nobody_can_ask_is_full_in_the_middle(small_disk: Path, nginx: Nginx) -> None:
    url = nginx.add("a.bin", content(6 * MIB))
    outcome = run_patched("blind,fallocate=EOPNOTSUPP", url, cwd=small_disk)
    assert_failed(outcome, 9, small_disk, "a.bin.fastidm", "a.bin.part")


@pytest.mark.row("F1")
def test_what_ext4_reserved_before_it_failed_is_given_back(ext4: Callable[..., Path], odd: Serve) -> None:
    disk = ext4(16, 20)
    before = free(disk)
    valve = Valve(File(bytes(40 * MIB)))
    assert_failed(run_patched("blind", odd(valve).url + "/a.bin", cwd=disk), 9, disk)
    assert free(disk) == before


@pytest.mark.row("F1")
def test_one_file_that_is_too_large_does_not_harm_the_other(small_disk: Path, nginx: Nginx) -> None:
    large, small = nginx.add("large.bin", bytes(6 * MIB)), nginx.add("small.bin", DATA)
    outcome = run("--quiet", large, small, cwd=small_disk)
    assert outcome.code == 9
    assert "large.bin" in outcome.complaint
    assert os.listdir(small_disk) == ["small.bin"]
    assert first_difference((small_disk / "small.bin").read_bytes(), DATA) is None


# --- full in the middle ---


@pytest.mark.row("F2")
@pytest.mark.parametrize("io", ["mmap", "pwrite"])
@pytest.mark.parametrize(
    "patches",
    [
        "fallocate=EOPNOTSUPP",
        pytest.param("sparse-map", marks=pytest.mark.row("F3")),
        pytest.param(f"sparse-map,file-system={BTRFS}", marks=pytest.mark.row("F4")),
    ],
)
def test_a_disk_that_becomes_full_in_the_middle_loses_nothing(patches: str, io: str, small_disk: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with patched(patches, "--io", io, url, cwd=small_disk) as command:
        command.wait_for_received(HALF)
        if "file-system" in patches:
            assert "a.bin.part" not in Path(f"/proc/{command.process.pid}/maps").read_text(), "mapped on btrfs"
        other = fill(small_disk)
        gate.open()
        outcome = command.finish()
    assert_failed(outcome, 9, small_disk, "a.bin.fastidm", "a.bin.part", "other")
    other.unlink()
    assert resumed(url, small_disk) >= HALF


@pytest.mark.row("F3")
@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_what_was_reserved_is_there_when_others_fill_the_disk(io: str, small_disk: Path, odd: Serve) -> None:
    gate = Gate(File(DATA), HALF)
    with begin("--io", io, odd(gate).url + "/a.bin", cwd=small_disk) as command:
        command.wait_for_received(HALF)
        other = fill(small_disk)
        gate.open()
        outcome = command.finish()
    other.unlink()
    assert_done(outcome, small_disk)


@pytest.mark.row("F2")
def test_a_file_of_unknown_length_fills_the_disk_and_leaves_nothing(small_disk: Path, odd: Serve) -> None:
    before = free(small_disk)
    outcome = run("--quiet", odd(unsized(content(6 * MIB))).url + "/a.bin", cwd=small_disk)
    assert_failed(outcome, 9, small_disk)
    assert free(small_disk) == before


@pytest.mark.row("F2")
def test_a_full_disk_has_room_for_what_a_stopped_run_left(small_disk: Path, odd: Serve) -> None:
    """Going on takes no new block: neither for the data nor for the journal."""
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    stop_at(HALF, url, small_disk)
    other = fill(small_disk)
    gate.open()
    outcome = call("--json", url, cwd=small_disk)
    other.unlink()
    assert_done(outcome, small_disk)
    assert outcome.done["resumed"] >= HALF


# --- no way to reserve ---


@pytest.mark.row("F10")
@pytest.mark.parametrize("error", ["EOPNOTSUPP", "ENOSYS"])
def test_where_nothing_can_be_reserved_no_block_is_written_in_advance(error: str, odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    with patched(f"fallocate={error}", odd(gate).url + "/a.bin", cwd=folder) as command:
        command.wait_for_received(HALF)
        state = (folder / "a.bin.part").stat()
        assert state.st_size == SIZE
        assert state.st_blocks * 512 <= HALF + 64 * KIB, "an emulation has written every block"
        gate.open()
        outcome = command.finish()
    assert_done(outcome, folder)


@pytest.mark.row("F10")
@pytest.mark.row("F12")
def test_a_file_that_is_larger_than_the_file_system_allows_is_refused_before_the_body(odd: Serve, folder: Path) -> None:
    """As beyond 4 GiB on FAT."""
    valve = Valve(File(DATA))
    url = odd(valve).url + "/a.bin"
    limited = ("prlimit", f"--fsize={2 * MIB}")
    for words in (limited, (*limited, *wrapper("fallocate=EOPNOTSUPP"))):
        outcome = run("--quiet", url, cwd=folder, wrapper=words)
        assert_failed(outcome, 9, folder)
        assert valve.sent == 0


# --- quotas and limits ---


@pytest.mark.row("F12")
def test_a_quota_that_is_reached_when_the_space_is_reserved(odd: Serve, folder: Path) -> None:
    valve = Valve(File(DATA))
    outcome = run_patched("fallocate=EDQUOT", odd(valve).url + "/a.bin", cwd=folder)
    assert_failed(outcome, 9, folder)
    assert valve.sent == 0


@pytest.mark.row("F12")
@pytest.mark.parametrize("error", ["EDQUOT", "ENOSPC", "EFBIG"])
def test_a_quota_that_is_reached_in_the_middle(error: str, odd: Serve, folder: Path) -> None:
    url = odd(File(DATA)).url + "/a.bin"
    outcome = run_patched(f"pwrite-fails={error}@{MIB}", url, cwd=folder, env={"FASTIDM_PURE": "1"})
    assert_failed(outcome, 9, folder, "a.bin.fastidm", "a.bin.part")
    assert 0 < resumed(url, folder) <= MIB


@pytest.mark.row("F12")
@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_a_limit_that_comes_down_in_the_middle_kills_nobody(io: str, odd: Serve, folder: Path) -> None:
    """The kernel sends SIGXFSZ, whose default is death; a map knows no such limit."""
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with begin("--io", io, "--conn", "1", url, cwd=folder) as command:
        command.wait_for_received(HALF)
        subprocess.run(["prlimit", "--pid", str(command.process.pid), f"--fsize={2 * MIB}"], check=True)
        gate.open()
        outcome = command.finish()
    if outcome.code == 0 and io == "mmap":
        assert_done(outcome, folder)
    else:
        assert_failed(outcome, 9, folder, "a.bin.fastidm", "a.bin.part")
        assert resumed(url, folder) >= HALF


@pytest.mark.row("F12")
def test_a_limit_that_a_file_of_unknown_length_runs_into(odd: Serve, folder: Path) -> None:
    limited = ("prlimit", f"--fsize={MIB}")
    outcome = run("--quiet", odd(unsized(DATA)).url + "/a.bin", cwd=folder, wrapper=limited)
    assert_failed(outcome, 9, folder)
