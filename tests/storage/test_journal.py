"""The journal is asked to say too much, in every way that a kill, a disk or a stranger could try.

`TRUTH` is what was written. Whatever happens to the file, a journal may claim less than that, never more. Numbers of
the format stand here a second time, as `docs/journal.md` gives them, so that an accidental change of it is seen.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import random
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgpack  # type: ignore[import-untyped, unused-ignore]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastidm.core.segments import ROW_BYTES, WORDS, SegmentTable, restore
from fastidm.errors import JournalVersionError, LockedError, UnsafePathError
from fastidm.storage import journal as module
from fastidm.storage import linux, owned
from fastidm.storage.journal import ROWS, Identity, Journal, JournalDamaged, hash_url
from fastidm.storage.pages import JOURNAL_SIZE, LIVE_SIZE, SLOTS

PAGE = 4096
LIVE = slice(PAGE, PAGE + LIVE_SIZE)
LIVE_ROWS = PAGE + 40
SLOTS_AT = SLOTS[0] * PAGE
MIB = 1 << 20
TOTAL = 1024 * MIB + 12345
SALT = bytes(range(16))
IDENTITY = Identity(
    total=TOTAL,
    etag='"6ca-5f3b"',
    last_modified="Tue, 15 Nov 1994 12:45:26 GMT",
    url="https://example.org/big.iso?***",
    url_salt=SALT,
    url_hash=hash_url("https://example.org/big.iso?signature=hunter2", SALT),
    device=2049,
    inode=2**64 - 1,
    birth_ns=1_700_000_000_123_456_789,
)
# Twelve segments of uneven length, each filled to another degree: one finished, one untouched.
CUTS = [0, *(TOTAL * k // 12 + 977 * k for k in range(1, 12)), TOTAL]
SEGMENTS = [(a, b, a + (b - a) * k // 11) for k, (a, b) in enumerate(itertools.pairwise(CUTS))]
OLDER = [(a, b, a + (p - a) // 2) for a, b, p in SEGMENTS]

Claims = list[tuple[int, int]]
Segments = list[tuple[int, int, int]]


def packed(segments: Segments) -> bytes:
    return b"".join(struct.pack("=4q", *segment, ~segment[2]) for segment in segments)


def claimed(segments: Segments) -> Claims:
    merged: Claims = []
    for start, _, position in sorted(segments):
        if start < position:
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], position)
            else:
                merged.append((start, position))
    return merged


def within(claims: Claims, truth: Claims) -> bool:
    return all(any(a <= start and stop <= b for a, b in truth) for start, stop in claims)


TRUTH = claimed(SEGMENTS)
OLDER_TRUTH = claimed(OLDER)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "big.iso.fastidm")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tests that make hundreds of journals."""
    return tmp_path_factory.mktemp("journals")


def fresh(scratch: Path) -> str:
    path = scratch / "x.fastidm"
    path.unlink(missing_ok=True)
    return str(path)


