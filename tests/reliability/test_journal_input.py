"""Whatever stands in a journal: it is believed as far as it is proved, costs nothing, and never has to be removed by hand."""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fastidm.options import Options
from fastidm.storage import linux
from fastidm.storage.pages import JOURNAL_SIZE, LIVE, LIVE_HEAD, PAGE, ROWS, TABLE_BYTES, live_head
from fastidm.storage.target import Target
from tests.reliability.machine import (
    DATA,
    KIB,
    MIB,
    SIZE,
    Serve,
    assert_done,
    assert_failed,
    patched,
    resumed,
    run_patched,
    stop_at,
)
from tests.support.command import call
from tests.support.content import content, first_difference, sha256
from tests.support.oddserver import File, Gate, OddServer

HALF = MIB + 300 * KIB
ROW = TABLE_BYTES // ROWS
TABLE = LIVE * PAGE + LIVE_HEAD
MOST_SECONDS, MOST_BYTES = 0.010, 8 << 20
"""What a look at any journal may take."""

Deed = Callable[[Path], None]


@pytest.fixture
def left(odd: Serve, folder: Path) -> OddServer:
    """A server, half of whose file an earlier run has left; it gives all of it now."""
    gate = Gate(File(DATA), HALF)
    server = odd(gate)
    stop_at(HALF, server.url + "/a.bin", folder)
    gate.open()
    server.exchanges.clear()
    return server


def look(folder: Path, url: str = "http://127.0.0.1/a.bin") -> list[tuple[int, int]]:
    """The byte ranges that the next run would go on from."""
    target = Target(str(folder / "a.bin"), url, Options())
    try:
        found = target.prepare()
    finally:
        target.close()
    return [] if found is None else found.claims


def change(folder: Path, at: int, data: bytes) -> None:
    """Put `data` into the journal."""
    with (folder / "a.bin.fastidm").open("r+b") as journal:
        journal.seek(at)
        journal.write(data)


def seal(folder: Path, page: bytes) -> None:
    """Make this the journal's header, with the CRC that makes it a good one, as docs/journal.md says."""
    page = page.ljust(PAGE, b"\0")
    crc = zlib.crc32(page[21:], zlib.crc32(page[:17]))
    change(folder, 0, page[:17] + struct.pack(">I", crc) + page[21:])


def header(folder: Path) -> bytes:
    return (folder / "a.bin.fastidm").read_bytes()[:PAGE]


def row(start: int, stop: int, position: int) -> bytes:
    """A row of the table as a run stores it."""
    table = memoryview(bytearray(ROW))
    table.cast("q")[:3] = memoryview(struct.pack("3q", start, stop, position)).cast("q")
    table.cast("q")[3] = ~position
    return bytes(table)


# --- damage ---


def _cut(length: int) -> Deed:
    return lambda folder: os.truncate(folder / "a.bin.fastidm", length)


def _write(data: bytes) -> Deed:
    return lambda folder: change(folder, 0, data) if data else None


def _noise(size: int) -> Deed:
    return lambda folder: _replace(folder, random.Random(size).randbytes(size))


def _replace(folder: Path, data: bytes) -> None:
    with (folder / "a.bin.fastidm").open("wb") as journal:
        journal.write(data)


def _behind_a_good_beginning(folder: Path) -> None:
    _replace(folder, header(folder)[:100] + random.Random(1).randbytes(JOURNAL_SIZE - 100))


DAMAGE: dict[str, Deed] = {
    **{f"cut to {length}": _cut(length) for length in (0, 1, 20, 21, PAGE - 1, PAGE, TABLE, JOURNAL_SIZE - 1)},
    "zeros": _write(bytes(JOURNAL_SIZE)),
    "a text": _write(b"not a journal at all\n" * 100),
    "random": _noise(JOURNAL_SIZE),
    "random, a megabyte": _noise(1 << 20),
    "a good beginning": _behind_a_good_beginning,
    "a terabyte of nothing": lambda folder: os.truncate(folder / "a.bin.fastidm", 1 << 40),
}


@pytest.mark.row("F21")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_journal_is_as_good_as_none(damage: str, left: OddServer, folder: Path) -> None:
    DAMAGE[damage](folder)
    assert resumed(left.url + "/a.bin", folder) == 0


# --- lies ---


def everything_is_there(folder: Path) -> None:
    """A live page of this boot that claims the whole file."""
    change(folder, TABLE, row(0, SIZE, SIZE) + bytes(TABLE_BYTES - ROW))


@pytest.mark.row("F22")
def test_the_lie_is_well_made(left: OddServer, folder: Path) -> None:
    """With the right bytes in the part file it is the truth."""
    (folder / "a.bin.part").write_bytes(DATA)
    everything_is_there(folder)
    assert resumed(left.url + "/a.bin", folder) == SIZE


