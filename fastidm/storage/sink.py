"""The sink: what libcurl's bytes are handed to, once in C and once in Python.

Rules of this module:

* `Sink` is the C one; without a built extension, or with FASTIDM_PURE=1 in the environment, it is `PureSink`. The two
  do the same with the same bytes, and the same tests run on both.
* A sink cannot write outside its row, nor at or beyond the end of the file, whatever it is given (`_bounds`).
* From a row's position to its limit a map may leave zeros: it clears pages before it fills them (`_blank`).
* A row's position moves after its bytes are in the file, never before (`_advance`).
* A row is read anew for every piece: its owner may lower `stop` at any time, and when two sinks fill one row, whoever
  is ahead writes; what the other one brings lies below the position by then, and is compared.
* A page of the map that is gone, or that the disk has no room for, fails the sink, and is no signal. The C one catches the
  SIGBUS (and falls back to PWRITE where it could not, because the thread blocks SIGBUS, or because somebody has put his own
  handler over its). The Python one cannot. It touches only pages that it has populated a moment ago, and writes by
  PWRITE where the kernel cannot populate; a file that is cut in that moment still ends the process.
* A sink belongs to the thread that owns the table. The C one raises `RuntimeError` when two threads meet in it.
"""

from __future__ import annotations

import errno as codes
import os
from time import perf_counter_ns

from fastidm.core.segments import ROW_BYTES, WORDS

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from _typeshed import ReadableBuffer, WriteableBuffer

PAUSE = 0x10000001
"""What a sink on HOLD answers: libcurl keeps the block and stops reading (CURL_WRITEFUNC_PAUSE)."""

PWRITE, MAP = 0, 1
"""Modes: gather blocks and write them at once, or copy them into a mapped window of the file."""

HOLD, ARMED, FULL, FAILED, CLOSED = range(5)
"""States: not told yet; receiving; the row's stop is reached; see `errno` and `mismatch`; closed."""

STATE_NAMES = ("HOLD", "ARMED", "FULL", "FAILED", "CLOSED")

# The reasons for these numbers are at their twins in _hotpath.c.
_GATHER = 128 << 10
_POPULATE_STEP = 128 << 10
_WINDOW = 512 << 10
_STRIDE = 2 << 20
_LARGEST = 1 << 30
_LONGEST_SEAM = 64 << 10
_COMPARE_STEP = 16 << 10
_ZEROS = bytes(_POPULATE_STEP)
_MADV_POPULATE_READ = 22
_MADV_POPULATE_WRITE = 23
_TMPFS = 0x01021994


