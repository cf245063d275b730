"""What can go wrong, and which exit code says so.

Rules of this module:

* One tree. Its root is `FastidmError`; every error that leaves the package is one of its leaves.
* A leaf *is* an exit code: the class carries it, `EXIT_CODES` lists them all, nothing else defines numbers.
* A message says what happened; `hint` says what to do next. Neither ever holds a secret: URLs pass through `redact`.

    FastidmError (1 internal)
    ├── UsageError 2
    ├── RemoteError: the server or the network
    │   ├── NotFoundError 3          404, 410 and unresolvable paths
    │   ├── RefusedError 4           403 and other 4xx, 5xx that no retry can mend
    │   ├── BusyError 5              429 or 5xx until the retry budget was spent
    │   ├── NetworkError 6           no connection, no name, silence, resets
    │   ├── ContentChangedError 8    the remote file is not the one that was begun
    │   ├── ProtocolError 14         an answer that cannot be trusted or placed
    │   ├── TlsError 16              certificate or handshake
    │   ├── RedirectError 17         too many hops, or to somewhere forbidden
    │   ├── AuthError 18             401, 407; a link that worked and has expired
    │   └── LimitError 19            the answer is larger than it may be
    ├── InterruptedDownload 7        stopped by the user; the same command goes on
    ├── StorageError 10: the disk
    │   ├── NoSpaceError 9
    │   ├── LockedError 11           another process downloads to this target
    │   ├── ExistsError 12
    │   ├── UnsafePathError 13
    │   ├── IntegrityError 15        wrong checksum, or parts that do not fit together
    │   └── JournalVersionError 20   written by a newer fastidm
"""

from __future__ import annotations