@pytest.mark.row("F22")
@pytest.mark.parametrize("how", ["holes", "reserved", "another file"])
def test_all_is_said_to_be_there_and_nothing_is(how: str, left: OddServer, folder: Path) -> None:
    part = folder / "a.bin.part"
    if how == "another file":
        part.unlink()
        part.write_bytes(bytes(SIZE))
    else:
        os.truncate(part, 0)
        os.truncate(part, SIZE)
        if how == "reserved":
            with part.open("r+b") as file:
                linux.fallocate(file.fileno(), SIZE)
    everything_is_there(folder)
    assert resumed(left.url + "/a.bin", folder) == 0


@pytest.mark.row("F22")
@pytest.mark.parametrize("said", ["half", "all"])
def test_zeros_that_were_really_written_are_seen_where_bytes_are_compared(said: str, left: OddServer, folder: Path) -> None:
    """Somebody wrote into the very file: the comparison before each gap, and before the end, sees it."""
    with (folder / "a.bin.part").open("r+b") as part:
        part.write(bytes(SIZE))
    if said == "all":
        everything_is_there(folder)
    url = left.url + "/a.bin"
    assert_failed(call("--quiet", url, cwd=folder), 8, folder, "a.bin.fastidm", "a.bin.part")
    assert_done(call("--json", "--restart", url, cwd=folder), folder)


@pytest.mark.row("F22")
def test_zeros_that_nothing_is_compared_with_do_not_pass_a_checksum(left: OddServer, folder: Path) -> None:
    with (folder / "a.bin.part").open("r+b") as part:
        part.write(bytes(SIZE - 8 * KIB) + DATA[-8 * KIB :])
    everything_is_there(folder)
    outcome = call("--quiet", "--checksum", f"sha256:{sha256(DATA)}", left.url + "/a.bin", cwd=folder)
    assert_failed(outcome, 15, folder)


LIES: dict[str, bytes] = {
    "beyond the end": row(0, 2 * SIZE, 2 * SIZE),
    "more than there can be": row(0, 2**63 - 1, 2**63 - 1),
    "negative": row(-SIZE, SIZE, SIZE),
    "backwards": row(SIZE, 0, SIZE),
    "behind its stop": row(0, KIB, SIZE),
    "all bits": b"\xff" * ROW,
    "twice": row(0, SIZE, SIZE) + row(0, SIZE, 0),
}


@pytest.mark.row("F23")
@pytest.mark.parametrize("lie", LIES)
def test_rows_that_cannot_be_claim_nothing(lie: str, left: OddServer, folder: Path) -> None:
    change(folder, TABLE, LIES[lie] + bytes(TABLE_BYTES - len(LIES[lie])))
    assert resumed(left.url + "/a.bin", folder) == 0


def _overlapping(folder: Path) -> None:
    change(folder, TABLE, b"".join(row(n, SIZE - n, SIZE - 2 * n) for n in range(ROWS)))


def _scattered(folder: Path) -> None:
    chance = random.Random(3)
    starts = [chance.randrange(SIZE - 2) for _ in range(ROWS)]
    change(folder, TABLE, b"".join(row(start, start + 2, start + 1) for start in starts))


def _length_of_the_table(folder: Path) -> None:
    change(folder, TABLE - 3, b"\xc6\xff\xff")


@pytest.mark.row("F23")
@pytest.mark.parametrize("deed", [_overlapping, _scattered, _length_of_the_table, DAMAGE["a terabyte of nothing"]])
def test_a_look_costs_next_to_nothing_whatever_is_there(deed: Deed, left: OddServer, folder: Path) -> None:
    took = []
    look(folder)
    good = (folder / "a.bin.fastidm").read_bytes()
    for _ in range(3):
        (folder / "a.bin.fastidm").write_bytes(good)
        deed(folder)
        begun = time.thread_time()
        look(folder)
        took.append(time.thread_time() - begun)
        if not (folder / "a.bin.fastidm").exists():
            break
    assert min(took) < MOST_SECONDS
    if (folder / "a.bin.fastidm").exists():
        tracemalloc.start()
        look(folder)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST_BYTES


BOMBS: dict[str, bytes] = {
    "array of four thousand million": b"\xdd\xff\xff\xff\xff",
    "map of four thousand million": b"\xdf\xff\xff\xff\xff",
    "text of four gigabytes": b"\xdb\xff\xff\xff\xff",
    "nested a thousand times": b"\x91" * 1000,
    "maps in maps": b"\x81\xa1a" * 500,
    "cut short": b"\x9f",
    "an extension": b"\xc9\xff\xff\xff\xff\x01",
}


