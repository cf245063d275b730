"""Links, pipes, other people's files, permissions: nothing is written where it was not asked for, whatever lies there."""

from __future__ import annotations

import os
import random
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fastidm.core.response import Content
from fastidm.errors import FastidmError
from fastidm.options import Options
from fastidm.storage.target import Target
from tests.reliability.machine import DATA, KIB, MIB, Serve, assert_done, assert_failed, begin, resumed, stop_at
from tests.support.command import call
from tests.support.oddserver import File, Gate

HALF = MIB + 300 * KIB
PRECIOUS = "precious"
NAMES = ("a.bin.part", "a.bin.fastidm")
FLIPS = 10_000
"""Times that an attacker changes what a name is, at least."""


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file elsewhere that must be as it was, whatever happens."""
    file = tmp_path / "victim"
    file.write_text(PRECIOUS)
    file.chmod(0o640)
    before = file.stat()
    yield file
    assert file.read_text() == PRECIOUS
    after = file.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ino) == (before.st_mode, before.st_mtime_ns, before.st_ino)


# --- planted before ---

Plant = Callable[[Path, Path], object]
PLANTS: dict[str, Plant] = {
    "link": lambda place, victim: place.symlink_to(victim),
    "dangling link": lambda place, victim: place.symlink_to(victim.with_name("not-there")),
    "link to a device": lambda place, victim: place.symlink_to("/dev/null"),
    "pipe": lambda place, victim: os.mkfifo(place),
    "folder": lambda place, victim: place.mkdir(),
    "socket": lambda place, victim: _socket(place),
}


def _socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(place))  # its name may be short only


@pytest.mark.row("F16")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("flags", [(), ("--restart", "--overwrite")], ids=["", "restart"])
def test_what_is_planted_where_we_write_is_left_alone(
    flags: tuple[str, ...], plant: str, name: str, odd: Serve, folder: Path, victim: Path
) -> None:
    server = odd(File(DATA))
    PLANTS[plant](folder / name, victim)
    mode = (folder / name).lstat().st_mode
    assert_failed(call("--quiet", *flags, server.url + "/a.bin", cwd=folder), 13, folder, name)
    assert (folder / name).lstat().st_mode == mode
    assert server.exchanges == []
    assert not victim.with_name("not-there").exists()


@pytest.mark.row("F17")
@pytest.mark.parametrize("what", ["pipe", "folder", "socket", "device"])
@pytest.mark.parametrize("flags", [(), ("--overwrite",)], ids=["", "overwrite"])
def test_a_target_that_is_no_plain_file(
    flags: tuple[str, ...], what: str, odd: Serve, folder: Path, tmp_path: Path
) -> None:
    server = odd(File(DATA))
    if what == "device":
        outcome = call("--quiet", *flags, "-o", "/dev/null", server.url + "/a.bin", cwd=folder)
        assert_failed(outcome, 13, folder)
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    else:
        PLANTS[what](folder / "a.bin", tmp_path)
        mode = (folder / "a.bin").lstat().st_mode
        outcome = call("--quiet", *flags, "-o", "a.bin", server.url + "/a.bin", cwd=folder)
        assert_failed(outcome, 13, folder, "a.bin")
        assert (folder / "a.bin").lstat().st_mode == mode
    assert server.exchanges == []


@pytest.mark.row("F16")
@pytest.mark.row("F17")
@pytest.mark.parametrize("size", [3 * MIB, 100 * KIB])
def test_a_link_in_place_of_the_file_is_replaced_and_never_followed(
    size: int, odd: Serve, folder: Path, victim: Path
) -> None:
    url = odd(File(DATA[:size])).url + "/a.bin"
    (folder / "a.bin").symlink_to(victim)
    assert_failed(call("--quiet", url, cwd=folder), 12, folder, "a.bin")
    assert_done(call("--json", "--overwrite", url, cwd=folder), folder, DATA[:size])
    assert not (folder / "a.bin").is_symlink()


@pytest.mark.row("F16")
def test_a_name_that_a_hard_link_shares_is_not_written_through(odd: Serve, folder: Path, victim: Path) -> None:
    """A stale part file is removed, not emptied; a journal with a second name is nobody's we know."""
    url = odd(File(DATA)).url + "/a.bin"
    os.link(victim, folder / "a.bin.part")
    assert_done(call("--json", url, cwd=folder), folder)
    (folder / "a.bin").unlink()
    os.link(victim, folder / "a.bin.fastidm")
    assert call("--quiet", url, cwd=folder).code == 13


# --- planted journals ---


