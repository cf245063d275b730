"""Everything of one download that is on disk, as one thing: the final file, the part file and the journal.

Rules of this module:

* The final name appears only by renaming a complete, verified part file (`place.py`).
* A journal is believed only together with the very part file it was written for, and never for a byte that was not
  written. A damaged one, or one without its part file, is dropped: nobody ever has to delete it by hand.
* Whatever moment a run ends at, the next one leaves nothing but the file, or what can be resumed.
* While part file and journal are held, both are locked: a second process gets `LockedError` and changes nothing.
* With the option `rename` a name that is taken, by a file or by another download, makes it go on to the next number.
* Files of up to `SMALL` bytes or of unknown length have no journal, and their part file does not outlive `close`.
* Every OSError becomes one of our errors here; the foreign one stays as its cause.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from time import sleep

from fastidm.core.response import Content as Content
from fastidm.core.segments import ROW_BYTES
from fastidm.errors import ExistsError, IntegrityError, LockedError, StorageError, printable, redact
from fastidm.options import Options
from fastidm.records import record
from fastidm.storage import owned, place, whole
from fastidm.storage.errors import mapped
from fastidm.storage.naming import JOURNAL_SUFFIX, PART_SUFFIX, numbered
from fastidm.storage.partfile import SMALL as SMALL
from fastidm.storage.partfile import PartChanged, PartFile

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import TypeVar

    from fastidm.storage.journal import Identity, Journal

    Result = TypeVar("Result")

IN_MEMORY = 256 << 10
"""Bytes: a file that is not longer is written in one go, when all of it is there. What a kill can lose of it is little."""
_ATTEMPTS = 20
_MOMENT = 0.005
"""Seconds between them: others hold a lock no longer when they only look."""
MOST_NUMBERS = 9999
"""How far `rename` counts."""


@record(frozen=True)
class Resumable:
    """What an earlier run left: the content it was downloading and the byte ranges that it wrote."""

    content: Content
    claims: list[tuple[int, int]]
    """(start, stop) of each, half open; may be none."""
    same_url: bool
    """Whether it was downloading from the same URL."""


class Target:
    """The files of one task. One call at a time but for `hand_down_now`, from any thread; a new one
    touches nothing.

    Order: `prepare`; `begin`, or `resume` if `prepare` found something; any number of `hand_down` and `checkpoint`; then one of
    `finish`, `close` (keeps what can be resumed) and `discard`. `close` is always allowed, also after the others.
    """

    def __init__(self, path: str, url: str, options: Options) -> None:
        try:
            self._here = "" if os.path.isabs(path) else os.getcwd()  # whoever embeds us may change it meanwhile
        except OSError:
            self._here = "."
        self._wanted = path
        self._number = 0
        self._take_name(path)
        self.table = memoryview(b"")
        """The segment table, writable from `begin` or `resume` to the end."""
        self._url = url
        self._options = options
        self.memory: bytearray | None = None
        """The body of a file so small that it is written when all of it is there; from `begin` to the end."""
        self._part: PartFile | None = None
        self._journal: Journal | None = None
        self._stale = False  # whether there is something of an earlier run that is worth nothing

    @property
    def fd(self) -> int:
        """Descriptor of the part file, or -1: it has none, or none yet."""
        return self._part.fd if self._part else -1

    @property
    def size(self) -> int:
        """Length of the file in bytes, or -1 if it is not known."""
        if self.memory is not None:
            return len(self.memory)
        return self._part.size if self._part else -1

    @property
    def map_allowed(self) -> bool:
        """Whether the part file may be mapped."""
        return self._part is not None and self._part.map_allowed

    dropped = 0
    """Bytes at the front that are not kept."""

    @property
    def paced(self) -> bool:
        """Whether somebody takes the bytes at his own pace, so that `pace` is to be asked."""
        return False

    def pace(self, received: int) -> float:
        """Seconds to wait for whom `paced` speaks of."""
        return 0.0

    @property
    def has_journal(self) -> bool:
        """Whether this download survives its process."""
        return self._journal is not None

    def prepare(self) -> Resumable | None:
        """Before the first request: may there be a file at `path`, and what has an earlier run left? Milliseconds.

        What is returned stays open and locked until `begin`, `close` or `discard`. With `rename` it goes on to the first name
        that is free, or under which the same URL was being downloaded.

        Raises `ExistsError`, `UnsafePathError`, `LockedError`, `JournalVersionError`, `StorageError`.
        """
        while True:
            try:
                found = self._prepare()
            except (ExistsError, LockedError) as error:
                self._next_name(error)
                continue
            if found is None or found.same_url or not self._options.rename:
                return found
            self.close()
            self._next_name(owned.locked(self.part_path))

    def fits_memory(self, total: int | None) -> bool:
        """Whether a file of so many bytes is kept in memory until all of it is there, so that `begin` takes no time."""
        return fits_memory(total)

    def read(self, start: int, count: int) -> bytes:
        """What is written there. Raises `OSError`."""
        return os.pread(self.fd, count, start)

    def check_size(self, size: int) -> None:
        """A file may have any number of bytes: the disk says how many are too many."""

    def disturbed(self) -> bool:
        """Whether somebody has begun with the same name since `prepare` found nothing, so that it had better be asked again.

        A finished file that has come up is seen when this one is to get the name.
        """
        return os.path.lexists(self.journal_path)

    def _prepare(self) -> Resumable | None:
        with mapped(self.path):
            place.check_folder(self._final, self.path)
            try:
                place.check_name(self._final, self.path, overwrite=self._options.overwrite)
            except ExistsError:
                self._drop_leftovers()
                raise
            part = place.check_plain(self.part_path)
            journal = place.check_plain(self.journal_path)
            if self._options.restart:
                self._drop_stale()
                return None
            # Most often there is nothing; and so msgpack is not loaded.
            if journal:
                return self._take_up()
            # It is worth nothing then, but a process may be downloading a small file.
            self._stale = part and owned.check_free(self.part_path)
            return None

    def begin(self, content: Content, rows: bytes = b"") -> None:
        """Start from nothing, whatever `prepare` found: reserve the part file and open a journal. Helper thread, unless the
        file fits into memory: then this takes no time.

        `rows`: what the table begins with; zeros follow.

        Raises `NoSpaceError`, `LockedError`, `ExistsError`, `UnsafePathError`, `StorageError`; then nothing new is left behind.
        """
        while True:
            try:
                self._begin(content, rows)
                return
            except (LockedError, ExistsError) as error:  # somebody was faster
                self._next_name(error)
            self.prepare()

    def _begin(self, content: Content, rows: bytes) -> None:
        with mapped(self.path):
            if self._part is not None or self._journal is not None:
                self.discard()
            if self._stale or not fits_memory(content.total):
                self._drop_stale()
            if content.total is not None and fits_memory(content.total):
                self.memory = bytearray(content.total)
                self.table = memoryview(bytearray(rows.ljust(ROW_BYTES, b"\0")))
                return
            self._part = self._new_part(content.total)
            try:
                if content.total is None or content.total <= SMALL:
                    self.table = memoryview(bytearray(rows.ljust(ROW_BYTES, b"\0")))
                else:
                    self._journal = self._new_journal(self._part, content)
                    self._journal.begin_epoch(rows)
                    self.table = self._journal.table
            except BaseException:
                self.discard()
                raise

    def _new_part(self, size: int | None) -> PartFile:
        part = PartFile.create(self.part_path, size, io=self._options.io)
        try:
            # Only now can nobody else give a file this name: somebody may just have done so, and let go of the part file.
            place.check_name(self._final, self.path, overwrite=self._options.overwrite)
        except BaseException:
            part.remove()
            raise
        return part

    @property
    def unclaimed(self) -> bool:
        """Whether another process may download to the same name: the file is in memory, and nothing on disk says so."""
        return self.memory is not None and self._part is None

    def claim(self) -> None:
        """Make a part file and lock it, for a file in memory that does not come at once. Helper thread.

        Raises as `begin` does.
        """
        assert self.memory is not None, "it has a part file"
        while self._part is None:
            try:
                with mapped(self.path):
                    self._part = self._new_part(len(self.memory))
            except (LockedError, ExistsError) as error:
                self._next_name(error)

    def resume(self, rows: bytes) -> None:
        """Go on with what `prepare` returned: `rows`, rebuilt from its claims, become the table. Helper thread.

        Raises `StorageError`.
        """
        journal = self._journal
        assert journal is not None, "nothing was prepared"
        with mapped(self.journal_path):
            journal.begin_epoch(rows)
        self.table = journal.table

    def hand_down(self, ranges: Iterable[tuple[int, int]]) -> bool:
        """Have the disk begin with what is written in `ranges`; nothing survives a power cut by that. Helper thread.

        Returns False where that cannot be done. Raises `StorageError`, as a checkpoint would.
        """
        if self._part is None:
            return False
        with mapped(self.part_path):
            return self._poisoning(self._part.hand_down, ranges)

    def hand_down_now(self, start: int, stop: int) -> int:
        """As `hand_down`, for one range, in the loop's thread, whatever a helper thread does: 0; the errno, and then the
        journal is believed no more; or -1 if it cannot be done.
        """
        error = self._part.hand_down_now(start, stop) if self._part is not None else -1
        if error > 0 and self._journal is not None:
            self._journal.poison_now()
        return error

    def checkpoint(self, rows: bytes) -> None:
        """Make `rows`, a copy of the table taken before this call, survive a power cut. Helper thread.

        Raises `StorageError` (`NoSpaceError`) if the data could not be written or the part file is no longer ours.
        """
        if self._part is None or self._journal is None:
            return
        with mapped(self.part_path):
            self._part.check()
            self._sync(self._part)
            self._journal.checkpoint(rows)

    def finish(self, size: int, checksum: tuple[str, str] | None, stop: Callable[[], bool]) -> None:
        """Verify the part file, give it the final name, and remove the journal. Helper thread.

        Parameters: `size`, its length in bytes; `checksum`, (hashlib name, hex digest); `stop`, asked again and again
        whether to give up while the checksum is computed.

        Raises `IntegrityError` (then nothing is left), `InterruptedDownload`, `ExistsError` and every other
        `StorageError` (then part file and journal are kept).
        """
        if self.memory is not None:
            assert len(self.memory) == size, "all of it is there"
            if self.unclaimed and self._store(self.memory, checksum):
                self._let_go()
                return
            self.claim()
            with mapped(self.part_path):
                owned.write(self.fd, self.memory)
        part = self._part
        assert part is not None, "nothing was begun"
        with mapped(self.path):
            if part.size < 0:
                if os.fstat(part.fd).st_size > size:
                    os.ftruncate(part.fd, size)
                part.size = size
            if part.size != size:
                raise StorageError(f"{printable(self.part_path)} has {part.size} bytes and should have {size}")
            part.check()
            if checksum:
                if self._options.sync:
                    self._poisoning(part.hand_down, [(0, size)])  # the disk works while the processor does
                self._verify(part, checksum, stop)
            place.give_usual_permissions(part.fd, self._final)
            if self._options.sync:
                self._sync(part)
            part.check()
            self._publish()
            if self._options.sync:
                owned.sync_folder(os.path.dirname(self._final))
        try:
            self.discard()
        except StorageError:
            pass  # the file is complete and in its place; a journal without a part file is worth nothing

    @property
    def storable(self) -> bool:
        """Whether all that is left to do is to write `memory` to a new file at `final`, in one go, and call `stored`."""
        return self.unclaimed and not self._options.sync and not self._options.overwrite

    @property
    def final(self) -> str:
        """The absolute path of the finished file."""
        return self._final

    def stored(self) -> None:
        """The file was written, and has its name."""
        self._let_go()

    def _store(self, memory: bytearray, checksum: tuple[str, str] | None) -> bool:
        """Write the file and give it its name in one go. False where that cannot be done."""
        with mapped(self.path):
            if checksum:
                from hashlib import new

                self._compare_digests(new(checksum[0], memory).hexdigest(), checksum)
            while not self._options.overwrite:
                try:
                    done = whole.write(self._final, memory, sync=self._options.sync)
                except FileExistsError:
                    self._name_is_taken()
                else:
                    if done and self._options.sync:
                        owned.sync_folder(os.path.dirname(self._final))
                    return done
        return False

    def _name_is_taken(self) -> None:
        """Go on to the next name; raises `ExistsError`, `UnsafePathError` if that is not wanted."""
        try:
            place.check_name(self._final, self.path, overwrite=False)
        except ExistsError as error:
            self._next_name(error)

    def close(self, keep: bool = True) -> None:
        """Close everything and keep what can be resumed; what cannot is removed. Idempotent, raises nothing.

        `keep`: False removes all.
        """
        if not keep:
            try:
                self.discard()
            except StorageError:
                pass  # it is closed all the same
        part, journal = self._let_go()
        try:
            if journal is not None:
                journal.close()
            if part is not None:
                part.remove() if journal is None else part.close()
        except OSError:
            pass  # nothing is lost: what counts was synced before, and the descriptors are closed all the same

    def discard(self) -> None:
        """Remove part file and journal, as far as they are held here. Raises `StorageError`."""
        part, journal = self._let_go()
        with mapped(self.path):
            try:
                if journal is not None:
                    journal.remove()
            finally:
                if part is not None:
                    part.remove()

    def _publish(self) -> None:
        while True:
            try:
                place.publish(self.part_path, self._final, self.path, overwrite=self._options.overwrite)
                return
            except ExistsError as error:
                self._next_name(error)

    def _next_name(self, error: StorageError) -> None:
        """Go on to the next number, as the name is taken; where that is not wanted, or there are too many, raise `error`.

        Part file and journal that are held keep their names: the file came up while it was downloaded, and the next name is
        then one that is free in every way.
        """
        while self._options.rename and self._number < MOST_NUMBERS:
            self._number += 1
            folder, name = os.path.split(self._wanted)
            path = os.path.join(folder, numbered(name, self._number))
            if self._part is None and self.memory is None:
                self._take_name(path)
                return
            final = os.path.join(self._here, path)
            if not any(os.path.lexists(final + suffix) for suffix in ("", PART_SUFFIX, JOURNAL_SUFFIX)):
                self.path, self._final = path, final
                if self._part is None:
                    self._take_name(path)
                return
        raise error

    def _take_name(self, path: str) -> None:
        self.path = path
        self._final = os.path.join(self._here, path) if self._here else path
        self.part_path = self._final + PART_SUFFIX
        self.journal_path = self._final + JOURNAL_SUFFIX

    def _let_go(self) -> tuple[PartFile | None, Journal | None]:
        held = self._part, self._journal
        self._part = self._journal = self.memory = None
        self.table = memoryview(b"")
        return held

    def _take_up(self) -> Resumable | None:
        from fastidm.storage.journal import Journal, JournalDamaged, hash_url

        try:
            self._journal = journal = Journal.open(self.journal_path)
        except FileNotFoundError:
            return None
        except JournalDamaged:
            owned.check_free(self.part_path)  # before its journal is whole, a new download holds this
            Journal.discard(self.journal_path)
            owned.drop(self.part_path)
            return None
        try:
            identity = journal.identity
            if identity.total == 0:  # none of ours: an empty file needs no journal
                raise PartChanged(self.part_path)
            self._part = part = PartFile.open(self.part_path, identity.total, io=self._options.io)
            if not _is_the_one(part, identity):
                raise PartChanged(self.part_path)
            _, believed = journal.believed(part_size=part.size)
            claims = [(start, part.written_until(start, stop)) for start, stop in believed]
        except PartChanged:
            self.discard()
            owned.drop(self.part_path)
            return None
        except BaseException:
            self.close()
            raise
        content = Content(identity.total, identity.etag, identity.last_modified)
        same_url = hash_url(self._url, identity.url_salt) == identity.url_hash
        return Resumable(content, [claim for claim in claims if claim[0] < claim[1]], same_url)

    def _new_journal(self, part: PartFile, content: Content) -> Journal:
        from fastidm.storage.journal import Identity, Journal, hash_url

        salt = os.urandom(16)
        identity = Identity(
            total=part.size,
            etag=content.etag,
            last_modified=content.last_modified,
            url=redact(self._url),
            url_salt=salt,
            url_hash=hash_url(self._url, salt),
            device=part.device,
            inode=part.inode,
            birth_ns=part.birth_ns,
        )
        # Who holds the part file owns the name: whoever else locks the journal will see that and let go of it in a moment.
        for _ in range(_ATTEMPTS):
            try:
                return Journal.create(self.journal_path, identity)
            except (LockedError, FileExistsError):
                sleep(_MOMENT)
            try:
                owned.drop(self.journal_path)
            except LockedError:
                pass
        raise owned.locked(self.journal_path)

    def _drop_stale(self) -> None:
        owned.check_free(self.part_path)  # before its journal is locked, a new download holds this
        owned.drop(self.journal_path)  # first: it must never be there together with a part file that is not its own
        owned.drop(self.part_path)
        self._stale = False

    def _drop_leftovers(self) -> None:
        """The final file is there. If the run that gave it its name ended right then, remove what it did not get to."""
        try:
            if place.same_file(self.part_path, self._final):
                owned.drop(self.part_path)
            if not os.path.lexists(self.part_path):
                owned.drop(self.journal_path)
        except (OSError, StorageError):
            pass  # held by a process, or nothing of ours

    def _sync(self, part: PartFile) -> None:
        self._poisoning(part.sync)

    def _poisoning(self, call: Callable[..., Result], *arguments: object) -> Result:
        """What `call` returns; if it tells that something written was lost, the journal is believed no more."""
        try:
            return call(*arguments)
        except OSError:
            if self._journal is not None:
                self._journal.poison()
            raise

    def _verify(self, part: PartFile, checksum: tuple[str, str], stop: Callable[[], bool]) -> None:
        from fastidm.storage.checksum import file_digest

        algorithm, _ = checksum
        self._compare_digests(file_digest(part.fd, algorithm, stop), checksum)

    def _compare_digests(self, got: str, checksum: tuple[str, str]) -> None:
        algorithm, expected = checksum
        if got != expected.lower():
            self.discard()
            raise IntegrityError(
                f"{printable(self.path)} has the {algorithm} checksum {got}, expected was {expected}",
                "nothing was kept; check what is expected, or try another source",
            )


def fits_memory(total: int | None) -> bool:
    """Whether a file of `total` bytes is kept in memory until all of it is there."""
    return total is not None and total <= IN_MEMORY


def _is_the_one(part: PartFile, identity: Identity) -> bool:
    """Whether the part file, whose size is right, is the one that the journal was written for."""
    if (part.inode, part.birth_ns) != (identity.inode, identity.birth_ns):
        return False
    # Many file systems (btrfs, overlay, NFS) get another device number with each mount. Without a time of birth it is
    # needed all the same, as inode numbers are given out again.
    return part.birth_ns > 0 or part.device == identity.device
