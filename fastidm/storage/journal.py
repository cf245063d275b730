"""The journal: which bytes of the part file are there. `docs/journal.md` draws the format, `pages.py` packs and reads it.

Rules of this module:

* A smaller claim than the truth is always right, a larger one never. What is unreadable or in doubt claims nothing.
* The live page changes by stores into the map, word by word, and survives a SIGKILL; the slots change by whole pages
  and survive a power cut. No page is ever half-way between two meanings: what arms it is stored last. Where files cannot
  be mapped, the live page is a copy, written at checkpoints and at the end: a SIGKILL costs what came since.
* A slot claims only what a sync of the part file has covered. What only the live page claims never gets into one.
* Of two slots the one that is known to be on disk is never written.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import threading

from fastidm.core.segments import ROW_BYTES, clear_row, merge, put_row
from fastidm.storage import linux, owned
from fastidm.storage.pages import (
    BOOT,
    EPOCH,
    JOURNAL_SIZE,
    LIVE,
    LIVE_HEAD,
    LIVE_SIZE,
    MOUNT,
    PAGE,
    ROW,
    SLOTS,
    TABLE_BYTES,
    UNARMED,
    Claims,
    Slot,
    claims_of,
    common,
    live_epoch,
    pack_header,
    pack_slot,
    raw_epoch,
    read_header,
    read_slot,
)
from fastidm.storage.pages import ROWS as ROWS
from fastidm.storage.pages import Identity as Identity
from fastidm.storage.pages import JournalDamaged as JournalDamaged
from fastidm.storage.pages import hash_url as hash_url

_NO_SLOT = Slot(0, 0, [])
_NO_MAPS = frozenset({errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


class Journal:
    """One open, locked journal. Methods may be called from any thread; one thread alone writes `table`.

    Once closed, `poison`, `close` and `remove` do nothing, the others raise OSError.
    """

    identity: Identity
    table: memoryview
    """The rows of the live page, writable: ROWS rows as in `core.segments`, 8-byte aligned."""

    def __init__(self, path: str, fd: int, identity: Identity, seed: int) -> None:
        """For `create` and `open`; takes over `fd`, which is locked and JOURNAL_SIZE long."""
        self._pages, self._mapped = _map(fd)
        self.identity, self.path, self._seed = identity, path, seed
        self._live = self._pages[LIVE * PAGE : LIVE * PAGE + LIVE_SIZE]
        self.table = self._live[LIVE_HEAD : LIVE_HEAD + TABLE_BYTES]
        self._fd = fd
        self._boot, self._mount = linux.boot_id(), linux.mount_id(fd)
        self._disk = threading.Lock()  # held while the file is synced, so that close() does not pull it away
        self._poisoned = False
        self._settled = False  # whether the file as it was found or made, and its name, are known to be on disk
        slots = self._slots()
        newest = max((slot for slot in slots if slot), default=None)
        self._good = slots.index(newest) if newest else 1
        self._sequence = newest.sequence if newest else 0
        self._epoch = max(raw_epoch(self._live_head()), *(slot.epoch for slot in slots if slot), 0)

    @classmethod
    def create(cls, path: str, identity: Identity) -> Journal:
        """A new journal that claims nothing; `begin_epoch` arms it. Does not wait for the disk.

        A validator that does not fit (1024 bytes of UTF-8) is not kept: the journal's `identity` tells what is. Raises
        OSError (FileExistsError, ENOSPC ...), `LockedError` when another process was faster, ValueError for an
        `identity` that cannot be.
        """
        path = os.path.abspath(path)
        header = pack_header(identity)
        try:
            kept, seed = read_header(header, owned.target_name(path))
        except JournalDamaged as error:
            raise ValueError(f"not an identity: {error}") from None
        slot = pack_slot(0, 0, [], seed)
        fd = owned.create(path)
        try:
            _write(fd, header + UNARMED.ljust(LIVE_SIZE, b"\0") + slot + slot, 0)
            return cls(path, fd, kept, seed)
        except BaseException:
            os.unlink(path)
            os.close(fd)
            raise

    @classmethod
    def open(cls, path: str) -> Journal:
        """The journal at `path`, locked. Reads 20 KiB at most, whatever is there.

        Raises FileNotFoundError and other OSError, `JournalDamaged`, `JournalVersionError`, `LockedError`, and
        `UnsafePathError` for a link or for what is not a file of ours.
        """
        path = os.path.abspath(path)
        fd = owned.open_locked(path, linked=False)
        try:
            facts = os.fstat(fd)
            # Where a mount says who owns the files it says their modes as well, and so they mean nothing.
            if facts.st_mode & 0o022 and facts.st_uid == os.geteuid():
                raise JournalDamaged("others may write it")
            identity, seed = read_header(_read_page(fd, 0), owned.target_name(path))
            if facts.st_size != JOURNAL_SIZE:
                raise JournalDamaged("wrong size")
            # A hole in the file, or a page that the disk cannot read, would turn the first store into a SIGBUS.
            # Written to now, it is an error at worst. The same bytes, so that a kill in between changes nothing.
            for number in range(LIVE, SLOTS[0]):
                _write(fd, _read_page(fd, number).ljust(PAGE, b"\0"), number * PAGE)
            return cls(path, fd, identity, seed)
        except BaseException:
            os.close(fd)
            raise

    @staticmethod
    def discard(path: str) -> None:
        """Remove what `open` called damaged; fine if it is gone. Raises OSError, `LockedError`, `UnsafePathError`.

        A plain unlink could hit the journal that another process has just put in its place; this looks at the lock.
        """
        owned.drop(os.path.abspath(path), linked=False)

    def believed(self, *, part_size: int) -> tuple[str, Claims]:
        """What an earlier run is believed to have written, when the part file is `part_size` bytes long.

        Returns ("live" | "slot" | "nothing", claims): sorted, disjoint, merged ranges [start, stop) within `[0, total)`
        and the part file. Whether the part file is the one of `identity` is for the caller to compare. Unless "live",
        the live page is disarmed and its rows zeroed, so that what is left there is never believed by anyone.
        Raises OSError once closed.
        """
        self._must_be_open()
        total, limit = self.identity.total, min(self.identity.total, part_size)
        slots = [slot for slot in self._slots() if slot]
        newest = max(slots, default=_NO_SLOT)
        durable = merge(newest.claims, total)
        live = live_epoch(self._live_head(), self._boot, self._mount)
        # A live page older than a slot: the kernel lost the page and read an old one back.
        if live and live >= max((slot.epoch for slot in slots), default=0):
            # The live page alone says it all, unless an edit was cut short or a bit flipped.
            return "live", merge(claims_of(bytes(self.table), total) + durable, limit)
        self._disarm()
        self.table[:] = bytes(TABLE_BYTES)
        return ("slot" if newest.sequence else "nothing"), merge(durable, limit)

    def begin_epoch(self, rows: bytes | bytearray = b"") -> None:
        """Make `rows` (at most ROWS; the rest is zeroed) the table, and arm it: the next run believes it. Lifts `poison`.

        Takes microseconds, unless the rows claim less than a slot does: then both slots are written, which blocks for
        the disk. So claims are withdrawn here, and before the bytes are touched. Raises OSError, and then the slots
        alone are believed; ValueError for too many rows.
        """
        # A SIGKILL may fall between any two stores, and in the middle of the long one. From the first to the last of those
        # below the boot id is zero, and half of it is no boot id either: so neither old nor new rows are believed but
        # the slots are, and those are still true, as a byte that they claim is only written over with the same byte.
        # A power cut changes the boot id, so then the live page does not count.
        self._must_be_open()
        self._epoch += 1
        total = self.identity.total
        claims = claims_of(bytes(rows), total)
        slots = [slot for slot in self._slots() if slot]
        withdrawn = any(merge(claims + slot.claims, total) != claims for slot in slots)
        if not withdrawn and self._exchange(rows, claims):
            self._poisoned = False
            return
        self._disarm()
        self.table[:] = rows.ljust(TABLE_BYTES, b"\0")
        if withdrawn:
            # What the rows claim beyond the slots may be in memory only: it must not get into them with the rest.
            durable = common(max(slots).claims, claims)
            with self._disk:
                self._write_slot(durable)  # one after the other is on disk: a power cut tears one at most
                self._write_slot(durable)
        page = self._live
        page[EPOCH] = struct.pack(">Q", self._epoch)
        if self._boot and self._mount is not None:
            page[MOUNT] = struct.pack(">Q", self._mount)
            page[BOOT] = self._boot
        self._write_live()
        self._poisoned = False

    def _exchange(self, rows: bytes | bytearray, claims: Claims) -> bool:
        """Put `rows` in the place of those of an armed page without disarming it; False where that cannot be done.

        It can if they claim no less: new rows beside the old ones take nothing away, as what both claim is claimed, and
        when all are there the old ones can go. So a kill at no instant costs more than one at any other.
        """
        old = bytes(self.table)
        held = claims_of(old, self.identity.total)
        if not live_epoch(self._live_head(), self._boot, self._mount) or merge(claims + held, self.identity.total) != claims:
            return False
        each = range(0, len(old), ROW_BYTES)
        used = [at for at in each if any(old[at : at + ROW_BYTES])]
        free = [at for at in each if at not in set(used)]
        new = [row for row in ROW.iter_unpack(rows) if any(row)]
        if len(new) > len(free):
            return False
        self._live[EPOCH] = struct.pack(">Q", self._epoch)
        with self.table.cast("q") as words:
            for at, (start, stop, position, check) in zip(free, new, strict=False):
                put_row(words, at // ROW_BYTES, start, stop, position, check)
            for at in used:
                clear_row(words, at // ROW_BYTES)
        self._write_live()
        return True

    def checkpoint(self, rows: bytes) -> None:
        """Make the claims of `rows` durable. Blocks for the disk; in a helper thread, one at a time.

        `rows`: a copy of `table` (or a longer one), taken before a sync of the part file began that has succeeded.
        Claims are merged; if there are still more than ROWS, the smallest are left out. Raises OSError, also after
        `poison`; then the other slot holds, and the next call writes the same slot again.
        """
        claims = claims_of(bytes(rows), self.identity.total)
        with self._disk:
            if self._poisoned:
                raise OSError(errno.EIO, "an earlier sync of the part file failed")
            self._write_slot(claims)
            self._write_live()
        self._rewrite_poisoned()  # by a thread that did not wait: what it had disarmed was perhaps written as it was before

    def _write_slot(self, claims: Claims) -> None:
        if not self._settled:
            # The newest slot of a killed run may be in memory only, and the other one, which is written now, be the last
            # on disk. And the file may be new, in a folder that does not name it on disk yet, nor the part file beside it.
            # Creating it did not wait for that: after a power cut nothing in a journal can be believed before its first
            # slot, as the live page is of another boot. So until here there was nothing to lose, and what is left of
            # such a journal, be it no file, half a file or zeros, is worth as little as the whole one.
            owned.sync(self._fd)
            owned.sync_folder(os.path.dirname(self.path))
            self._settled = True
        slot = 1 - self._good
        _write(self._fd, pack_slot(self._sequence + 1, self._epoch, claims, self._seed), SLOTS[slot] * PAGE)
        owned.sync(self._fd)
        self._good, self._sequence = slot, self._sequence + 1

    def poison(self) -> None:
        """A sync of the part file failed: let no later run believe more than the last slot. May block for the disk.

        Raises nothing. The rows stay as they are for those who still use them, until `believed` is called.
        """
        self.poison_now()
        with self._disk:
            try:
                if self._fd >= 0:
                    self._write_live()
                    owned.sync(self._fd)
            except OSError:
                pass  # this boot sees the page in memory, another boot does not believe it anyway

    def poison_now(self) -> None:
        """The same, beside a checkpoint and without waiting for it or the disk. Raises nothing."""
        self._poisoned = True
        if self._fd >= 0:
            self._disarm_mapped()
        self._rewrite_poisoned()

    def _rewrite_poisoned(self) -> None:
        """Unless somebody is at the disk, who then does it afterwards."""
        if self._poisoned and self._disk.acquire(blocking=False):
            try:
                if self._fd >= 0:
                    self._write_live()
            except OSError:
                pass  # it is written once more at the end
            finally:
                self._disk.release()

    def close(self) -> None:
        """Give the lock back, keep the file. Waits for a checkpoint; whoever writes `table` has stopped before."""
        with self._disk:
            if self._fd < 0:
                return
            try:
                self._write_live()
            except OSError:
                pass  # what the last checkpoint wrote is there
            fd, self._fd = self._fd, -1
            table, self.table = self.table, memoryview(bytearray())
            self._live = self._pages = memoryview(bytearray())
            try:
                table.release()
            except BufferError:
                pass  # an array over it is still referenced; the map goes when the last one does
            owned.close(fd)

    def remove(self) -> None:
        """Delete the file, unless somebody else put it there, then close. Raises OSError, closed all the same."""
        try:
            if self._fd >= 0:
                owned.remove(self._fd, self.path)
        finally:
            self.close()

    def _must_be_open(self) -> None:
        if self._fd < 0:
            raise OSError(errno.EBADF, "the journal is closed")

    def _slots(self) -> list[Slot | None]:
        return [read_slot(_read_page(self._fd, number), self._seed) for number in SLOTS]

    def _live_head(self) -> bytes:
        return bytes(self._live[:LIVE_HEAD])

    def _write_live(self) -> None:
        """Where the file is not mapped, the live page gets into it by this alone: at checkpoints and at the end."""
        if not self._mapped:
            _write(self._fd, bytes(self._live), LIVE * PAGE)

    def _disarm(self) -> None:
        self._disarm_mapped()
        self._write_live()

    def _disarm_mapped(self) -> None:
        self._live[BOOT] = bytes(16)  # first: from here on the rest does not count
        self._live[:LIVE_HEAD] = UNARMED


def _map(fd: int) -> tuple[memoryview, bool]:
    """The file in memory, and whether what is stored there is in the file as well.

    FUSE's direct I/O, some 9p and network file systems map nothing for all to see; there it is a copy.
    """
    unlocked = owned.without_lock(fd)
    try:
        # The whole file, as an offset of 4 KiB cannot be mapped where memory pages are larger.
        return memoryview(mmap.mmap(unlocked, JOURNAL_SIZE)), True
    except OSError as error:
        if error.errno not in _NO_MAPS:
            raise
        return memoryview(bytearray(os.pread(fd, JOURNAL_SIZE, 0).ljust(JOURNAL_SIZE, b"\0"))), False
    finally:
        os.close(unlocked)


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
