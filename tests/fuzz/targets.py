"""One function for each parser of input that others choose: it takes bytes, and asserts what the parser promises.

Rules of this module: a target raises `AssertionError` for a broken promise and lets every exception through that is not
documented; it never fails for bad input. What is promised is said here in other words than in the code, where that is possible.
"""

from __future__ import annotations

import base64
import math
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import cache

from fastidm.cli.arguments import Command, TextRequested, parse
from fastidm.core.redirect import follow, origin
from fastidm.core.response import (
    Accepted,
    Again,
    Content,
    Head,
    RangeIgnored,
    Redirected,
    Refused,
    WithoutRange,
    content_length,
    judge,
    parse_content_range,
    parse_unsatisfied,
    promised_digest,
)
from fastidm.core.retry import parse_http_date, retry_after
from fastidm.core.segments import ROW_BYTES
from fastidm.errors import FastidmError, JournalVersionError, RedirectError, UsageError, printable, redact
from fastidm.net.errors import trouble_of
from fastidm.net.setup import ascii_url
from fastidm.net.transfers import parse_head
from fastidm.options import Options, check_url, parse_checksum, parse_size
from fastidm.storage.journal import Journal, JournalDamaged
from fastidm.storage.naming import name_from_disposition, name_from_url, numbered, safe_name
from fastidm.storage.pages import (
    JOURNAL_SIZE,
    PAGE,
    Identity,
    claims_of,
    live_epoch,
    pack_header,
    raw_epoch,
    read_header,
    read_slot,
)
from tests.support.names import faults_of

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
"""Name -> target."""

LARGEST = (1 << 63) - 1
HERE = "https://user.test:8443/a/b?key=1"
SECRET = "s3cret"


def target(function: Target) -> Target:
    TARGETS[function.__name__] = function
    return function


# ---------------------------------------------------------------------- the journal


def _assert_claims(claims: list[tuple[int, int]], limit: int) -> None:
    """Sorted, disjoint, merged, and within the file."""
    reach = -1
    for start, stop in claims:
        assert reach < start < stop <= limit, claims
        reach = stop


@target
def journal_header(data: bytes) -> None:
    """The first byte says whether the CRC is made right, so that what lies behind it is reached."""
    page = data[1 : 1 + PAGE].ljust(PAGE, b"\0")
    if data[:1] > b"\x7f":
        crc = zlib.crc32(page[21:], zlib.crc32(page[:17]))
        page = page[:17] + struct.pack(">I", crc) + page[21:]
    try:
        identity, crc = read_header(page, "x")
    except (JournalDamaged, JournalVersionError):
        return
    assert 0 <= crc < 1 << 32
    assert 0 <= identity.total <= LARGEST and 0 <= identity.birth_ns <= LARGEST
    assert 0 <= identity.device < 1 << 64 and 0 <= identity.inode < 1 << 64
    for text in (identity.url, identity.etag or "", identity.last_modified or ""):
        assert isinstance(text, str) and len(text) <= 1024
    for key in (identity.url_salt, identity.url_hash):
        assert isinstance(key, bytes) and 16 <= len(key) <= 32
    pack_header(identity)


@target
def journal_slot(data: bytes) -> None:
    """The first byte says whether the CRC is made right."""
    page = data[1 : 1 + PAGE].ljust(PAGE, b"\0")
    if data[:1] > b"\x7f":
        at = _slot_crc_at()
        page = page[:at] + b"\xce" + struct.pack(">I", zlib.crc32(page[:at], 7)) + page[at + 5 :]
    slot = read_slot(page, 7)
    if slot is None:
        return
    assert 0 <= slot.sequence <= LARGEST and 0 <= slot.epoch <= LARGEST
    assert all(len(claim) == 2 and all(type(at) is int for at in claim) for claim in slot.claims)