@pytest.mark.row("F24")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_header_that_is_a_bomb_is_a_damaged_one(bomb: str, left: OddServer, folder: Path) -> None:
    good = header(folder)
    seal(folder, good[:21] + b"\xa5order" + BOMBS[bomb])
    begun = time.thread_time()
    assert look(folder) == []
    assert time.thread_time() - begun < 10 * MOST_SECONDS
    assert resumed(left.url + "/a.bin", folder) == 0


@pytest.mark.row("F24")
@pytest.mark.parametrize("value", [b"\xc3", b"\xcb" + struct.pack(">d", float("nan")), b"\xff", b"\xcf" + b"\xff" * 8, b"\xa0"])
def test_a_header_with_a_length_that_is_none_is_a_damaged_one(value: bytes, left: OddServer, folder: Path) -> None:
    """True, not-a-number, minus one, 2^64 - 1, a text."""
    good = header(folder)
    key = b"\xa5total"
    before, _, rest = good.partition(key)
    length = b"\xce" + struct.pack(">I", SIZE)
    assert rest.startswith(length)
    seal(folder, (before + key + value + rest[len(length) :])[:PAGE])
    assert resumed(left.url + "/a.bin", folder) == 0


# --- somebody else's ---


@pytest.mark.row("F25")
def test_the_journal_of_another_file_is_not_believed(left: OddServer, odd: Serve, folder: Path, tmp_path: Path) -> None:
    """Of the same length, even."""
    other = tmp_path / "other"
    other.mkdir()
    stop_at(HALF, odd(Gate(File(content(SIZE, seed=77)), HALF)).url + "/a.bin", other)
    shutil.copy2(other / "a.bin.fastidm", folder / "a.bin.fastidm")
    assert resumed(left.url + "/a.bin", folder) == 0


@pytest.mark.row("F25")
@pytest.mark.parametrize("same", [True, False])
def test_the_journal_of_another_url_needs_proof(same: bool, left: OddServer, odd: Serve, folder: Path) -> None:
    """Another server has the same content, or other content of the same length and ETag: the bytes decide."""
    data = DATA if same else content(SIZE, seed=78)
    url = odd(File(data, etag=None if same else '"1"')).url + "/a.bin"
    outcome = call("--json", url, cwd=folder)
    if same:
        assert outcome.code in (0, 8), outcome
    else:
        assert outcome.code == 8, outcome
    if outcome.code:
        assert "a.bin" not in os.listdir(folder)
        outcome = call("--json", "--on-change", "restart", url, cwd=folder)
    assert_done(outcome, folder, data)


@pytest.mark.row("F25")
def test_the_journal_of_a_newer_version_is_left_as_it_is(left: OddServer, folder: Path) -> None:
    page = header(folder)
    seal(folder, page[:10] + (2).to_bytes(2, "big") + page[12:])
    before = [(folder / name).read_bytes() for name in ("a.bin.fastidm", "a.bin.part")]
    outcome = call("--quiet", left.url + "/a.bin", cwd=folder)
    assert_failed(outcome, 20, folder, "a.bin.fastidm", "a.bin.part")
    assert [(folder / name).read_bytes() for name in ("a.bin.fastidm", "a.bin.part")] == before
    assert left.exchanges == []
    assert "--restart" in outcome.complaint
    assert_done(call("--json", "--restart", left.url + "/a.bin", cwd=folder), folder)


