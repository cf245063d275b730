"""What a task wishes, and what it is told: the values that pass between the core and the engine.

Rule of this module: plain immutable values. Offsets and sizes are bytes; ranges are inclusive as in HTTP.
"""

from __future__ import annotations

from enum import Enum

from fastidm.core.response import Content, Head
from fastidm.core.retry import Trouble
from fastidm.errors import FastidmError
from fastidm.records import record


@record(frozen=True)
class Request:
    """Open connection `connection` for bytes first..last (`first` None: no Range; `last` None: to the end)."""

    connection: int
    url: str
    first: int | None
    last: int | None
    fresh: bool
    """Not over a kept-alive connection."""


@record(frozen=True)
class Arm:
    """Let the body of `connection` into segment `row`; its first byte belongs at offset `cursor`."""

    connection: int
    row: int
    cursor: int
    seam: int
    """Bytes after the segment's stop that are kept, to be compared with what the next segment has."""


@record(frozen=True)
class Cancel:
    """End a connection; nothing of it will be told back."""

    connection: int


@record(frozen=True)
class Open:
    """Make part file and journal for `content`, or go on with `rows` of an earlier run."""

    content: Content
    head: Head
    rows: bytes | None


@record(frozen=True)
class Discard:
    """The task begins anew: the next `Open` replaces what was written."""

    worthless: bool = False
    """What was written is nobody's file: it is not to be kept even if there is no next `Open`."""


@record(frozen=True)
class Withdraw:
    """What this run wrote may be of another file: unless the task begins anew, `rows` are what is kept."""

    rows: bytes


@record(frozen=True)
class Compare:
    """Compare what connections brought beyond their segments with what is written there."""


@record(frozen=True)
class Finish:
    """Verify, sync and rename the file of `size` bytes."""

    size: int


@record(frozen=True)
class Notify:
    """Tell the user that something will be tried again after `delay` seconds."""

    reason: str
    delay: float
    failures: int


@record(frozen=True)
class Close:
    """The task has ended or pauses: let go of part file and journal; what is worth keeping stays."""


Action = Request | Arm | Cancel | Open | Discard | Withdraw | Compare | Finish | Notify | Close


class Place(Enum):
    """What becomes of a body that goes into no segment: it waits until storage is open, or nobody wants it."""

    HOLD = "hold"
    DROP = "drop"


@record(frozen=True)
class Ended:
    """How a connection ended: `trouble` None means that the whole body came, or that its segment was cut."""

    trouble: Trouble | None = None
    detail: str = ""
    error: FastidmError | None = None
    """The sink could not write: the task fails."""
    mismatch: int | None = None
    """Offset at which an overlap differed from what was written before."""
    received: int = 0
    """Bytes of the body that came in all."""


@record(frozen=True)
class Resumed:
    """What an earlier run left."""

    content: Content
    claims: tuple[tuple[int, int], ...]
    """Half-open ranges that are written."""
    same_url: bool
    capacity: int
    """Rows that the segment table has room for."""