@cache
def _slot_crc_at() -> int:
    """Where a slot's CRC is: the first place whose change makes a good slot a bad one, and whose content is the CRC."""
    from fastidm.storage.pages import pack_slot

    page = pack_slot(1, 1, [(0, 5)], 7)
    return next(at for at in range(PAGE - 5) if page[at : at + 5] == b"\xce" + struct.pack(">I", zlib.crc32(page[:at], 7)))


@target
def journal_rows(data: bytes) -> None:
    """Eight bytes are the file's size, the rest are rows."""
    total = int.from_bytes(data[:8].ljust(8, b"\0"), "little") >> 1
    rows = data[8:]
    rows = rows[: len(rows) // ROW_BYTES * ROW_BYTES]
    claims = claims_of(rows, total)
    _assert_claims(claims, total)
    honest = []
    for start, stop, position, check in struct.iter_unpack("=4q", rows):
        if 0 <= start < stop <= total:
            honest.append((start, min(stop, position, ~check)))
    for start, stop in claims:  # every byte of it is claimed by a row
        at = start
        while at < stop:
            reach = max((end for begin, end in honest if begin <= at < end), default=at)
            assert reach > at, (start, stop, honest)
            at = reach


@target
def journal_live(data: bytes) -> None:
    boot, mount = data[:16], int.from_bytes(data[16:24].ljust(8, b"\0"), "big")
    head = data[24:]
    assert 0 <= raw_epoch(head) < LARGEST
    assert live_epoch(head, boot, mount) in (0, raw_epoch(head))
    assert live_epoch(head, b"", mount) == live_epoch(head, boot, None) == 0


TOTAL = 1 << 22
CLAIMS = [(0, 70_000), (1 << 20, 3 << 19), (TOTAL - 5000, TOTAL)]
"""What the slots of the journal of `journal_file` claim; its live page claims up to 4096 bytes more of each."""


@cache
def _workshop() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fastidm-fuzz-")


@cache
def _image() -> bytes:
    """A good journal of this boot and this folder."""
    from fastidm.core.segments import restore

    path = os.path.join(_workshop().name, "made.fastidm")
    journal = Journal.create(path, Identity(TOTAL, '"1"', None, "http://h/x", b"s" * 16, b"h" * 32, 1, 2, 3))
    capacity = len(journal.table) // ROW_BYTES
    now = [(start, min(TOTAL, stop + 4096)) for start, stop in CLAIMS]
    journal.begin_epoch(bytes(restore(TOTAL, CLAIMS, (), capacity)))
    journal.checkpoint(bytes(journal.table))
    journal.begin_epoch(bytes(restore(TOTAL, now, (), capacity)))
    journal.close()
    with open(path, "rb") as file:
        image = file.read()
    os.unlink(path)
    assert len(image) == JOURNAL_SIZE
    return image


@target
def journal_file(data: bytes) -> None:
    """A good journal with changes: two bytes where, one byte what, and so on; the first byte says whether it is cut as well."""
    image, changes = bytearray(_image()), data[1:]
    for at in range(0, len(changes) - 2, 3):
        image[int.from_bytes(changes[at : at + 2], "big") % JOURNAL_SIZE] ^= changes[at + 2]
    if data[:1] > b"\xc0":
        image = image[: int.from_bytes(data[:2], "big") * JOURNAL_SIZE >> 16]
    path = os.path.join(_workshop().name, "x.fastidm")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, image)
    os.close(fd)
    try:
        journal = Journal.open(path)
    except (JournalDamaged, JournalVersionError):
        return
    try:
        how, claims = journal.believed(part_size=TOTAL)
        assert how in ("live", "slot", "nothing")
        _assert_claims(claims, TOTAL)
        if len(changes) < 6:  # one byte at the most: never a larger claim
            most = [(start, min(TOTAL, stop + 4096)) for start, stop in CLAIMS]
            assert all(any(a <= start and stop <= b for a, b in most) for start, stop in claims), claims
        journal.begin_epoch()
        assert journal.believed(part_size=TOTAL)[1] == []
    finally:
        journal.close()


