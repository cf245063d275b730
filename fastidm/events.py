"""What a running download tells whoever listens: immutable values, one class per kind.

Rules of this module: an event holds plain values, so it may be kept, pickled or sent across threads. The class attribute
`kind` and the field names are the names in `--json`; they are stable. Sizes are bytes, times seconds, rates bytes per second.
"""

from __future__ import annotations

from enum import Enum

from fastidm.records import record


class DownloadStatus(Enum):
    """Where a task is in its life."""

    PENDING = "pending"
    DOWNLOADING = "downloading"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"


@record(frozen=True)
class Started:
    """The first answer was accepted: name and size are known."""

    kind = "start"
    url: str
    """As it may be shown: without password and query."""
    path: str
    size: int | None
    """None: the server does not say."""
    resumed: int
    """Bytes that an earlier run had received."""
    ranges: bool
    """Whether the server can send parts, so that several connections are possible."""


@record(frozen=True)
class Progress:
    """How far it is; several times a second."""

    kind = "progress"
    url: str
    path: str | None
    size: int | None
    received: int
    """Bytes of the file that are written, those of an earlier run included."""
    rate: float
    """Bytes per second, over the last seconds."""
    eta: float | None
    """Seconds that are left at this rate, or None."""
    connections: int
    """Connections that are receiving now."""
    segments: tuple[tuple[int, int, int], ...]
    """(start, stop, position) of every segment, sorted; they tile the file."""


@record(frozen=True)
class Retrying:
    """Something failed and will be tried again."""

    kind = "retry"
    url: str
    reason: str
    delay: float
    """Seconds until the next try."""
    failures: int
    """Failures in a row without progress."""


@record(frozen=True)
class Paused:
    """It was stopped; everything received is kept, and it can go on."""

    kind = "pause"
    url: str
    path: str | None
    received: int


@record(frozen=True)
class Result:
    """A download that is complete and verified, and how it came."""

    url: str
    path: str
    """Where the file is; "" if it is in memory."""
    size: int
    seconds: float
    rate: float
    """Mean over the whole run: bytes received in this run by its seconds."""
    received: int
    """Bytes of the file that this run received."""
    resumed: int
    connections: int
    """The most connections that received at the same time."""
    retries: int
    checksum: str | None
    """`sha256:HEX` when one was verified: the checksum that was asked for, else the one that the server gave (Repr-Digest)."""
    length_unverified: bool
    """True when the server never said how long the file is."""
    final_url: str
    """Where redirects led, as it may be shown."""
    validator: str | None
    """What the server names this version of the file by: its ETag, else its Last-Modified."""

    @property
    def digests(self) -> dict[str, str]:
        """Algorithm -> hexadecimal digest, of those that were verified."""
        algorithm, colon, digest = (self.checksum or "").partition(":")
        return {algorithm: digest} if colon else {}


@record(frozen=True)
class Finished(Result):
    """The file is complete, verified, and under its final name."""

    kind = "done"


@record(frozen=True)
class Failed:
    """It ended without a finished file."""

    kind = "error"
    url: str
    error: str
    """Stable name, see `fastidm.errors.EXIT_CODES`."""
    exit_code: int
    message: str
    hint: str


Event = Started | Progress | Retrying | Paused | Finished | Failed
