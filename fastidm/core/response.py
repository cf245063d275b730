"""May this response's body be written, and where? The acceptance contract.

Rules of this module:

* Nothing is written for a response that `judge` has not accepted. It looks at the head alone: status, Content-Range,
  encoding, length, validators. What it cannot place exactly, it refuses.
* A verdict is one of the small classes below; the task decides what follows from it.
* Numbers are read strictly: digits only, no sign, no space inside, at most 2**63 - 1.

Sources: RFC 9110 sections 8.8 (validators), 14.4 (Content-Range), 15.3.7 (206), 15.5.17 (416); RFC 9112 section 6.3 (length).
"""

from __future__ import annotations

from fastidm.core.retry import retry_after
from fastidm.errors import (
    AuthError,
    BusyError,
    ContentChangedError,
    FastidmError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RedirectError,
    RefusedError,
)
from fastidm.records import field, record, replace

MAX_OFFSET = (1 << 63) - 1
RETRIABLE = frozenset((408, 425, 429, 500, 502, 503, 504))
RANGE_REFUSED = frozenset((400, 403, 405, 416, 501))
"""Statuses that some servers give to any request with a Range header; worth one request without it."""
REDIRECTS = frozenset((301, 302, 303, 307, 308))


@record(frozen=True)
class Head:
    """The status line and the fields of one final response. Field names are lower case; repeated fields stay apart."""

    status: int
    fields: tuple[tuple[str, str], ...]
    _first: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_first", dict(reversed(self.fields)))

    def get(self, name: str) -> str | None:
        """The first field of that name."""
        return self._first.get(name)

    def all(self, name: str) -> list[str]:
        """All fields of that name, in order."""
        return [value for known, value in self.fields if known == name] if name in self._first else []


@record(frozen=True)
class Content:
    """What pins the remote file: total size in bytes and validators, each None when the server does not say."""

    total: int | None = None
    etag: str | None = None
    last_modified: str | None = None


@record(frozen=True)
class Accepted:
    """The body may be written from offset `start` on; it ends before `stop` (None: nobody knows)."""

    start: int
    stop: int | None
    content: Content
    ranges: bool
    """Whether the server has shown that it can send parts."""


@record(frozen=True)
class Redirected:
    """The file is elsewhere; `core.redirect` says where."""


@record(frozen=True)
class WithoutRange:
    """The server does not do ranges, or not like this: the first request is worth sending again without one."""

    error: FastidmError


@record(frozen=True)
class RangeIgnored:
    """The whole file came where a part was asked for; not a byte of it may be written here."""

    content: Content


@record(frozen=True)
class Again:
    """Not now: try later, after `delay` seconds if the server says how long."""

    error: FastidmError
    delay: float | None = None


@record(frozen=True)
class Refused:
    """No, and asking again will not help."""

    error: FastidmError


Verdict = Accepted | Redirected | WithoutRange | RangeIgnored | Again | Refused


def judge(
    head: Head, first: int | None, last: int | None, pinned: Content | None, now_utc: float, *, probe: bool = False
) -> Verdict:
    """The verdict on a response.

    Parameters: `first` and `last`, the range that was asked for (inclusive; `last` None: to the end; `first` None: no Range
    was sent); `pinned`, what the file is known to be, or None for the first response; `now_utc`, seconds since the epoch, for
    the date form of Retry-After; `probe`, it is the first request of a run, so that asking without a range is an option even
    where an earlier run got parts.
    """
    verdict = _judge(head, first, last, pinned, now_utc)
    if isinstance(verdict, WithoutRange) and not (probe or pinned is None):
        return Refused(verdict.error)
    return verdict


def _judge(head: Head, first: int | None, last: int | None, pinned: Content | None, now_utc: float) -> Verdict:
    status = head.status
    if status in (200, 206):
        try:
            length = content_length(head)
        except ValueError:
            return Refused(ProtocolError("the server sent a Content-Length that is no length, or several that differ"))
        error = _body_refused(head)
        if error is None:
            return _part(head, length, first, last, pinned) if status == 206 else _whole(head, length, first, pinned)
        return WithoutRange(error) if status == 206 and first is not None else Refused(error)
    if status in REDIRECTS:
        return Redirected() if head.get("location") else Refused(RedirectError(f"redirect ({status}) without a location"))
    if status in RETRIABLE:
        return Again(BusyError(f"the server is busy ({_say(status)})"), retry_after(head.get("retry-after"), now_utc))
    if status == 412 and pinned is not None:
        return Refused(ContentChangedError("the remote file has changed: a precondition failed (412)"))
    if status == 416 and first is not None:
        return _unsatisfiable(head, first, pinned)
    refusal = _refusal(status)
    return WithoutRange(refusal) if first is not None and status in RANGE_REFUSED else Refused(refusal)