@pytest.mark.row("F16")
@pytest.mark.parametrize("what", ["others may write it", "a second name"])
def test_a_journal_that_others_may_have_written_is_not_used(what: str, odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    stop_at(HALF, url, folder)
    gate.open()
    journal = folder / "a.bin.fastidm"
    if what == "a second name":
        os.link(journal, folder / "second")
        assert_failed(call("--quiet", url, cwd=folder), 13, folder, "a.bin.fastidm", "a.bin.part", "second")
        (folder / "second").unlink()
        assert resumed(url, folder) >= HALF
    else:
        journal.chmod(0o666)
        assert resumed(url, folder) == 0


@pytest.mark.row("F16")
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give files away")
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_user_is_not_used(name: str, odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    server = odd(gate)
    stop_at(HALF, server.url + "/a.bin", folder)
    gate.open()
    os.chown(folder / name, 65534, 65534)
    before = (folder / name).read_bytes()
    assert_failed(call("--quiet", server.url + "/a.bin", cwd=folder), 13, folder, *NAMES)
    assert (folder / name).read_bytes() == before


@pytest.mark.row("F16")
def test_a_journal_does_not_say_where_to_connect(odd: Serve, folder: Path) -> None:
    """The URL in it is for people; a planted one leads nobody to another server."""
    gate = Gate(File(DATA), HALF)
    evil, good = odd(gate), odd(File(DATA))
    stop_at(HALF, evil.url + "/a.bin", folder)
    evil.exchanges.clear()
    gate.open()
    assert_done(call("--json", good.url + "/a.bin", cwd=folder), folder)
    assert evil.exchanges == []


# --- planted meanwhile ---


@contextmanager
def attacker(folder: Path, victim: Path) -> Iterator[list[int]]:
    """A thread that plants links, hard links and pipes for a moment, as fast as it can, now and then over what is there;
    gives the count."""
    done = threading.Event()
    flips = [0]
    forms = [os.symlink, os.link, lambda victim, place: os.mkfifo(place)]
    chance = random.Random(16)

    def attack() -> None:
        while not done.is_set():
            place = folder / chance.choice([*NAMES, "a.bin"])
            form = chance.choice(forms)
            with suppress(OSError):
                if chance.random() < 0.01:
                    form(victim, folder / "spare")
                    os.replace(folder / "spare", place)
                else:
                    form(victim, place)
                os.unlink(place)
            flips[0] += 1

    thread = threading.Thread(target=attack)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        yield flips
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


@pytest.mark.row("F16")
@pytest.mark.parametrize("size", [2 * MIB, 64 * KIB])
def test_links_that_come_and_go_never_lead_to_the_victim(size: int, folder: Path, victim: Path) -> None:
    """Every call that storage makes, over and over; each may fail with one of our errors, and none may write elsewhere."""
    data = DATA[:size]
    url = "http://127.0.0.1/a.bin"
    ends = {"failed": 0, "went on": 0, "done": 0}
    begun = time.monotonic()
    with attacker(folder, victim) as flips:
        while flips[0] < FLIPS and time.monotonic() - begun < 4:
            target = Target(str(folder / "a.bin"), url, Options(overwrite=True, sync=False))
            try:
                target.prepare()
                target.begin(Content(size, '"1"', None))
                if target.memory is None:
                    os.pwrite(target.fd, data, 0)
                else:
                    target.memory[:] = data
                target.checkpoint(bytes(target.table))
                ends["went on"] += 1
                target.finish(size, None, lambda: False)
                ends["done"] += 1
            except FastidmError:
                ends["failed"] += 1
            finally:
                target.close()
            assert victim.read_text() == PRECIOUS
    assert flips[0] >= FLIPS // 10
    assert min(ends["failed"], ends["went on"]) > 3, ends


@pytest.mark.row("F16")
def test_a_link_that_takes_the_place_of_the_part_file_is_not_published(odd: Serve, folder: Path, victim: Path) -> None:
    gate = Gate(File(DATA), HALF)
    with begin("--no-sync", odd(gate).url + "/a.bin", cwd=folder) as command:
        command.wait_for_received(HALF)
        (folder / "a.bin.part").unlink()
        (folder / "a.bin.part").symlink_to(victim)
        gate.open()
        assert command.finish().code == 10
    assert "a.bin" not in os.listdir(folder)


# --- permissions ---


@pytest.mark.row("F18")
@pytest.mark.parametrize(("umask", "mode"), [("0", 0o666), ("022", 0o644), ("077", 0o600), ("0277", 0o400)])
def test_what_is_unfinished_is_its_owners_alone(umask: str, mode: int, odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    words = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    with begin(odd(gate).url + "/a.bin", cwd=folder, words=words) as command:
        command.wait_for_received(HALF)
        for name in NAMES:
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600 & ~int(umask, 8)
        gate.open()
        assert_done(command.finish(), folder)
    assert stat.S_IMODE((folder / "a.bin").stat().st_mode) == mode


@pytest.mark.row("F18")
def test_a_small_file_is_no_exception(odd: Serve, folder: Path) -> None:
    data = DATA[: 600 * KIB]
    gate = Gate(File(data), 300 * KIB)
    with begin(odd(gate).url + "/a.bin", cwd=folder, words=("sh", "-c", 'umask 0; exec "$@"', "sh")) as command:
        command.wait_for_received(300 * KIB)
        assert stat.S_IMODE((folder / "a.bin.part").stat().st_mode) == 0o600
        gate.open()
        assert_done(command.finish(), folder, data)
    assert stat.S_IMODE((folder / "a.bin").stat().st_mode) == 0o666