# ---------------------------------------------------------------------- answers


def _digits(number: int, text: str) -> bool:
    return text.strip().lstrip("0") == (str(number) if number else "")


@target
def content_range(data: bytes) -> None:
    text = data.decode("latin-1")
    found = parse_content_range(text)
    if found is None:
        return
    first, last, total = found
    assert 0 <= first <= last <= LARGEST
    assert total is None or last < total <= LARGEST
    span, _, size = text.strip()[5:].partition("/")
    assert text.strip().lower().startswith("bytes")
    assert _digits(first, span.partition("-")[0]) and _digits(last, span.partition("-")[2])
    assert size == "*" if total is None else _digits(total, size)


@target
def unsatisfied_range(data: bytes) -> None:
    text = data.decode("latin-1")
    total = parse_unsatisfied(text)
    if total is not None:
        assert 0 <= total <= LARGEST
        assert _digits(total, text.partition("*/")[2])


@target
def length(data: bytes) -> None:
    fields = tuple(("content-length", line) for line in data.decode("latin-1").split("\n"))
    try:
        found = content_length(Head(200, fields))
    except ValueError:
        return
    assert found is not None and 0 <= found <= LARGEST
    for _, value in fields:  # every length that was sent is this one
        assert all(_digits(found, part) for part in value.split(","))


@target
def digest(data: bytes) -> None:
    fields = tuple(("repr-digest", line) for line in data.decode("latin-1").split("\n"))
    found = promised_digest(Head(200, fields))
    if found is not None:
        assert found in [parse_checksum(f"{name}:{found[1]}") for name in ("sha256", "sha512") if name == found[0]]
        sent = base64.b64encode(bytes.fromhex(found[1])).decode()
        known = sent.rstrip("=")[:-1]  # the last letter has bits that are not of the digest
        assert any(f":{known}" in value for _, value in fields)


@target
def retry_after_field(data: bytes) -> None:
    text = data.decode("latin-1")
    for now in (0.0, 1.8e9):
        seconds = retry_after(text, now)
        assert seconds is None or (seconds >= 0 and math.isfinite(seconds))
    when = parse_http_date(text)
    assert when is None or math.isfinite(when)


@target
def head(data: bytes) -> None:
    found = parse_head(data.splitlines(keepends=True))
    assert type(found.status) is int
    for name, value in found.fields:
        assert name == name.strip().lower() and value == value.strip()
        assert "\n" not in name + value


PINNED = (None, Content(), Content(100), Content(100, '"a"', None), Content(1 << 40, 'W/"b"', "Sun, 06 Nov 1994 08:49:37 GMT"))
ASKED = ((None, None), (0, None), (0, 99), (50, 79), (99, 99), ((1 << 40) - 1, None))