def _part(head: Head, length: int | None, first: int | None, last: int | None, pinned: Content | None) -> Verdict:
    ranges = head.all("content-range")
    span = parse_content_range(ranges[0]) if len(ranges) == 1 else None
    if span is None:
        return _no_part(first, "a part (206) without a usable Content-Range")
    start, end, total = span
    if first is None or start != first:
        return _no_part(first, f"a part that begins at {start}, not at {first}")
    if length is not None and length != end - start + 1:
        return Refused(ProtocolError("Content-Length and Content-Range contradict each other"))
    if total is None:
        if pinned is None or pinned.total is None:
            return _no_part(first, "a part of a file of unknown size")
        total = pinned.total
    content = Content(total, *validators(head))
    if end >= total:
        return Refused(ProtocolError(f"a part that ends at {end} of {total} bytes"))
    change = changed(pinned, content)
    return Refused(change) if change else Accepted(start, end + 1, content, True)


def _no_part(first: int | None, what: str) -> Verdict:
    """A part that cannot be placed may be the server's habit: the whole file is worth asking for."""
    error = ProtocolError(f"the server sent {what}")
    return Refused(error) if first is None else WithoutRange(error)


def _whole(head: Head, length: int | None, first: int | None, pinned: Content | None) -> Verdict:
    content = Content(length, *validators(head))
    if pinned is not None and pinned.total is not None:
        if _is_a_page(head, content, pinned):
            size = "of unknown length" if content.total is None else f"of {content.total} bytes"
            what = f"the answer is not the file but a text/html page {size}"
            return Again(NetworkError(what, "does this network want a login? the same command goes on where it stopped"))
        if content.total is None:
            content = replace(content, total=pinned.total)  # its end alone would not prove that it is whole
    change = changed(pinned, content)
    if change:
        return Refused(change)
    return RangeIgnored(content) if first else Accepted(0, content.total, content, False)


def _is_a_page(head: Head, seen: Content, pinned: Content) -> bool:
    """Whether this is what a captive portal, or a server in trouble, shows to everybody in place of every file."""
    html = (head.get("content-type") or "").strip().lower().startswith("text/html")
    return html and seen.total != pinned.total and seen.etag is None and seen.last_modified is None


def _body_refused(head: Head) -> ProtocolError | None:
    if any(value.strip().lower() not in ("", "identity") for value in head.all("content-encoding")):
        return ProtocolError("the server sent an encoded body although only identity was asked for")
    if (head.get("content-type") or "").lower().startswith("multipart/byteranges"):
        return ProtocolError("the server sent several parts where one was asked for")
    return None


def _unsatisfiable(head: Head, first: int, pinned: Content | None) -> Verdict:
    total = parse_unsatisfied(head.get("content-range") or "")
    if pinned is None:
        if total == 0:
            return Accepted(0, 0, Content(0, *validators(head)), False)
        return WithoutRange(RefusedError("the server cannot satisfy the range (416)"))
    if total is not None and total != pinned.total:
        return Refused(ContentChangedError(f"the remote file has {total} bytes now, not {pinned.total}"))
    return WithoutRange(ProtocolError(f"the server cannot satisfy a range that begins at {first} (416)"))


def _refusal(status: int) -> FastidmError:
    if status in (401, 407):
        who = "proxy" if status == 407 else "server"
        return AuthError(f"the {who} wants other credentials ({_say(status)})", "give them by --user, --netrc or --proxy")
    if status in (404, 410):
        return NotFoundError(f"the server has no such file ({_say(status)})", "check the URL")
    if status >= 400:
        return RefusedError(f"the server refuses ({_say(status)})")
    return ProtocolError(f"the server gave an answer that is no file ({_say(status)})")


