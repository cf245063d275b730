"""The journal: which bytes of the part file are there. `docs/journal.md` draws the format.

Rules of this module:

* A smaller claim than the truth is always right, a larger one never. What is unreadable or in doubt claims nothing.
* The live page changes by stores into the map, word by word, and survives a SIGKILL; the slots change by whole pages
  and survive a power cut. No page is ever half-way between two meanings: what arms it is stored last.
* Sizes are checked before anything is parsed; only the header, behind its CRC, goes through a msgpack parser.
* Of two slots the one that is known to be on disk is never written.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from fastidm.core.segments import merge
from fastidm.errors import JournalVersionError, LockedError, UnsafePathError, printable, redact

VERSION = 1
PAGE = 4096
JOURNAL_SIZE = 4 * PAGE
BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"

_ROW = struct.Struct("=3q")
# Outside the rows all is msgpack, so big-endian; every number has its widest encoding, so that offsets are constant.
_LIVE = struct.Struct(">BBB16sBQBQBH")  # array of 4: boot id (bin 8), mount id, epoch (uint 64), rows (bin 16)
_SLOT = struct.Struct(">BBQBQBBBH")  # array of 5: sequence, epoch (uint 64), flags (uint 8), rows (bin 16), crc ...
_SLOT_CRC = struct.Struct(">BI")  # ... (uint 32)
_BOOT, _MOUNT, _EPOCH = slice(3, 19), slice(20, 28), slice(29, 37)  # where these values are within the live page

ROWS = (PAGE - _LIVE.size) // _ROW.size
"""Rows of the live table, and of a slot."""
_TABLE_BYTES = ROWS * _ROW.size
_LIVE_TABLE = slice(PAGE + _LIVE.size, PAGE + _LIVE.size + _TABLE_BYTES)
assert _LIVE.size % 8 == 0
assert _SLOT.size + _TABLE_BYTES + _SLOT_CRC.size <= PAGE

# The header's first 21 bytes are the same in every version that will ever be: map, "fastidm": version, "crc": crc.
_HEADER = struct.Struct(">B9sH5sI")
_MAGIC, _CRC_KEY = b"\xa7fastidm\xcd", b"\xa3crc\xce"
_MAX_TEXT = 1024  # bytes of a validator or of the URL
_MAX_INT = 2**63 - 1
_LEFT_OUT = 1  # slot flag: there were more claims than rows, the smallest are missing

_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # fdatasync is not everywhere


class JournalDamaged(Exception):
    """Worth nothing: not a journal, cut, altered, or writable by others. Never leaves `fastidm.storage`."""


@dataclass(frozen=True)
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


_KEYS = {"fastidm", "crc", "order", *(field.name for field in fields(Identity))}


class _Slot(NamedTuple):
    sequence: int
    epoch: int
    rows: bytes


def hash_url(url: str, salt: bytes) -> bytes:
    """32 bytes that recognise `url`, secrets in it included, without telling them; `salt`: 16 bytes of `os.urandom`."""
    import hashlib

    return hashlib.sha256(salt + url.encode("utf-8", "surrogatepass")).digest()


class Journal:
    """One open, locked journal. Methods may be called from any thread; one thread alone writes `table`.

    Once closed, `poison`, `close` and `remove` do nothing, the others raise OSError.
    """

    identity: Identity
    table: memoryview
    """The rows of the live page, writable: ROWS times three native int64 (start, stop, position), 8-byte aligned."""

    def __init__(self, path: str, fd: int, identity: Identity, seed: int) -> None:
        """For `create` and `open`; takes over `fd`, which is locked and JOURNAL_SIZE long."""
        # The whole file, as an offset of 4 KiB cannot be mapped where memory pages are larger.
        self._pages = memoryview(mmap.mmap(fd, JOURNAL_SIZE))
        self.identity, self.path, self._seed = identity, path, seed
        self.table = self._pages[_LIVE_TABLE]
        self._fd = fd
        self._boot, self._mount = _boot_id(), _mount_id(fd)
        self._disk = threading.Lock()  # held while the file is synced, so that close() does not pull it away
        self._poisoned = False
        self._settled = False  # whether all that earlier runs wrote is known to be on disk
        slots = self._slots()
        newest = max((s for s in slots if s), default=None)
        self._good = slots.index(newest) if newest else 1
        self._sequence = newest.sequence if newest else 0
        live = struct.unpack(">Q", self._pages[PAGE:][_EPOCH])[0]
        self._epoch = max([s.epoch for s in slots if s], default=0)
        self._epoch = max(self._epoch, live if live < _MAX_INT else 0)

    @classmethod
    def create(cls, path: str, identity: Identity, *, sync: bool) -> Journal:
        """A new journal that claims nothing; fill `table`, then call `begin_epoch`.

        `sync`: put it on disk, its folder entry too, before returning. A validator that does not fit (1024 bytes of
        UTF-8) is not kept: the journal's `identity` tells what is. Raises OSError (FileExistsError, ENOSPC ...),
        `LockedError` when another process was faster, ValueError for an `identity` that cannot be.
        """
        path = os.path.abspath(path)
        header = _pack_header(identity)
        try:
            kept, seed = _read_header(header, path)
        except JournalDamaged as error:
            raise ValueError(f"not an identity: {error}") from None
        slot = _pack_slot(0, 0, [], seed)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd, path)  # someone may hold it already, taking our still empty file for a damaged journal
            if not _is_at(fd, path):
                raise _locked(path)
            try:
                _write(fd, header + _UNARMED.ljust(PAGE, b"\0") + slot + slot, 0)
                if sync:
                    _sync(fd)
                    _sync_folder(path)
                journal = cls(path, fd, kept, seed)
            except BaseException:
                os.unlink(path)
                raise
        except BaseException:
            os.close(fd)
            raise
        journal._settled = sync
        return journal

    @classmethod
    def open(cls, path: str) -> Journal:
        """The journal at `path`, locked. Reads 16 KiB at most, whatever is there.

        Raises FileNotFoundError and other OSError, `JournalDamaged`, `JournalVersionError`, `LockedError`, and
        `UnsafePathError` for a link or for what is not a file of ours.
        """
        path = os.path.abspath(path)
        fd = _open_locked(path)
        try:
            facts = os.fstat(fd)
            if facts.st_mode & 0o022:
                raise JournalDamaged("others may write it")
            identity, seed = _read_header(_read_page(fd, 0), path)
            if facts.st_size != JOURNAL_SIZE:
                raise JournalDamaged("wrong size")
            # A hole in the file, or a page that the disk cannot read, would turn the first store into a SIGBUS.
            # Written to now, it is an error at worst. The same bytes, so that a kill in between changes nothing.
            _write(fd, _read_page(fd, 1).ljust(PAGE, b"\0"), PAGE)
            return cls(path, fd, identity, seed)
        except BaseException:
            os.close(fd)
            raise

    @staticmethod
    def discard(path: str) -> None:
        """Remove what `open` called damaged; fine if it is gone. Raises OSError, `LockedError`, `UnsafePathError`.

        A plain unlink could hit the journal that another process has just put in its place; this looks at the lock.
        """
        path = os.path.abspath(path)
        try:
            fd = _open_locked(path)
        except FileNotFoundError:
            return
        try:
            os.unlink(path)
        finally:
            os.close(fd)

    def believed(self, *, part_size: int) -> tuple[str, list[tuple[int, int]]]:
        """What an earlier run is believed to have written, when the part file is `part_size` bytes long.

        Returns ("live" | "slot" | "nothing", claims): sorted, disjoint, merged ranges [start, stop) within `[0, total)`
        and the part file. Whether the part file is the one of `identity` is for the caller to compare. Unless "live",
        the live page is disarmed and its rows zeroed, so that what is left there is never believed by anyone.
        Raises OSError once closed.
        """
        total, limit = self.identity.total, min(self.identity.total, part_size)
        slots = [s for s in self._slots() if s]
        newest = max(slots, default=_Slot(0, 0, b""))
        durable = _claims(newest.rows, total)
        live = self._live_epoch()
        # A live page older than a slot: the kernel lost the page and read an old one back.
        if live and live >= max((s.epoch for s in slots), default=0):
            # The live page alone says it all, unless an edit was cut short or a bit flipped.
            return "live", merge(_claims(bytes(self.table), total) + durable, limit)
        self._disarm()
        self.table[:] = bytes(_TABLE_BYTES)
        return ("slot" if newest.sequence else "nothing"), merge(durable, limit)

    def begin_epoch(self, rows: bytes | bytearray | None = None) -> None:
        """Arm the live page: the next run believes its rows. Lifts `poison`.

        `rows`: the new table, at most ROWS rows; None: the caller has rebuilt `table` in place, so that each row's
        claim was true after each of its stores (a plain copy over old rows does not keep that: pass `rows`).
        Takes microseconds, unless the table claims less than a slot does: then both slots are written, which blocks for
        the disk. So claims are withdrawn here, and before the bytes are touched. Raises OSError.
        """
        # Where a SIGKILL may fall, between any two stores:
        # - Live page not armed (after create, "slot", "nothing", poison, or with `rows`): the boot id is zero until the
        #   last store, and half of it is no boot id either. Until then the slots are believed, and they are still
        #   true: a byte that they claim is only written over with the same byte.
        # - Live page armed by the last run, rows rebuilt in place: all that changes is the epoch. The rows are true
        #   under the old epoch, the new one and a torn one; one below a slot's only means that the slot is believed.
        # A power cut changes the boot id, so then the live page does not count.
        armed = self._live_epoch() > 0 and rows is None
        self._epoch += 1
        if not armed:
            self._disarm()
        if rows is not None:
            self.table[:] = rows.ljust(_TABLE_BYTES, b"\0")
        total = self.identity.total
        claims = _claims(bytes(self.table), total)
        if any(merge(claims + _claims(slot.rows, total), total) != claims for slot in self._slots() if slot):
            with self._disk:
                self._write_slot(claims)  # one after the other is on disk: a power cut tears one at most
                self._write_slot(claims)
        page = self._pages[PAGE : 2 * PAGE]
        page[_EPOCH] = struct.pack(">Q", self._epoch)
        if not armed and self._boot and self._mount is not None:
            page[_MOUNT] = struct.pack(">Q", self._mount)
            page[_BOOT] = self._boot
        self._poisoned = False

    def checkpoint(self, rows: bytes) -> None:
        """Make the claims of `rows` durable. Blocks for the disk; in a helper thread, one at a time.

        `rows`: a copy of `table` (or a longer one), taken before a sync of the part file began that has succeeded.
        Claims are merged; if there are still more than ROWS, the smallest are left out. Raises OSError, also after
        `poison`; then the other slot holds, and the next call writes the same slot again.
        """
        claims = _claims(bytes(rows), self.identity.total)
        with self._disk:
            if self._poisoned:
                raise OSError(errno.EIO, "an earlier sync of the part file failed")
            self._write_slot(claims)

    def _write_slot(self, claims: list[tuple[int, int]]) -> None:
        if not self._settled:
            # The newest slot of a killed run may be in memory only, and the other one be the last on disk.
            _sync(self._fd)
            self._settled = True
        slot = 1 - self._good
        _write(self._fd, _pack_slot(self._sequence + 1, self._epoch, claims, self._seed), (2 + slot) * PAGE)
        _sync(self._fd)
        self._good, self._sequence = slot, self._sequence + 1

    def poison(self) -> None:
        """A sync of the part file failed: let no later run believe more than the last slot. May block for the disk.

        Raises nothing. The rows stay as they are for those who still use them, until `believed` is called.
        """
        self._poisoned = True
        if self._fd >= 0:
            self._disarm()
        with self._disk:
            try:
                if self._fd >= 0:
                    _sync(self._fd)
            except OSError:
                pass  # this boot sees the page in memory, another boot does not believe it anyway

    def close(self) -> None:
        """Give the lock back, keep the file. Waits for a checkpoint; whoever writes `table` has stopped before."""
        with self._disk:
            if self._fd < 0:
                return
            fd, self._fd = self._fd, -1
            table, self.table, self._pages = self.table, memoryview(bytearray()), memoryview(bytearray())
            try:
                table.release()
            except BufferError:
                pass  # an array over it is still referenced; the map goes when the last one does
            fcntl.flock(fd, fcntl.LOCK_UN)  # by hand: the map holds a duplicate of the descriptor, and with it the lock
            os.close(fd)

    def remove(self) -> None:
        """Delete the file, unless somebody else put it there, then close. Raises OSError, closed all the same."""
        try:
            if self._fd >= 0 and _is_at(self._fd, self.path):
                os.unlink(self.path)
        finally:
            self.close()

    def _slots(self) -> list[_Slot | None]:
        return [_read_slot(_read_page(self._fd, number), self._seed) for number in (2, 3)]

    def _live_epoch(self) -> int:
        """The epoch of the live page if it was armed in this boot and mount, else 0."""
        if self._fd < 0:
            raise OSError(errno.EBADF, "the journal is closed")
        if not self._boot or self._mount is None:
            return 0
        head = bytes(self._pages[PAGE : PAGE + _LIVE.size])
        epoch: int = _LIVE.unpack(head)[7]
        return epoch if epoch <= _MAX_INT and head == _live_head(self._boot, self._mount, epoch) else 0

    def _disarm(self) -> None:
        page = self._pages[PAGE : 2 * PAGE]
        page[_BOOT] = bytes(16)  # first: from here on the rest does not count
        page[: _LIVE.size] = _UNARMED


def _claims(rows: bytes, total: int) -> list[tuple[int, int]]:
    """Sorted, disjoint, merged byte ranges that `rows` claim beyond doubt.

    A row that cannot be claims nothing. A byte inside two rows is not claimed either, as one of them is wrong about its
    bounds (an edit was cut short, or a bit flipped), unless both claim it: they are not wrong together.
    """
    rows = rows[: -(-len(rows.rstrip(b"\0")) // _ROW.size) * _ROW.size]
    segments = sorted(
        (start, stop, position)
        for start, stop, position in _ROW.iter_unpack(rows)
        if 0 <= start <= position <= stop <= total and start < stop
    )
    reach, disjoint = 0, True
    for start, stop, _ in segments:
        disjoint &= start >= reach
        reach = stop
    return merge([(start, position) for start, _, position in segments] if disjoint else _undisputed(segments), total)


def _undisputed(segments: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
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


def _live_head(boot: bytes, mount: int, epoch: int) -> bytes:
    return _LIVE.pack(0x94, 0xC4, 16, boot, 0xCF, mount, 0xCF, epoch, 0xC5, _TABLE_BYTES)


_UNARMED = _live_head(bytes(16), 0, 0)


def _slot_head(sequence: int, epoch: int, flags: int) -> bytes:
    return _SLOT.pack(0x95, 0xCF, sequence, 0xCF, epoch, 0xCC, flags, 0xC5, _TABLE_BYTES)


def _pack_slot(sequence: int, epoch: int, claims: list[tuple[int, int]], seed: int) -> bytes:
    flags = 0
    if len(claims) > ROWS:
        flags = _LEFT_OUT
        claims = sorted(sorted(claims, key=lambda claim: claim[0] - claim[1])[:ROWS])
    rows = b"".join(_ROW.pack(start, stop, stop) for start, stop in claims)
    body = _slot_head(sequence, epoch, flags) + rows.ljust(_TABLE_BYTES, b"\0")
    # Seeded with the header's CRC, in which the salt is: a page of another journal does not fit, however good it is.
    return (body + _SLOT_CRC.pack(0xCE, zlib.crc32(body, seed))).ljust(PAGE, b"\0")


def _read_slot(page: bytes, seed: int) -> _Slot | None:
    end = _SLOT.size + _TABLE_BYTES
    if len(page) != PAGE or _SLOT_CRC.unpack_from(page, end) != (0xCE, zlib.crc32(page[:end], seed)):
        return None
    _, _, sequence, _, epoch, _, flags, _, _ = _SLOT.unpack_from(page)
    if page[: _SLOT.size] != _slot_head(sequence, epoch, flags & _LEFT_OUT) or max(sequence, epoch) > _MAX_INT:
        return None
    return _Slot(sequence, epoch, page[_SLOT.size : end])


def _pack_header(identity: Identity) -> bytes:
    import msgpack  # type: ignore[import-untyped, unused-ignore]

    url = redact(identity.url).encode("utf-8", "replace")[:_MAX_TEXT].decode("utf-8", "ignore")
    kept = replace(identity, url=url, etag=_kept(identity.etag), last_modified=_kept(identity.last_modified))
    values = {"order": sys.byteorder, **{field.name: getattr(kept, field.name) for field in fields(kept)}}
    rest = b"".join(msgpack.packb(key) + msgpack.packb(value) for key, value in values.items())
    head = _HEADER.pack(0x80 | len(values) + 2, _MAGIC, VERSION, _CRC_KEY, 0)
    page = (head + rest).ljust(PAGE, b"\0")
    return page[: _HEADER.size - 4] + struct.pack(">I", _header_crc(page)) + page[_HEADER.size :]


def _read_header(page: bytes, path: str) -> tuple[Identity, int]:
    """The identity, and the page's CRC. Raises `JournalDamaged`, `JournalVersionError`."""
    if len(page) != PAGE:
        raise JournalDamaged("no whole header")
    _, magic, version, crc_key, crc = _HEADER.unpack_from(page)
    # The CRC before the version: a flipped bit is damage, not the future.
    if (magic, crc_key, crc) != (_MAGIC, _CRC_KEY, _header_crc(page)):
        raise JournalDamaged("no journal, or altered")
    if version > VERSION:
        raise JournalVersionError(
            f"the journal of {_target(path)} was written by a newer fastidm (format {version})",
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


def _boot_id() -> bytes:
    """16 bytes that change with every boot; empty where the system does not tell."""
    try:
        with open(BOOT_ID_PATH, "rb") as file:
            boot = bytes.fromhex(file.read(64).decode("ascii").strip().replace("-", ""))
    except (OSError, ValueError):
        return b""
    return boot if len(boot) == 16 and any(boot) else b""


def _mount_id(fd: int) -> int | None:
    """The mount that `fd` is on; None where the system does not tell.

    From /proc, as Python has no statx. A number can be given out again after an unmount within the same boot; what was
    unmounted was written out before, and the caller compares the part file's inode and birth time.
    """
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            _, found, rest = file.read(512).partition(b"mnt_id:")
            return int(rest.split()[0]) if found else None
    except (OSError, ValueError, IndexError):
        return None


def _target(path: str) -> str:
    return printable(path.removesuffix(".fastidm"))


def _locked(path: str) -> LockedError:
    return LockedError(f"another process is downloading {_target(path)}", "wait for it, or choose another name with -o")


def _lock(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _locked(path) from None


def _open_locked(path: str) -> int:
    for _ in range(16):
        try:
            # O_NONBLOCK: a planted pipe or device must not hold us up.
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _unsafe(path) from error
            raise
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_nlink > 1:
                raise _unsafe(path)
            _lock(fd, path)
            if _is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # removed between open and lock by the one who held it: look again
    raise _locked(path)


def _unsafe(path: str) -> UnsafePathError:
    return UnsafePathError(f"{printable(path)} is not a plain file of yours", "remove it, or choose a name with -o")


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _read_page(fd: int, number: int) -> bytes:
    """A page, shorter at the end of the file, empty where the disk cannot read it."""
    try:
        return os.pread(fd, PAGE, number * PAGE)
    except OSError:
        return b""


def _write(fd: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _sync_folder(path: str) -> None:
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder say so like this
            raise
    finally:
        os.close(fd)