class FastidmError(Exception):
    """The root of every error of this package.

    Parameters: `message`, one sentence of what happened; `hint`, what to do next, or "".
    """

    exit_code = 1
    name = "internal"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[FastidmError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class UsageError(FastidmError):
    """The caller asked for something that cannot be: a bad URL, option or value."""

    exit_code = 2
    name = "usage"


class RemoteError(FastidmError):
    """The server or the network; never raised itself, its leaves are."""


class NotFoundError(RemoteError):
    """The server says that there is no such file."""

    exit_code = 3
    name = "not_found"


class RefusedError(RemoteError):
    """The server refuses in a way that no retry can mend."""

    exit_code = 4
    name = "refused"


class BusyError(RemoteError):
    """The server was overloaded until the retry budget was spent."""

    exit_code = 5
    name = "busy"


class NetworkError(RemoteError):
    """No name, no connection, silence or resets until the retry budget was spent."""

    exit_code = 6
    name = "network"


class InterruptedDownload(FastidmError):
    """Stopped on request; everything received is kept and the same command goes on."""

    exit_code = 7
    name = "interrupted"


class ContentChangedError(RemoteError):
    """The remote file is no longer the one that was begun."""

    exit_code = 8
    name = "content_changed"


class StorageError(FastidmError):
    """The disk or the file system failed."""

    exit_code = 10
    name = "io"


class NoSpaceError(StorageError):
    """The disk or a quota is full."""

    exit_code = 9
    name = "no_space"


class LockedError(StorageError):
    """Another process is downloading to the same target."""

    exit_code = 11
    name = "locked"


class ExistsError(StorageError):
    """A file of that name exists and may not be replaced."""

    exit_code = 12
    name = "exists"


class UnsafePathError(StorageError):
    """A path that may not be written: a link, a device, a folder, or too long."""

    exit_code = 13
    name = "unsafe_path"


class ProtocolError(RemoteError):
    """An answer that cannot be trusted, or cannot be placed in the file."""

    exit_code = 14
    name = "protocol"


class IntegrityError(StorageError):
    """The file does not have the checksum that was asked for, or the parts that the server sent do not fit together."""

    exit_code = 15
    name = "integrity"


class TlsError(RemoteError):
    """The certificate or the handshake was refused."""

    exit_code = 16
    name = "tls"


class RedirectError(RemoteError):
    """Too many redirects, or one to a place that is not allowed."""

    exit_code = 17
    name = "redirect"


class AuthError(RemoteError):
    """The server or the proxy wants other credentials."""

    exit_code = 18
    name = "auth"


class LimitError(RemoteError):
    """The answer is larger than it may be."""

    exit_code = 19
    name = "limit"


class JournalVersionError(StorageError):
    """The journal was written by a newer version."""

    exit_code = 20
    name = "journal_version"


EXIT_CODES: dict[int, tuple[str, str]] = {
    0: ("ok", "every byte arrived, was verified and is on disk"),
    1: ("internal", "a defect of fastidm itself"),
    2: ("usage", "a bad URL, option or value"),
    3: ("not_found", "the server has no such file"),
    4: ("refused", "the server refuses, and no retry can mend it"),
    5: ("busy", "the server was overloaded until the retry budget was spent"),
    6: ("network", "no name, no connection, silence or resets"),
    7: ("interrupted", "stopped on request; the same command goes on"),
    8: ("content_changed", "the remote file is not the one that was begun"),
    9: ("no_space", "the disk or a quota is full"),
    10: ("io", "the disk or the file system failed"),
    11: ("locked", "another process downloads to the same target"),
    12: ("exists", "a file of that name exists"),
    13: ("unsafe_path", "a path that may not be written"),
    14: ("protocol", "an answer that cannot be trusted or placed"),
    15: ("integrity", "the checksum is wrong, or parts of the file do not fit together"),
    16: ("tls", "the certificate or the handshake was refused"),
    17: ("redirect", "too many redirects, or to a forbidden place"),
    18: ("auth", "the server or proxy wants other credentials"),
    19: ("limit", "the answer is larger than it may be"),
    20: ("journal_version", "the journal was written by a newer fastidm"),
}
"""Exit code -> (stable name, one line of meaning). Docs and `--help` print this table."""


def error_of(exit_code: int, message: str, hint: str = "") -> FastidmError:
    """The error with this exit code, of which nothing but the words is left."""
    kinds = [FastidmError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return next((kind for kind in kinds if vars(kind).get("exit_code") == exit_code), FastidmError)(message, hint)


def redact(url: str) -> str:
    """`url` as it may be shown, logged or kept: without user, password, query or fragment.

    Signed links carry their secret in the query, so the whole query goes. Works on any text, also on what is no URL; where it
    cannot be told whether something is a password it is taken for one.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme.isascii() and scheme.isalnum():
        if "@" not in rest and "?" not in rest and "#" not in rest:
            # Most have nothing to hide. A port that is no number may be a password that lost its host.
            _, colon, port = rest.partition("/")[0].rpartition(":")
            if not colon or port.isdigit():
                return printable(url)
        url = f"{scheme}://{_without_user(rest)}"
    elif "@" in _path_of(url) or ("@" in url and ":" in _path_of(url)):
        url = _behind_user(url)
    url, hash_mark, _ = url.partition("#")
    url, question, _ = url.partition("?")
    return printable(url + ("?***" if question else "") + ("#***" if hash_mark else ""))


def _without_user(rest: str) -> str:
    """What stands behind the scheme of a URL, without user and password."""
    path = _path_of(rest)
    authority = path.partition("/")[0]
    if "@" in authority:
        return "***@" + authority.rpartition("@")[2] + rest[len(authority) :]
    _, colon, port = authority.rpartition(":")
    if not colon or (authority.startswith("[") and authority.endswith("]")):
        return rest
    # "ann:pass/word@host", a password that was not encoded, reads as host "ann" and something behind it.
    proper = (port.isdigit() or not port) and "@" not in (path if "/" in path else rest)
    return rest if proper else _behind_user(rest)


def _behind_user(text: str) -> str:
    """`text` from its host on, if it can be told where that is."""
    path = _path_of(text)
    return "***@" + path.rpartition("@")[2] + text[len(path) :] if "@" in path else "***"


def _path_of(text: str) -> str:
    return text.partition("#")[0].partition("?")[0]


def printable(text: str) -> str:
    """`text` with everything that could move a terminal's cursor or hide letters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
