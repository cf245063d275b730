"""The pages of a journal as bytes: header, live page (of two), two slots. `docs/journal.md` draws them.

Rules of this module:

* Pure functions: no file, no clock. `journal.py` decides what is read and written when.
* Sizes are checked before anything is parsed; only the header, behind its CRC, goes through a msgpack parser.
* Whatever cannot be is no claim: a reader here answers less than there is, never more.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections import namedtuple

from fastidm.core.segments import merge
from fastidm.errors import JournalVersionError, redact
from fastidm.records import names, record, replace

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import NamedTuple

VERSION = 1
PAGE = 4096
LIVE, SLOTS = 1, (3, 4)
"""Where the pages are; the header is page 0."""
LIVE_SIZE = 2 * PAGE
JOURNAL_SIZE = 5 * PAGE

ROW = struct.Struct("=4q")
"""One row of the live table, see `core.segments`."""
_CLAIM = struct.Struct("=2q")
# Outside the rows all is msgpack, so big-endian; every number has its widest encoding, so that offsets are constant.
_LIVE = struct.Struct(">BBB16sBQBQBH")  # array of 4: boot id (bin 8), mount id, epoch (uint 64), rows (bin 16)
_SLOT = struct.Struct(">BBQBQBBBH")  # array of 5: sequence, epoch (uint 64), flags (uint 8), claims (bin 16), crc ...
_SLOT_CRC = struct.Struct(">BI")  # ... (uint 32)
LIVE_HEAD = _LIVE.size
"""Bytes of the live page before its rows."""
BOOT, MOUNT, EPOCH = slice(3, 19), slice(20, 28), slice(29, 37)
"""Where these values are within the live page."""

ROWS = (LIVE_SIZE - _LIVE.size) // ROW.size
"""Rows of the live table, and claims of a slot."""
TABLE_BYTES = ROWS * ROW.size
_CLAIM_BYTES = ROWS * _CLAIM.size
_NO_CLAIMS = bytes(_CLAIM_BYTES)
assert _LIVE.size % 8 == 0
assert _SLOT.size + _CLAIM_BYTES + _SLOT_CRC.size <= PAGE

# The header's first 21 bytes are the same in every version that will ever be: map, "fastidm": version, "crc": crc.
_HEADER = struct.Struct(">B9sH5sI")
_MAGIC, _CRC_KEY = b"\xa7fastidm\xcd", b"\xa3crc\xce"
_MAX_TEXT = 1024  # bytes of a validator or of the URL
_MAX_INT = 2**63 - 1
_LEFT_OUT = 1  # slot flag: there were more claims than rows, the smallest are missing

Claims = list[tuple[int, int]]
"""Sorted, disjoint, merged byte ranges [start, stop)."""


class JournalDamaged(Exception):
    """Worth nothing: not a journal, cut, altered, or writable by others. Never leaves `fastidm.storage`."""


@record(frozen=True)
class Identity:
    """What the claims are about: one content at one URL, in one part file."""

    total: int
    """Bytes."""
    etag: str | None
    last_modified: str | None
    url: str
    """As people may read it, see `fastidm.errors.redact`; may be shortened, so compare `url_hash`."""
    url_salt: bytes
    url_hash: bytes
    """See `hash_url`."""
    device: int
    inode: int
    birth_ns: int
    """Nanoseconds since 1970; 0: unknown."""


_KEYS = {"fastidm", "crc", "order", *names(Identity)}


if TYPE_CHECKING:

    class Slot(NamedTuple):
        """What a slot holds; of two, the greater one is the newer."""

        sequence: int
        epoch: int
        claims: Claims

else:  # the same, without importing typing
    Slot = namedtuple("Slot", ("sequence", "epoch", "claims"))


def hash_url(url: str, salt: bytes) -> bytes:
    """32 bytes that recognise `url`, secrets in it included, without telling them; `salt`: 16 bytes of `os.urandom`."""
    import hashlib

    return hashlib.sha256(salt + url.encode("utf-8", "surrogatepass")).digest()


# ---------------------------------------------------------------------- claims


def claims_of(rows: bytes, total: int) -> Claims:
    """What `rows` claim beyond doubt of a file of `total` bytes.

    A row that cannot be claims nothing, and of its two positions the lesser counts. A byte inside two rows is not claimed
    either, as one of them is wrong about its bounds (an edit was cut short, or a bit flipped), unless both claim it: they
    are not wrong together.
    """
    rows = rows[: -(-len(rows.rstrip(b"\0")) // ROW.size) * ROW.size]
    segments = sorted(
        (start, stop, max(start, min(position, ~check)))
        for start, stop, position, check in ROW.iter_unpack(rows)
        if 0 <= start < stop <= total and min(position, ~check) <= stop
    )
    reach, disjoint = 0, True
    for start, stop, _ in segments:
        disjoint &= start >= reach
        reach = stop
    return merge([(start, position) for start, _, position in segments] if disjoint else _undisputed(segments), total)


def _undisputed(segments: list[tuple[int, int, int]]) -> Claims:
    """The claimed ranges inside one row only, or claimed by two at least."""
    edges = []
    for start, stop, position in segments:
        edges += [(start, 1, 1), (position, 0, -1), (stop, -1, 0)]
    edges.sort()
    found, inside, claimed, last = [], 0, 0, 0
    for at, row, claim in edges:
        if at > last and (claimed > 1 or claimed == inside == 1):
            found.append((last, at))
        inside, claimed, last = inside + row, claimed + claim, at
    return found


def common(one: Claims, other: Claims) -> Claims:
    """What both claim."""
    found, rest = [], list(reversed(other))
    for start, stop in one:
        while rest and rest[-1][0] < stop:
            first, last = rest[-1]
            if max(start, first) < min(stop, last):
                found.append((max(start, first), min(stop, last)))
            if last > stop:
                break  # it may reach into the next one
            rest.pop()
    return found


# ---------------------------------------------------------------------- live page


def live_head(boot: bytes, mount: int, epoch: int) -> bytes:
    """The live page up to its rows. A boot id of zeros: not armed."""
    return _LIVE.pack(0x94, 0xC4, 16, boot, 0xCF, mount, 0xCF, epoch, 0xC5, TABLE_BYTES)


UNARMED = live_head(bytes(16), 0, 0)


def raw_epoch(head: bytes) -> int:
    """The epoch of a live page, whoever armed it; 0 if there is none."""
    epoch = int.from_bytes(head[EPOCH], "big")
    return epoch if epoch < _MAX_INT else 0


def live_epoch(head: bytes, boot: bytes, mount: int | None) -> int:
    """The epoch of a live page that was armed in this boot and on this mount, else 0."""
    epoch = raw_epoch(head)
    return epoch if boot and mount is not None and head == live_head(boot, mount, epoch) else 0


# ---------------------------------------------------------------------- slots


def pack_slot(sequence: int, epoch: int, claims: Claims, seed: int) -> bytes:
    """A slot's page. `seed`: the CRC of the header's page, see `read_header`."""
    flags = 0
    if len(claims) > ROWS:
        flags = _LEFT_OUT
        claims = sorted(sorted(claims, key=lambda claim: claim[0] - claim[1])[:ROWS])
    packed = b"".join(_CLAIM.pack(*claim) for claim in claims)
    body = _slot_head(sequence, epoch, flags) + packed.ljust(_CLAIM_BYTES, b"\0")
    # Seeded with the header's CRC, in which the salt is: a page of another journal does not fit, however good it is.
    return (body + _SLOT_CRC.pack(0xCE, zlib.crc32(body, seed))).ljust(PAGE, b"\0")


def read_slot(page: bytes, seed: int) -> Slot | None:
    """What a slot's page holds; None when it is damaged or of another journal."""
    end = _SLOT.size + _CLAIM_BYTES
    if len(page) != PAGE or _SLOT_CRC.unpack_from(page, end) != (0xCE, zlib.crc32(page[:end], seed)):
        return None
    _, _, sequence, _, epoch, _, flags, _, _ = _SLOT.unpack_from(page)
    if page[: _SLOT.size] != _slot_head(sequence, epoch, flags & _LEFT_OUT) or max(sequence, epoch) > _MAX_INT:
        return None
    packed = page[_SLOT.size : end]
    claims = [claim for claim in _CLAIM.iter_unpack(packed) if claim != (0, 0)] if packed != _NO_CLAIMS else []
    return Slot(sequence, epoch, claims)