def changed(pinned: Content | None, seen: Content) -> ContentChangedError | None:
    """The error if `seen` is another file than `pinned`, else None.

    Nodes of one CDN may give the same bytes different ETags, so an ETag alone condemns only where Last-Modified and size
    do not both vouch for the file; the overlap check at seams decides the rest.
    """
    if pinned is None:
        return None
    if None not in (pinned.total, seen.total) and pinned.total != seen.total:
        return ContentChangedError(f"the remote file has {seen.total} bytes now, not {pinned.total}")
    same_date = pinned.last_modified is not None and pinned.last_modified == seen.last_modified
    if pinned.etag is not None and seen.etag is not None:
        if pinned.etag == seen.etag or (same_date and None not in (pinned.total, seen.total)):
            return None
        return ContentChangedError("the remote file has changed: its ETag is another one now")
    if None not in (pinned.last_modified, seen.last_modified) and not same_date:
        return ContentChangedError("the remote file has changed: it was modified meanwhile")
    return None


def vouched(pinned: Content, seen: Content) -> bool:
    """Whether a validator says that both are the same file, not merely that nothing speaks against it."""
    if pinned.total is None or pinned.total != seen.total or changed(pinned, seen):
        return False
    pairs = ((pinned.etag, seen.etag), (pinned.last_modified, seen.last_modified))
    return any(ours is not None and ours == theirs for ours, theirs in pairs)


def validators(head: Head) -> tuple[str | None, str | None]:
    """(ETag, Last-Modified) as they were sent; absurdly long ones count as absent."""
    etag, date = head.get("etag"), head.get("last-modified")
    return (etag if etag and len(etag) <= 512 else None), (date if date and len(date) <= 64 else None)


_DIGESTS = {"sha-256": ("sha256", 32), "sha-512": ("sha512", 64)}


def promised_digest(head: Head) -> tuple[str, str] | None:
    """(hashlib name, hex digest) that the server says the whole file has, also in a head of a part (RFC 9530, Repr-Digest).

    None if it says nothing of use: other algorithms, or what is no digest.
    """
    lines = head.all("repr-digest")
    if not lines:
        return None
    said = {}
    for line in lines:
        for member in line[:1024].split(","):
            name, _, value = member.strip().partition("=")
            said[name.lower()] = value.strip()
    for name, (algorithm, size) in _DIGESTS.items():
        text = said.get(name, "")
        if len(text) > 2 and text[0] == text[-1] == ":":
            from binascii import a2b_base64

            try:
                digest = a2b_base64(text[1:-1], strict_mode=True)
            except ValueError:
                continue
            if len(digest) == size:
                return algorithm, digest.hex()
    return None


def content_length(head: Head) -> int | None:
    """The body's length, None when absent.

    Raises `ValueError` when it is malformed, or sent twice with different values (RFC 9112 section 6.3).
    """
    fields = head.all("content-length")
    if not fields or _chunked(head):
        return None
    if len(fields) == 1 and "," not in fields[0]:
        return _number(fields[0].strip())
    values = {value.strip() for field in fields for value in field.split(",")}
    if len(values) > 1:
        raise ValueError("several lengths")
    return _number(values.pop())


def parse_content_range(text: str) -> tuple[int, int, int | None] | None:
    """(first, last, total or None) of "bytes 0-9/100" or "bytes 0-9/*"; None if it is anything else."""
    unit, _, rest = text.strip().partition(" ")
    span, slash, total = rest.strip().partition("/")
    first, dash, last = span.partition("-")
    if unit.lower() != "bytes" or not slash or not dash:
        return None
    try:
        start, end = _number(first), _number(last)
        size = None if total == "*" else _number(total)
    except ValueError:
        return None
    return (start, end, size) if start <= end and (size is None or end < size) else None


def parse_unsatisfied(text: str) -> int | None:
    """The total of "bytes */100"; None if it is anything else."""
    head, _, total = text.strip().partition("*/")
    try:
        return _number(total) if head.strip().lower() == "bytes" else None
    except ValueError:
        return None


def _number(text: str) -> int:
    if text.isascii() and text.isdigit() and (len(text) < 19 or (len(text) == 19 and int(text) <= MAX_OFFSET)):
        return int(text)
    raise ValueError("not a number")


def _chunked(head: Head) -> bool:
    return any("chunked" in value.lower() for value in head.all("transfer-encoding"))


_PHRASES = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    407: "Proxy Authentication Required", 408: "Request Timeout", 410: "Gone", 416: "Range Not Satisfiable",
    429: "Too Many Requests", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip


def _say(status: int) -> str:
    # Not the server's own phrase: remote text has no business in our messages.
    phrase = _PHRASES.get(status)
    return f"{status} {phrase}" if phrase else str(status)