@pytest.mark.row("F38")
def test_copies_in_another_place_are_begun_anew(left: OddServer, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("a.bin.fastidm", "a.bin.part"):
        shutil.copy2(folder / name, copy / name)
    assert resumed(left.url + "/a.bin", copy) == 0
    assert resumed(left.url + "/a.bin", folder) >= HALF, "and the originals are still good"


@pytest.mark.row("F38")
def test_what_was_moved_goes_on(left: OddServer, folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert resumed(left.url + "/a.bin", moved) >= HALF


# --- torn ---


@pytest.mark.row("F26")
def test_a_journal_torn_anywhere_claims_what_is_there_or_less(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    stop_at(HALF, url, folder)
    old = (folder / "a.bin.fastidm").read_bytes()
    gate.open(until=2 * HALF)
    stop_at(2 * HALF, url, folder)
    new = (folder / "a.bin.fastidm").read_bytes()
    data = (folder / "a.bin.part").read_bytes()
    assert old != new
    longest = 0
    for at in range(0, JOURNAL_SIZE, 173):
        images = [new[:at] + old[at:], old[:at] + new[at:]]
        if at >= PAGE:  # a header with zeros in it would be damaged, and the part file removed
            images.append(new[:at] + bytes(JOURNAL_SIZE - at))
        for image in images:
            (folder / "a.bin.fastidm").write_bytes(image)
            claims = look(folder, url)
            for start, stop in claims:
                assert first_difference(data[start:stop], DATA[start:stop]) is None, at
            longest = max(longest, sum(stop - start for start, stop in claims))
    assert longest >= 2 * HALF
    (folder / "a.bin.fastidm").write_bytes(new)
    gate.open()
    assert resumed(url, folder) >= 2 * HALF


# --- power ---


@pytest.mark.row("F32")
@pytest.mark.row("F37")
def test_after_a_boot_only_what_a_checkpoint_has_seen_is_believed(
    odd: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine went down without a sync: of what came after the checkpoint the disk has nothing."""
    gate = Gate(File(DATA), HALF)
    url = odd(gate).url + "/a.bin"
    with patched("order,sync-once", url, cwd=folder) as command:
        command.wait_for_received(HALF)
        command.wait_for("step", lambda step: step["file"].endswith(".fastidm") and step["what"] == "sync")
        gate.open(until=2 * HALF)
        command.wait_for_received(2 * HALF)
        command.kill()
    gate.open()
    with monkeypatch.context() as patch:
        patch.setattr(linux, "boot_id", lambda: b"x" * 16)
        claims = look(folder, url)
    synced = sum(stop - start for start, stop in claims)
    assert 0 < synced <= HALF + 64 * KIB
    with (folder / "a.bin.part").open("r+b") as part:
        for start, stop in zip([0, *(stop for _, stop in claims)], [*(start for start, _ in claims), SIZE], strict=True):
            os.pwrite(part.fileno(), bytes(stop - start), start)
    outcome = run_patched("boot-id=x", url, cwd=folder)
    assert_done(outcome, folder)
    assert outcome.done["resumed"] == synced


@pytest.mark.row("F37")
def test_a_live_page_of_another_boot_is_not_believed(left: OddServer, folder: Path) -> None:
    """It was never checkpointed, so nothing is."""
    outcome = run_patched("boot-id=x", left.url + "/a.bin", cwd=folder)
    assert_done(outcome, folder)
    assert outcome.done["resumed"] == 0


@pytest.mark.row("F37")
def test_an_armed_page_is_of_this_boot_and_mount(left: OddServer, folder: Path) -> None:
    """The same bytes, said to be of this boot by somebody who knows the format: then it is the part file that proves them."""
    with (folder / "a.bin.fastidm").open("rb") as journal:
        mount = linux.mount_id(journal.fileno())
        assert mount is not None
        journal.seek(LIVE * PAGE)
        assert journal.read(LIVE_HEAD) == live_head(linux.boot_id(), mount, 1)


@pytest.mark.row("F33")
@pytest.mark.parametrize("moment", ["both names", "the journal alone"])
def test_a_power_cut_before_the_journal_was_removed(moment: str, left: OddServer, folder: Path) -> None:
    (folder / "a.bin.part").write_bytes(DATA)
    everything_is_there(folder)
    if moment == "both names":
        os.link(folder / "a.bin.part", folder / "a.bin")
    else:
        (folder / "a.bin.part").rename(folder / "a.bin")
    outcome = call("--quiet", "-o", "a.bin", left.url + "/a.bin", cwd=folder)
    assert_failed(outcome, 12, folder, "a.bin")
    assert left.exchanges == []
    assert (folder / "a.bin").read_bytes() == DATA


@pytest.mark.row("F34")
@pytest.mark.parametrize("size", [SIZE, 100 * KIB])
@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_before_exit_0_data_name_and_folder_are_on_the_disk(
    flags: tuple[str, ...], size: int, odd: Serve, folder: Path
) -> None:
    pure = {"FASTIDM_PURE": "1"} if size < MIB else {}  # the C does it in one call, which cannot be watched from here
    outcome = run_patched("order", *flags, odd(File(DATA[:size])).url + "/a.bin", cwd=folder, env=pure)
    assert outcome.code == 0
    steps = [(step["what"], os.path.basename(step["file"])) for step in outcome.of("step")]
    named = steps.index(("replace" if flags else "link", "a.bin"))
    what, file = steps[named - 1]
    assert what == "sync", "the data first"
    assert file == "a.bin.part" or (size < MIB and file.endswith(" (deleted)")), "a small file has no name until then"
    after = steps[named + 1 :]
    journal = after.index(("unlink", "a.bin.fastidm")) if size > MIB else len(after)
    assert ("folder", folder.name) in after[:journal], "then the name, and the journal last"