@target
def verdict(data: bytes) -> None:
    """Two bytes choose what was asked for and what is known; the rest is the head."""
    choice, text = int.from_bytes(data[:2], "big"), data[2:]
    first, last = ASKED[choice % len(ASKED)]
    pinned = PINNED[choice // 8 % len(PINNED)]
    answer = parse_head(text.splitlines(keepends=True))
    found = judge(answer, first, last, pinned, 1.8e9, probe=bool(choice & 0x8000))
    if isinstance(found, Again | Refused | WithoutRange):
        assert isinstance(found.error, FastidmError)
        assert found.error.message.isprintable()
        return
    if isinstance(found, Redirected):
        assert answer.get("location")
        return
    total = found.content.total
    assert total is None or 0 <= total <= LARGEST
    if pinned is not None and None not in (pinned.total, total):
        assert total == pinned.total
    if isinstance(found, RangeIgnored):
        assert answer.status == 200 and first
        return
    assert isinstance(found, Accepted)
    assert answer.status in (200, 206, 416)
    if answer.status == 416:
        assert (found.start, found.stop, total) == (0, 0, 0), "an empty file"
        return
    assert found.start == (first or 0)
    assert answer.status == 206 or found.start == 0, "a whole file never lands elsewhere"
    if answer.status == 206:
        assert first is not None and found.stop is not None and total is not None
        assert parse_content_range(answer.get("content-range") or "") is not None
    if found.stop is not None:
        assert found.start <= found.stop <= LARGEST
        assert total is None or found.stop <= total
    assert all(value.strip().lower() in ("", "identity") for value in answer.all("content-encoding"))


# ---------------------------------------------------------------------- names


@target
def content_disposition(data: bytes) -> None:
    name = name_from_disposition(data.decode("latin-1"))
    if name is not None:
        assert faults_of(name) == [], ascii(name)
        assert safe_name(name) == name
        assert len(os.fsencode(numbered(name, 123) + ".fastidm")) <= 255


@target
def url_name(data: bytes) -> None:
    name = name_from_url(data.decode("utf-8", "surrogateescape"))
    assert faults_of(name) == [], ascii(name)
    assert safe_name(name) == name


# ---------------------------------------------------------------------- addresses


@target
def redirect(data: bytes) -> None:
    location = data.decode("latin-1")
    for here in (HERE, "http://user.test/"):
        there = follow(here, location, 1, 20)
        if isinstance(there, RedirectError):
            assert there.message.isprintable()
            continue
        scheme = there.partition("://")[0].lower()
        assert scheme in ("http", "https") and there.isascii() and there.isprintable() and " " not in there
        assert scheme == "https" or not here.startswith("https")
        assert ascii_url(there) == there
        assert "\n" not in origin(there)
        if origin(there) == origin(here):  # it gets the secrets: so it says so itself
            named = re.match(r"([a-z][a-z0-9+.-]*:)?//[^/?#]", location.strip(" \t"), re.IGNORECASE)
            assert not named or "user.test" in location.lower()


@target
def shown_url(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for url in (text, f"http://{text}"):
        shown = redact(url)
        assert shown.isprintable()
        assert redact(shown) == shown
    if not set(text) & set("@/?#"):
        assert SECRET not in redact(f"http://{text}:{SECRET}@host/") + redact(f"http://host/?{text}{SECRET}")
        assert SECRET not in redact(f"{text}{SECRET}@host") + redact(f"host/#{SECRET}{text}")
    assert printable(text).isprintable()
    assert SECRET not in trouble_of(5, f"Unsupported proxy syntax in 'http://ann:{text}{SECRET}@host': {text}")[1]


def _assert_shows_no_secret(error: FastidmError) -> None:
    assert error.message
    assert SECRET not in error.message + error.hint


@target
def user_url(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        check_url(text)
    except UsageError as error:
        _assert_shows_no_secret(error)
        return
    assert text.lower().startswith(("http://", "https://")) and text.isprintable() and " " not in text
    assert ascii_url(text).isascii()
    assert len(origin(text)) > len("http://")


# ---------------------------------------------------------------------- options


@target
def checksum(data: bytes) -> None:
    try:
        algorithm, digest = parse_checksum(data.decode("utf-8", "surrogateescape"))
    except UsageError:
        return
    assert algorithm and set(digest) <= set("0123456789abcdef") and len(digest) in range(8, 257)


@target
def size(data: bytes) -> None:
    try:
        found = parse_size(data.decode("utf-8", "surrogateescape"))
    except UsageError:
        return
    assert 0 <= found < 1 << 62


@target
def arguments(data: bytes) -> None:
    """Arguments with zero bytes between them."""
    words = data.decode("utf-8", "surrogateescape").split("\0")
    if any("@" in word and "://" not in word for word in words):
        return  # a file to read from: it would depend on this machine
    try:
        command = parse(words, {"FASTIDM_PASSWORD": SECRET})
    except UsageError as error:
        _assert_shows_no_secret(error)
    except TextRequested:
        pass
    else:
        assert isinstance(command, Command) and command.urls
        assert isinstance(command.options, Options)
        assert SECRET not in repr(command.options)