def _slot_head(sequence: int, epoch: int, flags: int) -> bytes:
    return _SLOT.pack(0x95, 0xCF, sequence, 0xCF, epoch, 0xCC, flags, 0xC5, _CLAIM_BYTES)


# ---------------------------------------------------------------------- header


def pack_header(identity: Identity) -> bytes:
    """The header's page. What does not fit, a validator of more than 1024 bytes of UTF-8, is not kept."""
    import msgpack  # type: ignore[import-untyped, unused-ignore]

    url = redact(identity.url).encode("utf-8", "replace")[:_MAX_TEXT].decode("utf-8", "ignore")
    kept = replace(identity, url=url, etag=_kept(identity.etag), last_modified=_kept(identity.last_modified))
    values = {"order": sys.byteorder, **{name: getattr(kept, name) for name in names(Identity)}}
    rest = b"".join(msgpack.packb(key) + msgpack.packb(value) for key, value in values.items())
    head = _HEADER.pack(0x80 | len(values) + 2, _MAGIC, VERSION, _CRC_KEY, 0)
    page = (head + rest).ljust(PAGE, b"\0")
    return page[: _HEADER.size - 4] + struct.pack(">I", _header_crc(page)) + page[_HEADER.size :]


def read_header(page: bytes, target: str) -> tuple[Identity, int]:
    """The identity, and the page's CRC. `target`: the download as a message names it.

    Raises `JournalDamaged`, `JournalVersionError`.
    """
    if len(page) != PAGE:
        raise JournalDamaged("no whole header")
    _, magic, version, crc_key, crc = _HEADER.unpack_from(page)
    # The CRC before the version: a flipped bit is damage, not the future.
    if (magic, crc_key, crc) != (_MAGIC, _CRC_KEY, _header_crc(page)):
        raise JournalDamaged("no journal, or altered")
    if version > VERSION:
        raise JournalVersionError(
            f"the journal of {target} was written by a newer fastidm (format {version})",
            "use that version, or begin anew with --restart",
        )
    values = _unpack_map(page)
    if version != VERSION or values.keys() != _KEYS or values["order"] != sys.byteorder:
        raise JournalDamaged("unknown format")
    identity = Identity(
        total=_int(values["total"], _MAX_INT),
        etag=None if values["etag"] is None else _str(values["etag"]),
        last_modified=None if values["last_modified"] is None else _str(values["last_modified"]),
        url=_str(values["url"]),
        url_salt=_bytes(values["url_salt"]),
        url_hash=_bytes(values["url_hash"]),
        device=_int(values["device"], 2**64 - 1),  # 64-bit inode numbers of network file systems use every bit
        inode=_int(values["inode"], 2**64 - 1),
        birth_ns=_int(values["birth_ns"], _MAX_INT),
    )
    return identity, crc


def _header_crc(page: bytes) -> int:
    """Of the whole page except the CRC itself."""
    return zlib.crc32(page[_HEADER.size :], zlib.crc32(page[: _HEADER.size - 4]))


def _unpack_map(page: bytes) -> dict[str, object]:
    import msgpack

    unpacker = msgpack.Unpacker(
        max_buffer_size=PAGE, max_map_len=16, max_array_len=0, max_str_len=_MAX_TEXT, max_bin_len=32, max_ext_len=0
    )
    try:
        unpacker.feed(page)
        values = unpacker.unpack()
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise JournalDamaged("not msgpack") from error
    if not isinstance(values, dict):
        raise JournalDamaged("not a map")
    return values


def _int(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:  # a bool is an int to isinstance
        raise JournalDamaged("not a number in range")
    return value


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise JournalDamaged("not a text")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes) or not 16 <= len(value) <= 32:
        raise JournalDamaged("not a salt or hash")
    return value


def _kept(text: str | None) -> str | None:
    try:
        return text if text is None or len(text.encode()) <= _MAX_TEXT else None
    except UnicodeEncodeError:
        return None
