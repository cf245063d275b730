"""HTTP/1.1 as text: what a request asks for, and what to answer. No socket, no clock but for the Date header.

Rules of this module: `respond` alone decides which bytes of a file an answer carries. What cannot be read for sure is
answered with the whole file or an error, never with a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate
from typing import NamedTuple

from fastidm.errors import UsageError
from fastidm.options import parse_size

LAST_MODIFIED = "Thu, 01 Jan 2026 00:00:00 GMT"
REASONS = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    416: "Range Not Satisfiable",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Request(NamedTuple):
    """The head of a request; the names of `headers` are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    keep_alive: bool

    @property
    def name(self) -> str:
        """The last part of the path: folders and query mean nothing here."""
        return self.target.partition("?")[0].rpartition("/")[2]


class Response(NamedTuple):
    """What to answer: a head, then either `text` or the bytes [start, stop) of the file."""

    status: int
    headers: tuple[str, ...] = ()
    text: bytes = b""
    start: int = 0
    stop: int = 0

    def head(self, keep_alive: bool) -> bytes:
        """Status line and headers, the empty line included."""
        lines = (
            f"HTTP/1.1 {self.status} {REASONS[self.status]}",
            f"Date: {formatdate(usegmt=True)}",
            "Server: fastidm-demo",
            f"Content-Length: {len(self.text) or self.stop - self.start}",
            *self.headers,
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
        )
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def parse_head(head: bytes) -> Request | None:
    """The request that `head` (without its empty line) asks for, or None when it is no HTTP/1 request."""
    line, *fields = head.decode("latin-1").split("\r\n")
    parts = line.split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0") or not parts[1].startswith("/"):
        return None
    headers = {}
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon:
            return None
        headers[name.strip().lower()] = value.strip()
    # A body that is not read would be taken for the next request.
    body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    closing = headers.get("connection", "").lower() == "close"
    return Request(parts[0], parts[1], headers, keep_alive=parts[2] == "HTTP/1.1" and not closing and not body)


def size_of(name: str) -> int | None:
    """The length in bytes of the file called `name` ("256M.bin", "256M"), or None when there is no such file."""
    for stem in (name, name.rpartition(".")[0]):
        try:
            return parse_size(stem)
        except UsageError:
            continue
    return None


def name_of(size: int) -> str:
    """The shortest name of the file of `size` bytes, without an ending: "256M"."""
    for unit, factor in (("G", 1 << 30), ("M", 1 << 20), ("k", 1 << 10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def respond(request: Request, size: int, seed: int) -> Response:
    """The answer to a request for the file of `size` bytes: 200, 206 or 416.

    A Range that has several parts, or cannot be read, or comes with an If-Range for another file, is passed over.
    """
    etag = f'"{seed:x}-{size:x}"'
    headers = (
        "Content-Type: application/octet-stream",
        "Accept-Ranges: bytes",
        f"ETag: {etag}",
        f"Last-Modified: {LAST_MODIFIED}",
    )
    whole = Response(200, headers, start=0, stop=size)
    if request.headers.get("if-range", etag) not in (etag, LAST_MODIFIED):
        return whole
    wanted = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", ""), re.ASCII)
    if wanted is None or wanted.group() == "bytes=-":
        return whole
    first, last = wanted.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    elif last and int(last) < int(first):
        return whole
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    if start >= size:
        return Response(416, (f"Content-Range: bytes */{size}",))
    return Response(206, (*headers, f"Content-Range: bytes {start}-{stop - 1}/{size}"), start=start, stop=stop)