class PureSink:
    """A WRITEFUNCTION for one request, which fills one row of a table (see `core.segments`).

    Parameters: `fd`, the part file, open for reading and writing, not closed here; `table`, a writable buffer of rows,
    held until `close`; `size`, bytes of the part file, or -1 when unknown (then the mode is always PWRITE); `dirty`, a
    list to which the sink adds itself when it begins to gather: its owner calls `flush` on each and clears it, soon;
    `gather`, bytes that PWRITE gathers; `window`, bytes that MAP maps, rounded up to whole pages. Both lie at multiples
    of themselves in the file. `memory`, a writable buffer of `size` bytes that stands for the file, held until `close`;
    then `fd` is not used, and nothing is gathered. `hand_down(start, stop)` is called when PWRITE has written
    `stride` bytes more of the file, to have the disk begin with them. It raises nothing, and returns 0; an errno, with which
    the sink fails; or -1, not to be called again.

    All attributes but `mode` are for reading. A `mode` that is set takes effect when the buffer is empty or the window
    is left; it falls back to PWRITE where the file cannot be mapped.

    Raises `ValueError` for a parameter out of range.
    """

    HOLD, ARMED, FULL, FAILED, CLOSED = range(5)

    def __init__(
        self,
        fd: int,
        table: WriteableBuffer,
        size: int,
        dirty: list[PureSink],
        *,
        gather: int = _GATHER,
        mode: int = PWRITE,
        window: int = _WINDOW,
        memory: WriteableBuffer | None = None,
        hand_down: Callable[[int, int], int] | None = None,
        stride: int = _STRIDE,
    ) -> None:
        if size < -1 or mode not in (PWRITE, MAP) or not 1 <= gather <= _LARGEST or not 1 <= window <= _LARGEST or stride < 1:
            raise ValueError("size, gather, mode, window or stride is out of range")
        if not isinstance(dirty, list):
            raise TypeError("dirty must be a list")
        self.state = HOLD
        self.row = -1
        self.cursor = 0
        """File offset of the next body byte."""
        self.received = 0
        """Bytes of body taken while ARMED, overlap included."""
        self.written = 0
        """Bytes that this sink has added to the file."""
        self.errno = 0
        """Why writing failed; 0 if it did not."""
        self.mismatch = -1
        """File offset of the first body byte that differed from the file; -1 if none."""
        self.cost_ns = self.cost_bytes = 0
        """Time spent on writing and bytes written in the present mode, since it was set."""
        self._memory = None if memory is None else memoryview(memory).cast("B")
        if self._memory is not None and self._memory.readonly:
            raise BufferError("the memory is not writable")
        if self._memory is not None and not 0 <= size <= len(self._memory):
            raise ValueError("the memory is smaller than the file")
        self._table = _words(table)
        self._fd, self._size, self._dirty, self._gather = fd, size, dirty, gather
        self._page = os.sysconf("SC_PAGESIZE")
        self._window = -(-window // self._page) * self._page
        self._gathered = bytearray()  # the last bytes before the cursor
        self._map: mmap.mmap | None = None  # the file's [map_start, map_stop), populated once below ready
        self._map_start = self._map_stop = self._ready = 0
        self._advice = 0  # what makes pages ready; 0: not asked yet
        self._position = self._limit = 0
        self._seam = 0  # bytes after the row's stop that are to be kept
        self._crossing = False  # the row is full, what comes now is kept
        self._beyond = bytearray()
        self._hand_down, self._stride = hand_down if memory is None else None, stride
        self._handed = -1  # what PWRITE wrote below it was handed down; -1: it begins anew
        self.mode = mode

    @property
    def mode(self) -> int:
        """PWRITE or MAP. Setting it resets the cost; raises `ValueError` for anything else."""
        return self._mode

    @mode.setter
    def mode(self, mode: int) -> None:
        if mode not in (PWRITE, MAP):
            raise ValueError("mode must be 0 (PWRITE) or 1 (MAP)")
        self._mode = PWRITE if self._size < 0 or self._memory is not None else mode
        self.cost_ns = self.cost_bytes = 0

    @property
    def beyond(self) -> bytes:
        """The last bytes before the cursor that came after the row's stop, at most `seam`; none once closed."""
        return bytes(self._beyond)

    def arm(self, row: int, cursor: int, seam: int = 0, /) -> None:
        """From HOLD: the body goes to `row`, and begins at file offset `cursor`, at or below the row's position.

        Bytes below the position are compared with the file. Of what comes after the row's stop, `seam` bytes are kept, see
        `beyond`; then the sink is FULL.

        Raises `ValueError` for a row, cursor or seam that cannot be.
        """
        if self.state != HOLD:
            raise ValueError(f"cannot arm a sink that is {STATE_NAMES[self.state]}")
        if not 0 <= row < len(self._table) // WORDS:
            raise ValueError(f"there is no row {row}")
        start, stop, position, _ = self._table[WORDS * row : WORDS * (row + 1)]
        if not 0 <= start <= position <= stop or not 0 <= cursor <= position:
            raise ValueError(f"row {row}, cursor {cursor}: out of order")
        if not 0 <= seam <= _LONGEST_SEAM:
            raise ValueError(f"no seam has {seam} bytes")
        self.row, self.cursor, self._seam, self.state = row, cursor, seam, ARMED

    def __call__(self, block: ReadableBuffer, /) -> int | None:
        """Take one block. Returns None: taken; `PAUSE`: on HOLD, not taken; less than its length: end the transfer."""
        if self.state == HOLD:
            return PAUSE
        taken = 0
        with memoryview(block) as whole, whole.cast("B") as data:
            length = len(data)
            if self.state == ARMED and length:
                try:
                    taken = self._take(data)
                except OSError as error:
                    self._fail(error)
        return taken if taken < length else None

    def flush(self) -> bool:
        """Write out what is gathered. Returns False if the sink has failed, now or earlier."""
        if self._gathered:
            try:
                self._drain()
                self._bounds(0)
            except OSError as error:
                self._fail(error)
            else:
                if self.cursor >= self._limit:  # the stop has come down to what was gathered
                    self._fill_up()
        return self.state != FAILED

    def close(self) -> None:
        """Drop what is gathered, and let go of the table, the map and the list. Idempotent."""
        self.state = CLOSED
        self._gathered = bytearray()
        self._unmap()
        self._table.release()
        if self._memory is not None:
            self._memory.release()
        self._dirty = []
        self._beyond = bytearray()
        self._hand_down = None

    def __repr__(self) -> str:
        return (
            f"<Sink {STATE_NAMES[self.state]} {'MAP' if self._mode == MAP else 'PWRITE'} row={self.row}"
            f" cursor={self.cursor} received={self.received} written={self.written}"
            f" errno={self.errno} mismatch={self.mismatch}>"
        )

    # From here on OSError means that the sink has failed; its errno is 0 for a mismatch.

    def _fail(self, error: OSError) -> None:
        self.state, self.errno = FAILED, error.errno or 0
        self._gathered = bytearray()
        self._unmap()

    def _charge(self, mode: int, since: int, count: int) -> None:
        if mode == self._mode:  # what an earlier mode still does is not charged to the later one
            self.cost_ns += perf_counter_ns() - since
            self.cost_bytes += count

    def _unmap(self) -> None:
        if self._map is not None:
            self._map.close()
        self._map = None

    def _bounds(self, at: int) -> None:
        """Read the row's position and limit, now that this sink is done with everything below `at`."""
        start, self._limit, self._position, _ = self._table[WORDS * self.row : WORDS * (self.row + 1)]
        if 0 <= self._size < self._limit:
            self._limit = self._size
        if start < 0 or self._position < start or self._position < at:
            raise OSError(codes.EINVAL, "the row is broken, or was given to somebody else")

    def _advance(self, to: int) -> None:
        """The row's bytes below `to` are in the file."""
        at = WORDS * self.row
        to = min(to, self._table[at + 1])
        if to > self._table[at + 2]:
            self._table[at + 2] = to
            self._table[at + 3] = ~to

    def _take(self, data: memoryview) -> int:
        taken = 0
        while True:
            if self._crossing:
                return taken + self._keep(data[taken:])
            self._bounds(self.cursor - len(self._gathered))
            if self.cursor >= self._limit:
                self._drain()
                self._unmap()
                self._fill_up()
                if self.state == FULL:
                    return taken
                continue
            if taken == len(data):
                return taken
            n = min(len(data) - taken, self._limit - self.cursor)
            empty = not self._gathered
            overlap = empty and self.cursor < self._position
            room = self._gather - self.cursor % self._gather
            mapped = self._map is not None or self._mode == MAP or self._memory is not None
            straight = empty and (mapped or n >= room == self._gather)
            if overlap:
                n = min(n, self._position - self.cursor)
            elif not straight:
                n = min(n, room)
            self.cursor += n
            self.received += n
            if overlap or straight:
                self._place(data[taken : taken + n], self.cursor - n)
            else:
                self._stash(data[taken : taken + n])
            taken += n

    def _fill_up(self) -> None:
        """Nothing is left to be written."""
        if self._seam:
            self._crossing = True
        else:
            self.state = FULL

    def _keep(self, data: memoryview) -> int:
        """Keep what comes beyond the row's stop for the owner; the number of bytes taken."""
        data = data[: self._seam - len(self._beyond)]
        self._beyond += data
        self.cursor += len(data)
        self.received += len(data)
        if len(self._beyond) == self._seam:
            self.state = FULL
        return len(data)

    def _stash(self, data: memoryview) -> None:
        """Gather the last bytes before the cursor; they do not go beyond the next multiple of `gather`."""
        since = perf_counter_ns()
        if not self._gathered and not (self._dirty and self._dirty[-1] is self):
            self._dirty.append(self)
        self._gathered += data
        self._charge(PWRITE, since, 0)
        if self.cursor % self._gather == 0:
            self._drain()

    def _drain(self) -> None:
        self._place(memoryview(self._gathered), self.cursor - len(self._gathered))
        self._gathered = bytearray()

    def _place(self, data: memoryview, at: int) -> None:
        """Afterwards the file holds `data` at `at`, as far as that lies below the limit."""
        while data:
            self._bounds(at)
            if at >= self._limit:
                return
            n = min(len(data), self._limit - at)
            if at < self._position:
                n = min(n, self._position - at)
                self._compare(data[:n], at)
            else:
                done = 0
                # Gathered bytes never go by map: a mode that was set meanwhile waits until the buffer is empty.
                if not self._gathered and (self._map is not None or self._mode == MAP):
                    done = self._write_map(data[:n], at)
                n = done or self._write_file(data[:n], at)
                self._advance(at + n)
                self.written += n
                if done:
                    self._handed = -1
                elif self._hand_down is not None:
                    self._begin_writing(at, at + n, self._hand_down)
            data, at = data[n:], at + n

    def _begin_writing(self, start: int, stop: int, hand_down: Callable[[int, int], int]) -> None:
        """Have the disk begin with what PWRITE wrote, each `stride` bytes; [start, stop) was written just now."""
        if self._handed < 0:
            self._handed = start
        stop -= stop % self._gather  # a page that is not full would be written twice
        if stop - self._handed < self._stride:
            return
        error = hand_down(self._handed, stop)
        self._handed = stop
        if error < 0:
            self._hand_down = None
        elif error:
            raise OSError(error, os.strerror(error))

    def _compare(self, data: memoryview, at: int) -> None:
        while data:
            n = min(len(data), _COMPARE_STEP)
            held = os.pread(self._fd, n, at) if self._memory is None else bytes(self._memory[at : at + n])
            if not held:
                raise OSError(codes.EIO, "the file is shorter than the row claims")
            if data[: len(held)] != held:
                self.mismatch = at + next(i for i, byte in enumerate(held) if byte != data[i])
                raise OSError(0, "the body differs from the file")
            data, at = data[len(held) :], at + len(held)

    def _write_file(self, data: memoryview, at: int) -> int:
        if self._memory is not None:
            self._memory[at : at + len(data)] = data
            return len(data)
        since = perf_counter_ns()
        n = os.pwrite(self._fd, data, at)
        if n == 0:
            raise OSError(codes.EIO, "nothing was written")
        self._charge(PWRITE, since, n)
        return n

    def _write_map(self, data: memoryview, at: int) -> int:
        """The number of bytes written; 0: not by map, and the mode is PWRITE by now."""
        since = perf_counter_ns()
        if not self._map_start <= at < self._map_stop:
            self._unmap()
        if self._map is None and self._mode == MAP:
            self._map_window(at)
        data = data[: self._map_stop - at]
        if self._map is None or not self._populate(self._map, at, at + len(data)):
            self._unmap()
            if self._mode == MAP:
                self.mode = PWRITE
            return 0
        self._map[at - self._map_start : at - self._map_start + len(data)] = data
        if at + len(data) == self._map_stop:
            self._unmap()
        self._charge(MAP, since, len(data))
        return len(data)

    def _map_window(self, at: int) -> None:
        """Map the window that holds `at`, if the file can be mapped."""
        import mmap

        if self._fd < 0:
            return  # to the mmap module, -1 means memory without a file
        if not self._advice:
            from fastidm.storage import linux

            self._advice = _MADV_POPULATE_READ if linux.file_system(self._fd) == _TMPFS else _MADV_POPULATE_WRITE
        start = at - at % self._window
        length = min(self._window, self._size - start)
        try:
            self._map = mmap.mmap(self._fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=start)
        except ValueError:
            raise OSError(codes.EIO, "the file is shorter than its size") from None
        except OSError:
            return
        self._map_start, self._map_stop, self._ready = start, start + length, start

    def _populate(self, window: mmap.mmap, at: int, to: int) -> bool:
        """Make [at, to) of the window writable without a fault, for now. False: this map is no good."""
        while at < to:
            stop = to
            if stop > self._ready:
                stop = min((max(at, self._ready) // _POPULATE_STEP + 1) * _POPULATE_STEP, self._limit, self._map_stop)
                self._blank(max(at, self._ready), stop)
            first = at - at % self._page
            try:
                window.madvise(self._advice, first - self._map_start, stop - first)
            except OSError as error:
                if error.errno == codes.EFAULT:
                    cut = os.fstat(self._fd).st_size < stop
                    raise OSError(codes.EIO if cut else codes.ENOSPC, "the file has no room here") from None
                return False
            at = stop
            self._ready = max(self._ready, at)
        return True

    def _blank(self, at: int, to: int) -> None:
        """Write zeros where the row's bytes will be: so their pages are cheaper than by faults, see the twin in _hotpath.c."""
        if os.fstat(self._fd).st_size < to:
            raise OSError(codes.EIO, "the file was cut, and is not to grow again")
        while at < to:
            n = os.pwrite(self._fd, _ZEROS[: to - at], at)
            if n == 0:
                raise OSError(codes.EIO, "nothing was written")
            at += n


def _words(table: WriteableBuffer) -> memoryview:
    """`table` as int64 words."""
    view = memoryview(table)
    if view.readonly:
        raise BufferError("the table is not writable")
    try:
        octets = view.cast("B")
    except TypeError:  # a structured array: only this strips the structure
        from pickle import PickleBuffer

        octets = PickleBuffer(table).raw()
    if len(octets) % ROW_BYTES:
        raise ValueError("the table must be rows of four int64, aligned to 8 bytes")
    return octets.cast("q")


Sink: type[PureSink] = PureSink
"""The sink to use. Its type is that of the Python one, which also says how to use it."""

SINK_KIND = "pure"
"""Which of the two `Sink` is: "c" or "pure"."""

if os.environ.get("FASTIDM_PURE") != "1":
    try:
        from fastidm import _hotpath
    except ImportError:
        pass  # there was no compiler when this was installed
    else:
        Sink, SINK_KIND = _hotpath.Sink, "c"  # type: ignore[assignment]