def write_journal(path: str) -> bytes:
    """A journal as a killed run leaves it: slots with older truths, a live page with the newest. Returns its bytes."""
    journal = Journal.create(path, IDENTITY)
    journal.begin_epoch(packed(OLDER))
    journal.checkpoint(packed([(a, b, a + (p - a) // 4) for a, b, p in SEGMENTS]))
    journal.checkpoint(packed(OLDER))
    journal.table[: ROW_BYTES * len(SEGMENTS)] = packed(SEGMENTS)
    journal.close()
    return Path(path).read_bytes()


def read(path: str, part_size: int = TOTAL) -> tuple[str, Claims]:
    journal = Journal.open(path)
    try:
        return journal.believed(part_size=part_size)
    finally:
        journal.close()


def put(path: str, image: bytes) -> None:
    """These bytes as a file; without emptying it first, after which ext4 would write every version to the disk."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.pwrite(file, image, 0)
    os.ftruncate(file, len(image))
    os.close(file)


def read_bytes(path: str, image: bytes) -> tuple[str, Claims]:
    """What a journal of these bytes makes somebody believe; ("damaged", []) when it is worth nothing."""
    put(path, image)
    try:
        return read(path)
    except JournalDamaged:
        return "damaged", []


def header_page(pairs: dict[str, Any] | bytes, version: int = 1) -> bytes:
    """A header with a right CRC around any content."""
    if isinstance(pairs, bytes):
        head, rest = b"\x8c", pairs
    else:
        head, rest = bytes([0x82 + len(pairs)]), b"".join(msgpack.packb(k) + msgpack.packb(v) for k, v in pairs.items())
    before = head + b"\xa7fastidm\xcd" + struct.pack(">H", version) + b"\xa3crc\xce"
    after = rest.ljust(PAGE - len(before) - 4, b"\0")
    return before + struct.pack(">I", zlib.crc32(before + after)) + after


def header_fields() -> dict[str, Any]:
    return {"order": sys.byteorder, **vars(IDENTITY)}


def reboot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "boot_id"
    other.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    monkeypatch.setattr(linux, "BOOT_ID_PATH", str(other))


# --- what is written is read


def test_a_new_journal_has_the_identity_and_claims_nothing(path: str) -> None:
    journal = Journal.create(path, IDENTITY)
    assert journal.identity == IDENTITY
    assert journal.believed(part_size=TOTAL) == ("nothing", [])
    journal.close()
    journal = Journal.open(path)
    assert journal.identity == IDENTITY
    assert journal.believed(part_size=TOTAL) == ("nothing", [])
    journal.close()
    assert os.stat(path).st_mode & 0o7777 == 0o600
    assert os.stat(path).st_size == JOURNAL_SIZE


@pytest.mark.parametrize("changes", [{"etag": None}, {"last_modified": None, "birth_ns": 0}, {"total": 0}, {"etag": ""}])
def test_an_identity_without_some_of_its_fields_comes_back(path: str, changes: dict[str, Any]) -> None:
    identity = Identity(**{**vars(IDENTITY), **changes})
    Journal.create(path, identity).close()
    journal = Journal.open(path)
    assert journal.identity == identity
    journal.close()


def test_the_live_page_is_believed_by_the_next_run(path: str) -> None:
    write_journal(path)
    assert read(path) == ("live", TRUTH)


def test_claims_end_where_the_part_file_ends(path: str) -> None:
    write_journal(path)
    cut = SEGMENTS[5][2] - 10
    assert read(path, part_size=cut) == ("live", [(a, min(b, cut)) for a, b in TRUTH if a < cut])
    assert read(path, part_size=0) == ("live", [])


def test_the_table_is_an_aligned_view_of_the_file(path: str) -> None:
    journal = Journal.create(path, IDENTITY)
    assert ROWS == 254
    assert journal.table.format == "B"
    assert len(journal.table) == ROW_BYTES * ROWS
    words = journal.table.cast("q")
    words[WORDS * ROWS - 1] = 0x1122334455667788
    file = Path(path).read_bytes()
    assert file[LIVE_ROWS + ROW_BYTES * ROWS - 8 : LIVE_ROWS + ROW_BYTES * ROWS] == struct.pack("=q", 0x1122334455667788)
    assert LIVE_ROWS % 8 == 0
    words.release()
    journal.close()


def test_numpy_sees_the_rows_where_the_sink_moves_them(path: str) -> None:
    numpy = pytest.importorskip("numpy")
    journal = Journal.create(path, IDENTITY)
    rows = numpy.frombuffer(journal.table, numpy.int64).reshape(ROWS, WORDS)
    assert rows.flags.aligned
    journal.begin_epoch()
    rows[0] = (0, TOTAL, 0, ~0)
    rows[0, 2], rows[0, 3] = 4711, ~4711
    journal.close()  # with an array still over the map
    rows[0, 2], rows[0, 3] = 4712, ~4712
    assert read(path) == ("live", [(0, 4712)])
    journal.close()


def test_any_msgpack_reader_can_read_the_pages(path: str) -> None:
    image = write_journal(path)
    header, live = unpack_first(image[:PAGE]), unpack_first(image[LIVE])
    a, b = (unpack_first(image[number * PAGE :][:PAGE]) for number in SLOTS)
    assert header == {"fastidm": 1, "crc": header["crc"], **header_fields()}
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    assert live[0].hex() == boot
    assert live[2] == 1
    assert live[3] == packed(SEGMENTS).ljust(ROW_BYTES * ROWS, b"\0")
    assert sorted([a[0], b[0]]) == [1, 2]
    for sequence, epoch, flags, rows, crc in (a, b):
        assert (epoch, flags, len(rows)) == (1, 0, 16 * ROWS)
        assert sequence in (1, 2)
        assert crc < 2**32


def unpack_first(page: bytes) -> Any:
    unpacker = msgpack.Unpacker()
    unpacker.feed(page)
    return unpacker.unpack()


def test_the_url_hash_recognises_the_whole_url_and_depends_on_the_salt() -> None:
    one = hash_url("https://h/x?sig=1", SALT)
    assert 16 <= len(one) <= 32
    assert one == hash_url("https://h/x?sig=1", SALT)
    assert one != hash_url("https://h/x?sig=2", SALT)
    assert one != hash_url("https://h/x?sig=1", bytes(16))
    hash_url("https://h/\udcff", SALT)


def test_no_credentials_are_in_the_file(path: str) -> None:
    url = "https://user:hunter2@example.org/x?signature=hunter2#hunter2"
    journal = Journal.create(path, Identity(**{**vars(IDENTITY), "url": url}))
    assert b"hunter2" not in Path(path).read_bytes()
    assert b"user" not in Path(path).read_bytes()
    journal.close()


def test_what_does_not_fit_into_the_header_is_left_out(path: str) -> None:
    huge = {"etag": "e" * 5000, "last_modified": "\udcff", "url": "https://h/" + "\u20ac" * 5000}
    journal = Journal.create(path, Identity(**{**vars(IDENTITY), **huge}))
    kept = journal.identity
    assert (kept.etag, kept.last_modified) == (None, None)
    assert kept.url.startswith("https://h/\u20ac")
    journal.close()
    journal = Journal.open(path)
    assert journal.identity == kept
    journal.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"total": -1},
        {"total": True},
        {"total": 2**63},
        {"url_salt": b"short"},
        {"url_hash": bytes(33)},
        {"birth_ns": -5},
    ],
)
def test_an_impossible_identity_is_refused_before_a_file_is_made(path: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Journal.create(path, Identity(**{**vars(IDENTITY), **changes}))
    assert not os.path.exists(path)


# --- killed


CHILD = """
import os, signal, struct, sys
from fastidm.storage.journal import Journal
journal = Journal.open(sys.argv[1])
words = journal.table.cast("q")
"""


def start_child(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", CHILD + script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=environment)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(1)"])
def test_after_a_kill_exactly_what_was_stored_is_believed(path: str, end: str) -> None:
    Journal.create(path, IDENTITY).close()
    script = f"""
journal.begin_epoch(struct.pack("=8q", 0, 1000, 0, ~0, 1000, {TOTAL}, 1000, ~1000))
for position in range(1000, 2777):
    words[6], words[7] = position, ~position
words[2], words[3] = 17, ~17
{end}
"""
    with start_child(script, path) as child:
        child.communicate()
    assert child.returncode != 0
    assert read(path) == ("live", [(0, 17), (1000, 2776)])


def test_killed_anywhere_it_claims_what_the_part_file_holds(path: str, tmp_path: Path) -> None:
    part = tmp_path / "part"
    script = """
part = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
size = journal.identity.total
os.ftruncate(part, size)
source, claims = journal.believed(part_size=size)
ends = [0, 0]
for start, stop in claims:
    ends[start >= size // 2] = stop
half = size // 2
front, back = ends[0], max(ends[1], half)
if front == half < back or claims == [(0, size)]:
    front, back = half, claims[-1][1]
if front > half:
    front, back = half, front
journal.begin_epoch(struct.pack("=8q", 0, half, front, ~front, half, size, back, ~back))
rows = [row for row in range(len(words) // 4) if words[4 * row + 1]]
while True:
    for row in rows:
        position, stop = words[4 * row + 2], words[4 * row + 1]
        block = min(37, stop - position)
        os.pwrite(part, b"x" * block, position)
        words[4 * row + 2] = position + block
        words[4 * row + 3] = ~(position + block)
    os.write(1, b".")
"""
    size, before = 1 << 20, 0
    Journal.create(path, Identity(**{**vars(IDENTITY), "total": size})).close()
    for steps in (1, 2, 333, 700, 64, 1500):
        with start_child(script, path, str(part)) as child:
            assert child.stdout
            child.stdout.read(steps)
            child.kill()
        source, claims = read(path, part_size=size)
        data = part.read_bytes()
        assert source == "live"
        for start, stop in claims:
            assert data[start:stop] == b"x" * (stop - start)
        unclaimed = data.count(b"x") - sum(stop - start for start, stop in claims)
        assert 0 <= unclaimed <= 37
        written = data.count(b"x")
        assert written >= before + 2 * 37 * min(steps, 1)
        before = written


def images_at_every_line(path: str, source: str, action: Callable[[], object]) -> list[bytes]:
    """The journal's bytes as a SIGKILL would leave them, at every line that `action` runs in the file `source`."""
    images: list[bytes] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(source):
            return None
        if event == "line":
            with open(path, "rb") as file:
                images.append(file.read())
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(previous)
    images.append(Path(path).read_bytes())
    return list(dict.fromkeys(images))


def put_row_by_row(table: memoryview, segments: Segments) -> None:
    for at, segment in enumerate(segments):
        table[ROW_BYTES * at : ROW_BYTES * at + ROW_BYTES] = packed([segment])


@pytest.mark.parametrize("before", ["live", "slot", "nothing"])
def test_killed_within_the_start_of_an_epoch_it_claims_at_most_the_truth(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    if before == "nothing":
        Journal.create(path, IDENTITY).close()
    else:
        write_journal(path)
    if before == "slot":
        reboot(monkeypatch, tmp_path)
    journal = Journal.open(path)

    def resume() -> None:
        source, claims = journal.believed(part_size=TOTAL)
        assert source == before
        journal.begin_epoch(restore(TOTAL, claims, (), ROWS))

    images = images_at_every_line(path, "storage/journal.py", resume)
    journal.close()
    assert len(images) >= 4
    truth = {"live": TRUTH, "slot": OLDER_TRUTH, "nothing": []}[before]
    least = {"live": OLDER_TRUTH, "slot": OLDER_TRUTH, "nothing": []}[before]
    for image in images:
        _, claims = read_bytes(path, image)
        assert within(claims, truth)
        assert within(least, claims)
    assert read_bytes(path, images[-1]) == ("live", truth)


def test_killed_within_an_edit_of_the_segment_table_it_claims_at_most_the_truth(path: str) -> None:
    journal = Journal.create(path, IDENTITY)
    journal.begin_epoch(packed(SEGMENTS))
    table = SegmentTable(journal.table)
    rows = list(table.order)
    middle = (SEGMENTS[3][2] + SEGMENTS[3][1]) // 2
    words = journal.table.cast("q")

    def edit() -> None:
        table.split(rows[3], middle)
        for row in rows[4:7]:
            words[WORDS * row + 2] = words[WORDS * row + 1]
            words[WORDS * row + 3] = ~words[WORDS * row + 1]
        table.melt()

    truth = claimed([(a, b, b if k in (4, 5, 6) else p) for k, (a, b, p) in enumerate(SEGMENTS)])
    images = images_at_every_line(path, "core/segments.py", edit)
    assert len(images) > 10
    assert journal.believed(part_size=TOTAL) == ("live", truth)
    words.release()
    journal.close()
    for image in images:
        source, claims = read_bytes(path, image)
        assert source == "live"
        assert within(claims, truth)
        assert within(TRUTH, claims), "an edit that is cut short takes no claim away"


# --- which page is believed


def test_after_a_reboot_the_newest_slot_is_believed(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_journal(path)
    reboot(monkeypatch, tmp_path)
    assert read(path) == ("slot", OLDER_TRUTH)
    cut = OLDER[5][2] - 10
    assert read(path, part_size=cut) == ("slot", [(a, min(b, cut)) for a, b in OLDER_TRUTH if a < cut])


def test_after_another_mount_the_newest_slot_is_believed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_journal(path)
    monkeypatch.setattr(linux, "mount_id", lambda fd: 987654)
    assert read(path) == ("slot", OLDER_TRUTH)


def test_where_the_system_has_no_boot_id_the_live_page_is_never_believed(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux, "BOOT_ID_PATH", str(tmp_path / "absent"))
    write_journal(path)
    assert read(path) == ("slot", OLDER_TRUTH)


def test_a_live_page_older_than_a_slot_is_not_believed(path: str) -> None:
    stale = write_journal(path)[LIVE]
    journal = Journal.open(path)
    journal.believed(part_size=TOTAL)
    journal.begin_epoch(packed(SEGMENTS))
    journal.checkpoint(packed(OLDER))
    journal.close()
    image = Path(path).read_bytes()
    assert read_bytes(path, image[:PAGE] + stale + image[LIVE.stop :]) == ("slot", OLDER_TRUTH)


def test_a_disbelieved_live_page_cannot_come_back(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_journal(path)
    with monkeypatch.context() as patch:
        reboot(patch, tmp_path)
        journal = Journal.open(path)
        assert journal.believed(part_size=TOTAL)[0] == "slot"
        assert bytes(journal.table) == bytes(ROW_BYTES * ROWS)
        put_row_by_row(journal.table, SEGMENTS[:1])
        journal.close()
    assert read(path) == ("slot", OLDER_TRUTH)


def test_after_a_failed_sync_the_last_slot_is_believed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_journal(path)
    journal = Journal.open(path)
    journal.begin_epoch(packed(SEGMENTS))

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(owned, "sync", fail)
        journal.poison()
    assert [tuple(row) for row in SegmentTable(journal.table).snapshot()] == SEGMENTS  # a sink may still be at work
    with pytest.raises(OSError, match="earlier sync"):
        journal.checkpoint(bytes(journal.table))
    put_row_by_row(journal.table, SEGMENTS)
    journal.close()
    assert read(path) == ("slot", OLDER_TRUTH)
    journal = Journal.open(path)
    _, claims = journal.believed(part_size=TOTAL)
    journal.begin_epoch(restore(TOTAL, claims, (), ROWS))
    journal.checkpoint(bytes(journal.table))
    journal.close()
    assert read(path) == ("live", OLDER_TRUTH)


@pytest.fixture
def unmapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that maps nothing."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENODEV, "no maps here")

    monkeypatch.setattr(module.mmap, "mmap", refuse)


def test_a_kill_after_poisoning_finds_no_live_page(path: str) -> None:
    write_journal(path)
    journal = Journal.open(path)
    journal.begin_epoch(packed(SEGMENTS))
    with journal._disk:  # somebody is at the disk, and is not waited for
        journal.poison_now()
    killed = Path(path).read_bytes()
    journal.close()
    assert read_bytes(path, killed) == ("slot", OLDER_TRUTH)


def test_a_page_that_was_poisoned_while_it_was_written_is_written_again(
    path: str, unmapped: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint has begun to write the live page as it was, and nobody waited for that."""
    write_journal(path)
    journal = Journal.open(path)
    journal.begin_epoch(packed(SEGMENTS))
    write = module._write

    def late(fd: int, data: bytes, at: int) -> None:
        if at == LIVE.start:
            monkeypatch.setattr(module, "_write", write)
            journal.poison_now()
        write(fd, data, at)

    monkeypatch.setattr(module, "_write", late)
    journal.checkpoint(packed(OLDER))
    killed = Path(path).read_bytes()
    journal.close()
    assert read_bytes(path, killed) == ("slot", OLDER_TRUTH)


def test_no_flipped_bit_brings_a_poisoned_live_page_back(path: str) -> None:
    write_journal(path)
    journal = Journal.open(path)
    journal.poison()
    journal.close()
    image = bytearray(Path(path).read_bytes())
    for bit in range(8 * PAGE, 8 * (PAGE + 40)):
        image[bit // 8] ^= 1 << bit % 8
        assert read_bytes(path, bytes(image)) == ("slot", OLDER_TRUTH)
        image[bit // 8] ^= 1 << bit % 8


def test_the_same_run_can_go_on_from_the_slot_after_a_failed_sync(path: str) -> None:
    write_journal(path)
    journal = Journal.open(path)
    journal.begin_epoch(packed(SEGMENTS))
    journal.poison()
    assert journal.believed(part_size=TOTAL) == ("slot", OLDER_TRUTH)
    journal.begin_epoch(packed(OLDER))
    journal.checkpoint(bytes(journal.table))
    assert journal.believed(part_size=TOTAL) == ("live", OLDER_TRUTH)
    journal.close()


def test_rows_of_nonsense_claim_nothing(path: str) -> None:
    journal = Journal.create(path, IDENTITY)
    sane = (10 * MIB, 20 * MIB, 15 * MIB)
    nonsense = [
        (5, 9, 4),
        (5, 9, 10),
        (9, 5, 7),
        (-5, 9, 5),
        (-9, -2, -5),
        (30 * MIB, TOTAL + 1, TOTAL),
        (0, 2**63 - 1, 2**62),
        (7, 7, 7),
    ]
    journal.begin_epoch(packed([*nonsense, sane]))
    assert journal.believed(part_size=TOTAL) == ("live", [(10 * MIB, 15 * MIB)])
    journal.close()


def test_a_byte_in_two_rows_is_claimed_only_if_both_claim_it(path: str) -> None:
    journal = Journal.create(path, IDENTITY)
    journal.begin_epoch(packed([(0, 100, 60), (50, 200, 150), (300, 400, 350), (320, 400, 320), (500, 600, 600)]))
    assert journal.believed(part_size=TOTAL) == ("live", [(0, 60), (100, 150), (300, 320), (500, 600)])
    journal.close()


@pytest.mark.parametrize("torn", [None, *SLOTS])
def test_claims_that_were_withdrawn_come_back_from_no_page_and_others_do_not_become_durable_by_it(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: int | None
) -> None:
    """The part file was cut behind our back; what it is extended with again are zeros."""
    write_journal(path)
    cut = SEGMENTS[7][0] + 5
    journal = Journal.open(path)
    source, claims = journal.believed(part_size=cut)
    assert (source, claims[-1][1]) == ("live", cut)
    journal.begin_epoch(restore(TOTAL, claims, (), ROWS))
    journal.close()
    image = bytearray(Path(path).read_bytes())
    assert read(path) == ("live", claims)
    if torn:
        image[torn * PAGE : torn * PAGE + PAGE] = bytes(PAGE)
    reboot(monkeypatch, tmp_path)
    # Of what the live page alone claimed nobody knows whether the disk has it.
    assert read_bytes(path, bytes(image)) == ("slot", [(a, min(b, cut)) for a, b in OLDER_TRUTH if a < cut])


def test_the_rows_of_a_new_epoch_are_never_believed_half_copied(path: str) -> None:
    """The one store that is longer than a word: cut at each byte, old rows before it or new ones, all is one."""
    write_journal(path)
    journal = Journal.open(path)
    rows = restore(TOTAL, [(MIB, 2 * MIB)], (), ROWS)
    old = bytes(journal.table)
    images = images_at_every_line(path, "storage/journal.py", lambda: journal.begin_epoch(rows))
    journal.close()
    table = slice(LIVE_ROWS, LIVE_ROWS + len(old))
    before = [image for image in images if image[table] == old]
    after = [image for image in images if image[table] == bytes(rows)]
    assert len(before) + len(after) == len(images)
    for cut in range(ROW_BYTES * len(SEGMENTS) + 1):
        torn = before[-1][:LIVE_ROWS] + bytes(rows)[:cut] + old[cut:] + before[-1][table.stop :]
        source, claims = read_bytes(path, torn)
        assert source == "slot"
        assert within(claims, TRUTH)


def test_starting_an_epoch_that_withdraws_nothing_touches_neither_slots_nor_disk(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_journal(path)
    journal = Journal.open(path)
    _, claims = journal.believed(part_size=TOTAL)
    monkeypatch.setattr(owned, "sync", lambda fd: pytest.fail("synced"))
    monkeypatch.setattr(owned, "sync_folder", lambda folder: pytest.fail("synced"))
    journal.begin_epoch(restore(TOTAL, claims, (), ROWS))
    journal.close()
    assert Path(path).read_bytes()[SLOTS_AT:] == image[SLOTS_AT:]


# --- checkpoints


def slot_sequences(path: str) -> list[int]:
    image = Path(path).read_bytes()
    return [unpack_first(image[number * PAGE :][:PAGE])[0] for number in SLOTS]


def test_checkpoints_alternate_between_the_slots(path: str) -> None:
    journal = Journal.create(path, IDENTITY)
    seen = []
    for _ in range(4):
        journal.checkpoint(packed(OLDER))
        seen.append(slot_sequences(path))
    journal.close()
    assert sorted(seen) in ([[0, 1], [2, 1], [2, 3], [4, 3]], [[0, 1], [2, 1], [2, 3], [4, 3]])
    journal = Journal.open(path)
    journal.checkpoint(packed(OLDER))
    journal.close()
    assert slot_sequences(path) == [4, 5]


def test_a_torn_slot_leaves_the_older_one(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_journal(path)
    reboot(monkeypatch, tmp_path)
    older, newest = sorted(SLOTS, key=lambda number: unpack_first(image[number * PAGE :][:PAGE])[0])
    quarter = claimed([(a, b, a + (p - a) // 4) for a, b, p in SEGMENTS])
    for cut in range(1, 24 + 16 * len(OLDER_TRUTH) - 8):
        torn = image[older * PAGE :][:cut] + image[newest * PAGE :][cut:PAGE]
        pages = {older: image[older * PAGE :][:PAGE], newest: torn}
        source, claims = read_bytes(path, image[:PAGE] + bytes(LIVE_SIZE) + b"".join(pages[n] for n in SLOTS))
        assert source == "slot"
        assert claims in (quarter, OLDER_TRUTH)


def test_with_both_slots_torn_nothing_is_believed(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_journal(path)
    reboot(monkeypatch, tmp_path)
    assert read_bytes(path, image[:SLOTS_AT] + bytes(2 * PAGE)) == ("nothing", [])


def test_a_slot_of_another_journal_is_not_believed(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_journal(path)
    other_path = str(tmp_path / "other.fastidm")
    other = Journal.create(other_path, Identity(**{**vars(IDENTITY), "url_salt": os.urandom(16)}))
    other.checkpoint(packed([(0, TOTAL, TOTAL)]))
    other.close()
    foreign = Path(other_path).read_bytes()
    reboot(monkeypatch, tmp_path)
    assert read(other_path) == ("slot", [(0, TOTAL)])
    assert read_bytes(path, image[:SLOTS_AT] + foreign[SLOTS_AT:]) == ("nothing", [])


def test_a_checkpoint_stores_the_copy_that_it_was_given_while_the_table_moves_on(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.create(path, IDENTITY)
    journal.begin_epoch(packed([(0, TOTAL, 0)]))
    words = journal.table.cast("q")
    stop = threading.Event()

    def receive() -> None:
        while not stop.is_set():
            words[2] += 1
            words[3] = ~words[2]

    thread = threading.Thread(target=receive)
    thread.start()
    copies = []
    for _ in range(20):
        copies.append(bytes(journal.table))
        journal.checkpoint(copies[-1])
    stop.set()
    thread.join()
    position, check = struct.unpack_from("=2q", copies[-1], 16)
    last = min(position, ~check)
    assert words[2] >= last > 0
    words.release()
    journal.close()
    reboot(monkeypatch, tmp_path)
    assert read(path) == ("slot", [(0, last)])


def test_many_finished_segments_become_one_claim(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(path, IDENTITY)
    journal.checkpoint(packed([(k * 1000, k * 1000 + 1000, k * 1000 + 1000) for k in range(3 * ROWS)]))
    journal.close()
    reboot(monkeypatch, tmp_path)
    assert read(path) == ("slot", [(0, 3 * ROWS * 1000)])


def test_of_more_claims_than_fit_the_smallest_are_left_out(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(path, IDENTITY)
    sizes = [(k * 7919) % 1000 + 1 for k in range(ROWS + 31)]
    segments = [(k * 2000, k * 2000 + 2000, k * 2000 + size) for k, size in enumerate(sizes)]
    journal.checkpoint(packed(segments))
    journal.close()
    image = Path(path).read_bytes()
    sequence, epoch, flags, rows, _ = max(unpack_first(image[number * PAGE :][:PAGE]) for number in SLOTS)
    assert (sequence, epoch, flags) == (1, 0, 1)
    starts = [start for start, _ in struct.iter_unpack("=2q", rows)]
    assert starts == sorted(starts)
    reboot(monkeypatch, tmp_path)
    source, claims = read(path)
    assert source == "slot"
    assert len(claims) == ROWS
    assert within(claims, claimed(segments))
    left_out = sorted(sizes)[:31]
    assert min(stop - start for start, stop in claims) >= left_out[-1]


def test_a_checkpoint_that_failed_is_written_to_the_same_slot_again(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(path, IDENTITY)
    journal.checkpoint(packed(OLDER))
    good = slot_sequences(path).index(1)
    calls = []

    def fail(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(owned, "sync", fail)
        for _ in range(3):
            with pytest.raises(OSError, match="no"):
                journal.checkpoint(packed(SEGMENTS))
            assert slot_sequences(path)[good] == 1
    assert len(calls) == 3
    journal.checkpoint(packed(SEGMENTS))
    journal.close()
    assert slot_sequences(path)[good] == 1
    assert max(slot_sequences(path)) == 2


def test_creating_waits_for_no_disk_and_before_the_first_slot_all_that_may_not_be_there_yet_is_synced(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    write = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        steps.append(f"write {offset}")
        return write(fd, data, offset)

    def synced(fd: int) -> None:
        steps.append(f"sync {os.readlink(f'/proc/self/fd/{fd}')}")

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "fdatasync", synced)
    monkeypatch.setattr(os, "fsync", synced)
    settled = [f"sync {path}", f"sync {os.path.dirname(path)}"]
    journal = Journal.create(path, IDENTITY)
    journal.begin_epoch(packed(SEGMENTS))
    assert steps == ["write 0"]
    steps.clear()
    journal.checkpoint(packed(OLDER))
    journal.checkpoint(packed(OLDER))
    assert steps == [*settled, f"write {SLOTS[1] * PAGE}", f"sync {path}", f"write {SLOTS[0] * PAGE}", f"sync {path}"]
    journal.close()
    journal = Journal.open(path)  # the newest slot of a killed run may be in memory only
    steps.clear()
    journal.checkpoint(packed(OLDER))
    journal.checkpoint(packed(OLDER))
    assert steps == [*settled, f"write {SLOTS[1] * PAGE}", f"sync {path}", f"write {SLOTS[0] * PAGE}", f"sync {path}"]
    journal.close()
    journal = Journal.open(path)
    steps.clear()
    journal.begin_epoch(packed([(0, TOTAL, 0)]))  # withdraws what the slots claim
    assert steps == [*settled, f"write {SLOTS[1] * PAGE}", f"sync {path}", f"write {SLOTS[0] * PAGE}", f"sync {path}"]
    journal.close()


@pytest.mark.parametrize("failing", ["sync", "sync_folder"])
def test_no_slot_is_written_until_what_comes_before_it_is_on_disk(
    path: str, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    journal = Journal.create(path, IDENTITY)

    def fail(at: int | str) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(owned, failing, fail)
        for _ in range(2):
            with pytest.raises(OSError, match="no"):
                journal.checkpoint(packed(OLDER))
            assert slot_sequences(path) == [0, 0]
    journal.checkpoint(packed(OLDER))
    assert max(slot_sequences(path)) == 1
    journal.close()


def test_what_a_power_cut_leaves_of_a_journal_before_its_first_slot_is_worth_nothing(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it was synced, so any of its pages may be missing; and the live page is of another boot."""
    journal = Journal.create(path, IDENTITY)
    journal.begin_epoch(packed(SEGMENTS))
    journal.close()
    image = Path(path).read_bytes()
    reboot(monkeypatch, tmp_path)
    for missing in itertools.product([False, True], repeat=5):
        pages = [bytes(PAGE) if gone else image[at * PAGE :][:PAGE] for at, gone in enumerate(missing)]
        assert read_bytes(path, b"".join(pages)) == (("damaged" if missing[0] else "nothing"), [])
    for length in (0, 1, PAGE, 4 * PAGE):
        assert read_bytes(path, image[:length]) == ("damaged", [])


# --- every cut, every flip, garbage


def test_a_cut_journal_is_worth_nothing_at_every_length(path: str) -> None:
    write_journal(path)
    os.truncate(path, JOURNAL_SIZE + 1)
    for length in range(JOURNAL_SIZE + 1, -1, -1):
        os.truncate(path, length)
        if length != JOURNAL_SIZE:
            with pytest.raises(JournalDamaged):
                Journal.open(path)


def test_zeros_from_any_byte_on_never_make_a_larger_claim(path: str) -> None:
    image = write_journal(path)
    for length in range(JOURNAL_SIZE - 1, -1, -1):
        if not image[length]:
            continue  # nothing changes
        _, claims = read_bytes(path, image[:length] + bytes(JOURNAL_SIZE - length))
        assert within(claims, TRUTH)


class Flipper:
    """One open journal, of which single bits are flipped underneath; `reset` brings the original back."""

    def __init__(self, path: str, image: bytes) -> None:
        put(path, image)
        self.image, self.journal = image, Journal.open(path)
        self.fd = os.open(path, os.O_RDWR)

    def believed(self, bit: int) -> tuple[str, Claims]:
        at = bit // 8
        os.pwrite(self.fd, bytes([self.image[at] ^ 1 << bit % 8]), at)
        answer = self.journal.believed(part_size=TOTAL)
        if answer[0] != "live":  # then the live page was cleared
            os.pwrite(self.fd, self.image[LIVE], PAGE)
        os.pwrite(self.fd, self.image[at : at + 1], at)
        return answer

    def close(self) -> None:
        self.journal.close()
        os.close(self.fd)


@pytest.fixture
def flipper(path: str) -> Iterator[Flipper]:
    flipper = Flipper(path, write_journal(path))
    yield flipper
    flipper.close()


def test_every_flipped_bit_of_the_header_means_damage(path: str) -> None:
    image = write_journal(path)
    file = os.open(path, os.O_RDWR)
    for bit in range(8 * PAGE):
        at = bit // 8
        os.pwrite(file, bytes([image[at] ^ 1 << bit % 8]), at)
        with pytest.raises(JournalDamaged):
            Journal.open(path)
        os.pwrite(file, image[at : at + 1], at)
    os.close(file)
    assert read(path) == ("live", TRUTH)


def test_every_flipped_bit_of_the_slots_leaves_an_older_truth(flipper: Flipper) -> None:
    for bit in range(8 * SLOTS_AT, 8 * JOURNAL_SIZE):
        assert flipper.believed(bit) == ("live", TRUTH)


def test_every_flipped_bit_of_the_slots_leaves_an_older_truth_after_a_reboot(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_journal(path)
    reboot(monkeypatch, tmp_path)
    quarter = claimed([(a, b, a + (p - a) // 4) for a, b, p in SEGMENTS])
    flipper = Flipper(path, image)
    fallen_back = 0
    for bit in range(8 * SLOTS_AT, 8 * JOURNAL_SIZE):
        source, claims = flipper.believed(bit)
        assert source == "slot"
        fallen_back += claims == quarter
        assert claims in (quarter, OLDER_TRUTH)
    flipper.close()
    assert fallen_back == 8 * (24 + 16 * ROWS + 5)  # every bit of the newest slot's object counts, its padding does not


def test_no_flipped_bit_of_the_live_page_claims_more_than_the_truth(flipper: Flipper) -> None:
    for bit in range(8 * LIVE.start, 8 * LIVE.stop):
        source, claims = flipper.believed(bit)
        assert source in ("live", "slot")
        assert within(claims, TRUTH)
        assert within(OLDER_TRUTH, claims)  # what is on disk is never lost to a damaged row


def test_a_position_lost_to_a_flipped_bit_costs_only_its_own_segment(flipper: Flipper) -> None:
    kept = [(a, b, a if k == 3 else p) for k, (a, b, p) in enumerate(SEGMENTS)]
    for word in (2, 3):
        for bit in range(64):
            _, claims = flipper.believed(8 * (LIVE_ROWS + ROW_BYTES * 3 + 8 * word) + bit)
            assert within(claimed(kept), claims)


def test_a_sample_of_flips_through_a_fresh_open(path: str) -> None:
    image = write_journal(path)
    for bit in range(11, 8 * JOURNAL_SIZE, 97):
        flipped = bytearray(image)
        flipped[bit // 8] ^= 1 << bit % 8
        source, claims = read_bytes(path, bytes(flipped))
        assert source == ("damaged" if bit < 8 * PAGE else source)
        assert within(claims, TRUTH)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_in_any_table_never_makes_a_larger_claim(scratch: Path, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, TOTAL - 1), max_size=ROWS - 1)))
    segments = [
        (a, b, data.draw(st.one_of(st.just(a), st.just(b), st.integers(a, b))))
        for a, b in zip([0, *cuts], [*cuts, TOTAL], strict=True)
    ]
    path = fresh(scratch)
    journal = Journal.create(path, IDENTITY)
    journal.begin_epoch(packed(data.draw(st.permutations(segments))))
    assert journal.believed(part_size=TOTAL) == ("live", claimed(segments))
    at, bit = data.draw(st.integers(0, ROW_BYTES * len(segments) - 1)), data.draw(st.integers(0, 7))
    journal.table[at] ^= 1 << bit
    _, claims = journal.believed(part_size=TOTAL)
    assert within(claims, claimed(segments))
    journal.close()


@given(st.integers(0, JOURNAL_SIZE + 10) | st.just(JOURNAL_SIZE), st.randoms(use_true_random=False), st.binary())
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_no_journal(scratch: Path, size: int, source: random.Random, start: bytes) -> None:
    image = (start + random.Random(source.random()).randbytes(size))[:size]
    path = fresh(scratch)
    assert read_bytes(path, image) == ("damaged", [])


@given(st.integers(SLOTS_AT, JOURNAL_SIZE - 1), st.binary(min_size=1, max_size=5000), st.booleans())
@settings(max_examples=150, deadline=None)
def test_garbage_in_the_slots_never_makes_a_larger_claim(scratch: Path, at: int, garbage: bytes, live: bool) -> None:
    path = fresh(scratch)
    image = bytearray(write_journal(path))
    garbage = garbage[: JOURNAL_SIZE - at]
    image[at : at + len(garbage)] = garbage
    if not live:
        image[LIVE] = bytes(LIVE_SIZE)
    source, claims = read_bytes(path, bytes(image))
    assert source in (("live",) if live else ("slot", "nothing"))
    assert within(claims, TRUTH if live else OLDER_TRUTH)


@given(st.integers(LIVE.start, LIVE.stop - 1), st.binary(min_size=1, max_size=500))
@settings(max_examples=150, deadline=None)
def test_garbage_in_the_live_page_claims_nothing_outside_the_file(scratch: Path, at: int, garbage: bytes) -> None:
    path = fresh(scratch)
    image = bytearray(write_journal(path))
    garbage = garbage[: LIVE.stop - at]
    image[at : at + len(garbage)] = garbage
    source, claims = read_bytes(path, bytes(image))
    assert source in ("live", "slot")
    assert claims == sorted(claims)
    bounds = [0, *(edge for claim in claims for edge in claim), TOTAL]
    assert bounds == sorted(bounds)


# --- hostile headers


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from([*header_fields()]), VALUES)
@settings(max_examples=200, deadline=None)
def test_a_header_field_of_another_type_is_damage(scratch: Path, name: str, value: Any) -> None:
    path = fresh(scratch)
    image = header_page({**header_fields(), name: value}) + bytes(JOURNAL_SIZE - PAGE)
    put(path, image)
    try:
        journal = Journal.open(path)
    except JournalDamaged:
        return
    kept = journal.identity
    journal.close()
    assert getattr(kept, name, value) == value
    assert type(kept.total) is type(kept.device) is type(kept.inode) is type(kept.birth_ns) is int
    assert 0 <= kept.total < 2**63
    assert 0 <= kept.birth_ns < 2**63
    assert min(kept.device, kept.inode) >= 0
    assert isinstance(kept.url, str)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total", True),
        ("total", -1),
        ("total", 2**63),
        ("total", 1.0),
        ("birth_ns", 2**63),
        ("inode", -1),
        ("etag", b"bytes"),
        ("etag", "e" * 1025),
        ("url", 7),
        ("url", None),
        ("url_salt", "text that is long"),
        ("url_salt", b""),
        ("url_hash", bytes(33)),
        ("order", "big" if sys.byteorder == "little" else "little"),
        ("order", None),
        ("more", 1),
    ],
)
def test_a_header_with_a_wrong_value_is_damage(path: str, name: str, value: Any) -> None:
    assert read_bytes(path, header_page(header_fields()) + bytes(JOURNAL_SIZE - PAGE)) == ("nothing", [])
    assert read_bytes(path, header_page({**header_fields(), name: value}) + bytes(JOURNAL_SIZE - PAGE)) == ("damaged", [])


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xa1a\xdd\xff\xff\xff\xff",
        b"\xa1a\xdf\xff\xff\xff\xff",
        b"\xa1a\xdb\xff\xff\xff\xff",
        b"\xa1a\xc6\xff\xff\xff\xff",
        b"\xa1a\xc9\xff\xff\xff\xff\x01",
        b"\xa1a\xc7\x0c\xff" + b"\xff" * 12,
        b"\xa1a" + b"\x91" * 4000,
        b"\xa1a" + b"\x81\xa1a" * 1300,
        b"\xa1a" + b"\xc1" * 10,
        b"\xa1a\xda\x03\xff" + b"\xff" * 1023,
        b"\x91\x01\x02",
        b"\xc0" * 4000,
        b"",
    ],
    ids=lambda bomb: bomb[:8].hex() or "empty",
)
def test_a_msgpack_bomb_is_damage_within_ten_milliseconds_and_little_memory(path: str, bomb: bytes) -> None:
    put(path, header_page(bomb) + bytes(JOURNAL_SIZE - PAGE))
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        with pytest.raises(JournalDamaged):
            Journal.open(path)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.010
    tracemalloc.start()
    try:
        with pytest.raises(JournalDamaged):
            Journal.open(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_the_worst_tables_are_read_within_ten_milliseconds(path: str) -> None:
    journal = Journal.create(path, IDENTITY)
    nested = [(k, TOTAL - k, TOTAL // 2 + k) for k in range(ROWS)]
    seconds = []
    for rows in (nested, [(0, TOTAL, TOTAL)] * ROWS, [(k * 9, TOTAL, k * 9 + 5) for k in range(ROWS)]):
        journal.begin_epoch(packed(rows))
        journal.close()
        begin = time.perf_counter()
        journal = Journal.open(path)
        journal.believed(part_size=TOTAL)
        seconds.append(time.perf_counter() - begin)
    journal.close()
    assert min(seconds) < 0.010


@pytest.mark.parametrize("size", [PAGE, JOURNAL_SIZE, 3 * JOURNAL_SIZE])
def test_a_journal_of_a_newer_version_is_named_and_left_alone(path: str, size: int) -> None:
    image = header_page({"anything": [1, 2, 3]}, version=2).ljust(size, b"\7")
    put(path, image)
    with pytest.raises(JournalVersionError, match=r"big\.iso was written by a newer") as caught:
        Journal.open(path)
    assert caught.value.exit_code == 20
    assert caught.value.hint
    assert Path(path).read_bytes() == image


def test_a_version_that_never_was_is_damage(path: str) -> None:
    assert read_bytes(path, header_page(header_fields(), version=0) + bytes(JOURNAL_SIZE - PAGE)) == ("damaged", [])


# --- the file and its lock


def test_an_absent_journal_is_a_file_not_found(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        Journal.open(path)
    Journal.discard(path)


def test_a_journal_held_by_another_process_is_locked_until_that_is_killed(path: str) -> None:
    Journal.create(path, IDENTITY).close()
    with start_child("os.write(1, b'.'); sys.stdin.read()", path) as child:
        assert child.stdout
        assert child.stdout.read(1) == b"."
        with pytest.raises(LockedError, match=r"big\.iso") as caught:
            Journal.open(path)
        assert caught.value.exit_code == 11
        with pytest.raises(LockedError):
            Journal.discard(path)
        assert os.path.exists(path)
        child.kill()
        child.wait()
        Journal.open(path).close()


def test_a_journal_replaced_between_open_and_lock_is_opened_anew(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal.create(path, IDENTITY).close()
    newer = Journal.create(path + ".new", Identity(**{**vars(IDENTITY), "total": 4711}))
    newer.close()
    flock = fcntl.flock

    def replace_first(fd: int, operation: int) -> None:
        if os.path.exists(path + ".new"):
            os.replace(path + ".new", path)
        flock(fd, operation)

    before = sorted(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "flock", replace_first)
    journal = Journal.open(path)
    assert journal.identity.total == 4711
    journal.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_creating_never_replaces_what_is_there(path: str, tmp_path: Path) -> None:
    Path(path).write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        Journal.create(path, IDENTITY)
    assert Path(path).read_bytes() == b"mine"
    os.unlink(path)
    os.symlink(tmp_path / "victim", path)
    with pytest.raises(FileExistsError):
        Journal.create(path, IDENTITY)
    assert not (tmp_path / "victim").exists()


def test_creating_yields_to_a_process_that_locked_the_new_file_first(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(fd: int, operation: int) -> None:
        raise BlockingIOError(errno.EWOULDBLOCK, "held")

    monkeypatch.setattr(fcntl, "flock", held)
    with pytest.raises(LockedError):
        Journal.create(path, IDENTITY)
    assert os.path.exists(path)  # it is the other's now


def test_a_full_disk_at_creation_leaves_no_file(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        Journal.create(path, IDENTITY)
    assert not os.path.exists(path)


def test_a_full_disk_at_opening_is_an_error_and_not_a_signal(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The live page of a sparse copy has no block: the first store into the map would be a SIGBUS."""
    image = write_journal(path)
    writes: list[tuple[int, int]] = []

    def full(fd: int, data: bytes, offset: int) -> int:
        writes.append((len(data), offset))
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="full"):
            Journal.open(path)
    assert writes == [(PAGE, PAGE)]
    assert read_bytes(path, image) == ("live", TRUTH)


def test_a_page_that_the_disk_cannot_read_costs_that_page_alone(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_journal(path)
    pread = os.pread
    for bad, expected in ((1, ("slot", OLDER_TRUTH)), (0, ("damaged", [])), (2, ("live", TRUTH)), (3, ("live", TRUTH))):

        def broken(fd: int, size: int, offset: int, bad: int = bad) -> bytes:
            if offset <= bad * PAGE < offset + size:
                raise OSError(errno.EIO, "bad sector")
            return pread(fd, size, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", broken)
            assert read_bytes(path, image) == expected


def test_a_planted_link_is_refused_and_its_target_unchanged(path: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    write_journal(str(victim))
    before = victim.read_bytes()
    os.symlink(victim, path)
    for opening in (Journal.open, Journal.discard):
        with pytest.raises(UnsafePathError):
            opening(path)
    os.unlink(path)
    os.link(victim, path)
    with pytest.raises(UnsafePathError):
        Journal.open(path)
    assert victim.read_bytes() == before


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_planted_folder_or_pipe_is_refused_at_once(path: str, make: Callable[[str], None]) -> None:
    make(path)
    with pytest.raises(UnsafePathError):
        Journal.open(path)


def test_a_file_of_another_user_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_journal(path)
    give_away(monkeypatch)
    with pytest.raises(UnsafePathError, match="another user"):
        Journal.open(path)
    with pytest.raises(UnsafePathError, match="another user"):
        Journal.discard(path)
    assert os.path.exists(path)


def give_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every open file belonged to somebody else; folders stay as they are."""
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        facts = real(fd)
        return os.stat_result([*facts[:4], facts.st_uid + 1, *facts[5:]])

    monkeypatch.setattr(os, "fstat", fstat)


def test_where_a_mount_says_who_owns_everything_the_journal_is_believed_whatever_its_mode(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_journal(path)
    os.chmod(path, 0o777)
    owner = os.stat(os.path.dirname(path)).st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert read(path) == ("live", TRUTH)
    Journal.discard(path)
    assert not os.path.exists(path)


def test_a_journal_that_others_may_write_is_worth_nothing(path: str) -> None:
    write_journal(path)
    os.chmod(path, 0o620)
    with pytest.raises(JournalDamaged):
        Journal.open(path)
    Journal.discard(path)
    assert not os.path.exists(path)


def test_a_damaged_journal_gives_its_lock_back_and_can_be_discarded(path: str) -> None:
    Path(path).write_bytes(b"")
    with pytest.raises(JournalDamaged):
        Journal.open(path)
    Journal.discard(path)
    Journal.create(path, IDENTITY).close()


def test_closing_keeps_the_file_gives_the_lock_back_and_may_be_done_twice(path: str) -> None:
    journal = Journal.create(path, IDENTITY)
    held = array("B", journal.table[:1])
    view = memoryview(journal.table)
    words = view.cast("q")  # keeps the map alive, and with it a duplicate of the locked descriptor
    journal.close()
    journal.close()
    journal.poison()
    journal.remove()
    assert held[0] == 0
    assert words[0] == 0
    again = Journal.open(path)
    again.close()
    for action in (lambda: journal.checkpoint(b""), journal.begin_epoch, lambda: journal.believed(part_size=1)):
        with pytest.raises(OSError):
            action()


def test_closing_leaves_no_descriptor_behind(path: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        write_journal(path)
        read(path)
        os.unlink(path)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_removing_deletes_the_journal_but_not_its_successor(path: str) -> None:
    journal = Journal.create(path, IDENTITY)
    journal.remove()
    assert not os.path.exists(path)
    journal = Journal.create(path, IDENTITY)
    os.unlink(path)
    Path(path).write_bytes(b"somebody else's")
    journal.remove()
    assert Path(path).read_bytes() == b"somebody else's"


def test_removing_works_from_another_folder(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(path))
    journal = Journal.create(os.path.basename(path), IDENTITY)
    monkeypatch.chdir("/")
    journal.remove()
    assert not os.path.exists(path)


def test_closing_waits_for_a_running_checkpoint(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(path, IDENTITY)
    syncing, go_on = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        syncing.set()
        assert go_on.wait(10)
        os.fdatasync(fd)

    monkeypatch.setattr(owned, "sync", slow)
    checkpoint = threading.Thread(target=journal.checkpoint, args=(packed(OLDER),))
    closing = threading.Thread(target=journal.close)
    checkpoint.start()
    assert syncing.wait(10)
    closing.start()
    with pytest.raises(LockedError):
        Journal.open(path)
    go_on.set()
    checkpoint.join()
    closing.join()
    assert max(slot_sequences(path)) == 1
