"""Everything of one download that is on disk, as one thing: the final file, the part file and the journal.

Rules of this module:

* The final name appears only by renaming a complete, verified part file; it replaces nothing unless that was asked for.
* A journal is believed only together with the very part file it was written for, and never for a byte that was not
  written. A damaged one, or one without its part file, is dropped: nobody ever has to delete it by hand.
* While part file and journal are held, both are locked: a second process gets `LockedError` and changes nothing.
* Files of up to `SMALL` bytes or of unknown length have no journal, and their part file does not outlive `close`.
* Every OSError becomes one of our errors here; the foreign one stays as its cause.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastidm.core.response import Content as Content
from fastidm.errors import ExistsError, IntegrityError, StorageError, UnsafePathError, printable, redact
from fastidm.options import Options
from fastidm.storage.naming import JOURNAL_SUFFIX, NAME_MAX, PART_SUFFIX
from fastidm.storage.partfile import SMALL as SMALL
from fastidm.storage.partfile import PartChanged, PartFile, drop, storage_error

if TYPE_CHECKING:
    from fastidm.storage.journal import Journal

ROW = 24
"""Bytes of one row of the segment table."""

_PATH_MAX = 4096
_NO_LINKS = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK})


@dataclass(frozen=True)
class Resumable:
    """What an earlier run left: the content it was downloading and the byte ranges that it wrote."""

    content: Content
    claims: list[tuple[int, int]]
    """(start, stop) of each, half open; may be none."""
    same_url: bool
    """Whether it was downloading from the same URL."""


class Target:
    """The files of one task. One call at a time, from any thread; a new one touches nothing.

    Order: `prepare`; `begin`, or `resume` if `prepare` found something; any number of `checkpoint`; then one of
    `finish`, `close` (keeps what can be resumed) and `discard`. `close` is always allowed, also after the others.
    """

    def __init__(self, path: str, url: str, options: Options) -> None:
        self.path = path
        try:
            here = os.getcwd()  # whoever embeds us may change it meanwhile
        except OSError:
            here = "."
        self._final = os.path.join(here, path)
        self.part_path = self._final + PART_SUFFIX
        self.journal_path = self._final + JOURNAL_SUFFIX
        self.table = memoryview(b"")
        """The segment table, writable from `begin` or `resume` to the end."""
        self._url = url
        self._options = options
        self._part: PartFile | None = None
        self._journal: Journal | None = None

    @property
    def fd(self) -> int:
        """Descriptor of the part file, or -1."""
        return self._part.fd if self._part else -1

    @property
    def size(self) -> int:
        """Length of the part file in bytes, or -1 if it is not known."""
        return self._part.size if self._part else -1

    @property
    def map_allowed(self) -> bool:
        """Whether the part file may be mapped."""
        return self._part is not None and self._part.map_allowed

    @property
    def has_journal(self) -> bool:
        """Whether this download survives its process."""
        return self._journal is not None

    def prepare(self) -> Resumable | None:
        """Before the first request: may there be a file at `path`, and what has an earlier run left? Milliseconds.

        What is returned stays open and locked until `begin`, `close` or `discard`.

        Raises `ExistsError`, `UnsafePathError`, `LockedError`, `JournalVersionError`, `StorageError`.
        """
        with _mapped(self.path):
            self._check_place()
            self._check_names()
            if self._options.restart:
                self._drop_stale()
                return None
            return self._take_up()

    def begin(self, content: Content) -> None:
        """Start from nothing, whatever `prepare` found: reserve the part file and open a journal. Helper thread.

        Raises `NoSpaceError`, `LockedError`, `UnsafePathError`, `StorageError`; then nothing new is left behind.
        """
        with _mapped(self.path):
            self.discard()
            self._drop_stale()
            self._part = PartFile.create(self.part_path, content.total, io=self._options.io)
            try:
                if content.total is None or content.total <= SMALL:
                    self.table = memoryview(bytearray(ROW))
                else:
                    self._journal = self._new_journal(self._part, content)
                    self.table = self._journal.table
                    self._journal.begin_epoch()
            except BaseException:
                self.discard()
                raise

    def resume(self, rows: bytes) -> None:
        """Go on with what `prepare` returned: `rows`, rebuilt from its claims, become the table. Milliseconds."""
        journal = self._journal
        assert journal is not None, "nothing was prepared"
        self.table = journal.table
        words = self.table.cast("q")
        fresh = memoryview(rows.ljust(len(self.table), b"\0")).cast("q")
        for at in range(0, len(fresh), 3):
            if words[at : at + 3] != fresh[at : at + 3]:
                # A kill may come between any two stores, and the rows may be believed already. A row whose stop lies
                # before its position claims nothing; so the stop is taken away first and comes back last.
                words[at + 1] = 0
                words[at] = fresh[at]
                words[at + 2] = fresh[at + 2]
                words[at + 1] = fresh[at + 1]
        words.release()
        journal.begin_epoch()

    def checkpoint(self, rows: bytes) -> None:
        """Make `rows`, a copy of the table taken before this call, survive a power cut. Helper thread.

        Raises `StorageError` (`NoSpaceError`) if the data could not be written or the part file is no longer ours.
        """
        if self._part is None or self._journal is None:
            return
        with _mapped(self.part_path):
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
        part = self._part
        assert part is not None, "nothing was begun"
        with _mapped(self.path):
            if part.size < 0:
                if os.fstat(part.fd).st_size > size:
                    os.ftruncate(part.fd, size)
                part.size = size
            if part.size != size:
                raise StorageError(f"{printable(self.part_path)} has {part.size} bytes and should have {size}")
            part.check()
            if checksum:
                self._verify(part, checksum, stop)
            _give_usual_permissions(part.fd)
            if self._options.sync:
                self._sync(part)
            part.check()
            self._publish()
            if self._options.sync:
                _sync_folder(os.path.dirname(self._final))
        try:
            self.discard()
        except StorageError:
            pass  # the file is complete and in its place; a journal without a part file is worth nothing

    def close(self) -> None:
        """Close everything and keep what can be resumed; what cannot is removed. Idempotent, raises nothing."""
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
        with _mapped(self.path):
            try:
                if journal is not None:
                    journal.remove()
            finally:
                if part is not None:
                    part.remove()

    def _let_go(self) -> tuple[PartFile | None, Journal | None]:
        held = self._part, self._journal
        self._part = self._journal = None
        self.table = memoryview(b"")
        return held

    def _check_place(self) -> None:
        """That the folder can be written to, and that the name and its suffixes fit."""
        folder, name = os.path.split(self._final)
        try:
            size, name_size = len(os.fsencode(self._final)), len(os.fsencode(name))
        except UnicodeEncodeError:
            name = ""
        if name in ("", ".", "..") or "\0" in self._final:
            raise UnsafePathError(f"'{printable(self.path)}' cannot name a file", "choose another name with -o")
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
        try:
            longest = os.pathconf(folder, "PC_NAME_MAX")
        except (OSError, ValueError):
            longest = NAME_MAX
        room = min(longest, _PATH_MAX - 1 - size + name_size) - len(JOURNAL_SUFFIX)
        if name_size > room:
            hint = f"choose one of at most {room} bytes with -o" if room > 0 else "choose another folder with -d"
            raise UnsafePathError(f"the name {printable(self.path)} is too long", hint)
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            reason = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(reason, os.strerror(reason), folder)

    def _check_names(self) -> None:
        """That the three names are free, or are plain files that may be replaced."""
        for path in (self._final, self.part_path, self.journal_path):
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                continue
            link = path == self._final and stat.S_ISLNK(mode)  # replaced as such, like a file; never followed
            if not (stat.S_ISREG(mode) or link):
                raise UnsafePathError(f"{printable(path)} is not a plain file", "choose another name with -o")
            if path == self._final and not self._options.overwrite:
                raise _exists(self.path)

    def _take_up(self) -> Resumable | None:
        if not os.path.lexists(self.journal_path):
            return None  # most often; and so msgpack is not loaded
        from fastidm.storage.journal import Journal, JournalDamaged, hash_url

        try:
            self._journal = journal = Journal.open(self.journal_path)
            identity = journal.identity
            self._part = part = PartFile.open(self.part_path, identity.total, io=self._options.io)
            if (identity.device, identity.inode, identity.birth_ns) != (part.device, part.inode, part.birth_ns):
                raise PartChanged(self.part_path)
            _, believed = journal.believed(part_size=part.size)
            claims = [(start, part.written_until(start, stop)) for start, stop in believed]
        except FileNotFoundError:
            return None
        except (JournalDamaged, PartChanged):
            self.discard()
            self._drop_stale()
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
        return Journal.create(self.journal_path, identity, sync=self._options.sync)

    def _drop_stale(self) -> None:
        drop(self.journal_path)  # first: it must never be there together with a part file that is not its own
        drop(self.part_path)

    def _sync(self, part: PartFile) -> None:
        try:
            part.sync()
        except OSError:
            if self._journal is not None:
                self._journal.poison()
            raise

    def _verify(self, part: PartFile, checksum: tuple[str, str], stop: Callable[[], bool]) -> None:
        from fastidm.storage.checksum import file_digest

        algorithm, expected = checksum
        got = file_digest(part.fd, algorithm, stop)
        if got != expected.lower():
            self.discard()
            raise IntegrityError(
                f"{printable(self.path)} has the {algorithm} checksum {got}, expected was {expected}",
                "nothing was kept; check what is expected, or try another source",
            )

    def _publish(self) -> None:
        self._check_names()
        if self._options.overwrite:
            os.replace(self.part_path, self._final)
            return
        try:
            os.link(self.part_path, self._final)
        except FileExistsError:
            raise _exists(self.path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(self._final):
                raise _exists(self.path) from None
            os.rename(self.part_path, self._final)  # no hard links here: a moment remains in which it could replace
        else:
            os.unlink(self.part_path)


@contextmanager
def _mapped(path: str) -> Iterator[None]:
    """Whatever OSError comes out of the block, as one of our errors that names its own path, else `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def _exists(path: str) -> ExistsError:
    return ExistsError(f"{printable(path)} exists", "choose another name with -o, or replace it with --overwrite")


def _give_usual_permissions(fd: int) -> None:
    """0666 less the process's umask, which is read from /proc: to ask os.umask is to set it, for all threads."""
    try:
        with open("/proc/self/status", "rb") as status:
            umask = next(int(line[6:], 8) for line in status if line.startswith(b"Umask:"))
        os.fchmod(fd, 0o666 & ~umask)
    except (OSError, StopIteration):
        pass  # no /proc, or a file system without permissions: the file stays as private as it is


def _sync_folder(folder: str) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        os.sync()  # the folder may be written but not read
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that know no such thing
            raise
    finally:
        os.close(fd)
