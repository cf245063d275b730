"""What a user may ask for: one immutable value that the command line and the embedding API both build.

Rules of this module: a field here is a flag there (`connections` is `--conn`, `sync=False` is `--no-sync`), with the same
default and the same meaning. Values are checked once, in `Options.__post_init__`; behind it nobody checks again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import lru_cache

from fastidm.errors import UsageError, printable, redact
from fastidm.records import names, record, replace

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Any, TypedDict

    class Arguments(TypedDict, total=False):
        """`Options` as keyword arguments, in the shapes that are handy in Python; see `options_from`."""

        options: Options | None
        dir: str | os.PathLike[str] | None
        connections: int
        checksum: str | tuple[str, str] | None
        headers: Mapping[str, str] | Iterable[str] | None
        user_agent: str | None
        user: str | tuple[str, str] | None
        netrc: bool
        cookie_file: str | os.PathLike[str] | None
        proxy: str | None
        cacert: str | os.PathLike[str] | None
        cert: str | os.PathLike[str] | None
        key: str | os.PathLike[str] | None
        insecure: bool
        limit_rate: int | str | None
        retries: int
        timeout: float
        connect_timeout: float
        max_redirects: int
        allow_downgrade: bool
        http: str
        io: str
        sync: bool
        restart: bool
        on_change: str
        overwrite: bool
        rename: bool


SCHEMES = ("http", "https")
PROXY_SCHEMES = ("http", "https", "socks4a", "socks5h")
MAX_CONNECTIONS = 128
MAX_DOWNLOADS = 3
"""Files that are downloaded at the same time, unless the caller says otherwise."""
MOST = 1_000_000
"""The largest number of seconds, retries or redirects: more than anybody waits, and safe for libcurl."""
IO_MODES = ("auto", "mmap", "pwrite")
HTTP_VERSIONS = ("1.1", "2", "3")
ON_CHANGE = ("fail", "restart")


_WHOLE = ("connections", "limit_rate", "retries", "max_redirects")
_NUMBERS = ("timeout", "connect_timeout")
_TEXTS = ("output", "directory", "user_agent", "user", "cookie_file", "proxy", "cacert", "cert", "key")


@record(frozen=True)
class Options:
    """How one file is to be downloaded.

    Sizes are bytes, times are seconds, rates are bytes per second.

    Raises `UsageError` for a value out of range.
    """

    output: str | None = None
    """Path of the target, as it stands; None: the name comes from the server or the URL, in `directory`."""
    directory: str = "."
    connections: int = 16
    """Ceiling of connections for one task, 1 to 128."""
    checksum: tuple[str, str] | None = None
    """(hashlib name, lower-case hex digest), see `parse_checksum`."""
    headers: tuple[str, ...] = ()
    """Extra request headers, "Name: value" each; sent to the URL's own origin only."""
    user_agent: str | None = None
    user: str | None = None
    """`name:password` for the URL's own origin."""
    netrc: bool = False
    cookie_file: str | None = None
    """A Netscape cookies.txt to send cookies from."""
    proxy: str | None = None
    """http, https, socks4a or socks5h URL; "" for no proxy at all; None: as the environment says."""
    cacert: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure: bool = False
    limit_rate: int | None = None
    """Of this file; others are not slowed down."""
    retries: int = 5
    """Failures in a row, without a byte of progress between them, that a task survives."""
    timeout: float = 60.0
    """Seconds without any byte from anywhere after which a task gives up."""
    connect_timeout: float = 15.0
    """Seconds that one connection may take until the head of its answer is complete."""
    max_redirects: int = 20
    allow_downgrade: bool = False
    """Follow redirects from https down to http."""
    http: str = "1.1"
    """The newest HTTP version to use with https, "1.1", "2" or "3"; each connection is one of TCP or QUIC of its own. Where the
    server, or a proxy on the way, does not have it, it is the next lower one. With http it is always 1.1."""
    io: str = "auto"
    sync: bool = True
    """False: do not wait for the disk; exit 0 then does not promise to survive a power cut."""
    restart: bool = False
    """Ignore what an earlier run left and begin anew."""
    on_change: str = "fail"
    """What to do when the remote file changed: "fail" (exit 8) or "restart"."""
    overwrite: bool = False
    """Replace a finished file of the same name."""
    rename: bool = False
    """Where the name is taken, by a file or by another download, use the next free one of `name (1).ext`, `name (2).ext`..."""

    def __post_init__(self) -> None:
        for name in _WHOLE:
            value = getattr(self, name)
            if type(value) is not int and not (value is None and name == "limit_rate"):
                raise UsageError(f"{name} must be a whole number, not {value!r}")
        for name in _NUMBERS:
            if not isinstance(getattr(self, name), int | float):
                raise UsageError(f"{name} must be a number, not {getattr(self, name)!r}")
        for name in _TEXTS:
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name != "directory"):
                raise UsageError(f"{name} must be text, not {type(value).__name__}")
        if self.checksum is not None and parse_checksum(":".join(self.checksum)) != self.checksum:
            raise UsageError("a checksum must be what parse_checksum returns, or sha256:HEX")
        if not 1 <= self.connections <= MAX_CONNECTIONS:
            raise UsageError(f"connections must be 1 to {MAX_CONNECTIONS}, not {self.connections}")
        if self.http not in HTTP_VERSIONS:
            raise UsageError(f"http must be one of {', '.join(HTTP_VERSIONS)}, not {self.http!r}")
        if self.io not in IO_MODES:
            raise UsageError(f"io must be one of {', '.join(IO_MODES)}, not {self.io!r}")
        if self.on_change not in ON_CHANGE:
            raise UsageError(f"on_change must be one of {', '.join(ON_CHANGE)}, not {self.on_change!r}")
        if self.limit_rate is not None and self.limit_rate < 1:
            raise UsageError("limit_rate must be at least 1 byte per second")
        for name, least in (("retries", 0), ("max_redirects", 0), ("timeout", 0.001), ("connect_timeout", 0.001)):
            if not getattr(self, name) >= least:
                raise UsageError(f"{name} must be at least {least}")
            if getattr(self, name) > MOST:
                raise UsageError(f"{name} must be at most {MOST}")
        for name in ("user_agent", "user", "proxy"):
            if not _is_one_line(getattr(self, name) or ""):
                raise UsageError(f"{name} must be one line")
        if self.overwrite and self.rename:
            raise UsageError("overwrite and rename exclude each other")
        if self.proxy:
            scheme, _, rest = self.proxy.partition("://")
            if scheme.lower() not in PROXY_SCHEMES:
                raise UsageError(f"proxy must begin with one of {', '.join(f'{scheme}://' for scheme in PROXY_SCHEMES)}")
            if problem := _problem_of_address(_authority(rest)):
                raise UsageError(f"proxy has {problem}: {redact(self.proxy)}")
        for header in self.headers:
            name, colon, _ = header.partition(":")
            if not colon or not name.strip() or not _is_one_line(header):
                raise UsageError("a header must look like 'Name: value', on one line")

    def __repr__(self) -> str:
        """What differs from the defaults, without secrets."""
        shown = []
        for name in _FIELDS:
            value = getattr(self, name)
            if value == getattr(Options, name):
                continue
            if name == "headers":
                value = tuple(f"{header.partition(':')[0]}: ***" for header in value)
            elif name == "user":
                value = "***"
            elif name == "proxy":
                value = redact(value)
            shown.append(f"{name}={value!r}")
        return f"Options({', '.join(shown)})"


def header_lines(headers: Mapping[str, str] | Iterable[str] | None) -> tuple[str, ...]:
    """"Name: value" of each; also of pairs, and of values that are bytes. Raises `UsageError`."""
    lines = []
    for header in headers.items() if isinstance(headers, Mapping) else headers or ():
        pair = header if isinstance(header, tuple) else (header,)
        texts = [part.decode("latin-1") if isinstance(part, bytes) else part for part in pair]
        if not all(isinstance(text, str) for text in texts) or not 1 <= len(texts) <= 2:
            raise UsageError("headers must be texts, 'Name: value' or a name and a value each")
        lines.append(": ".join(texts))
    return tuple(lines)


def options_from(
    path: str | os.PathLike[str] | None = None,
    *,
    options: Options | None = None,
    dir: str | os.PathLike[str] | None = None,
    **named: Any,
) -> Options:
    """The options that keyword arguments mean: each has the name of its field in `Options`.

    Parameters: `path`, of the file; `dir`, the folder that a relative `path`, or the name of the file, is in; `options`, what
    is not named is taken from here. `headers` may be a mapping, `checksum` "sha256:HEX", `user` a pair, `limit_rate` "10M",
    and a path any `PathLike`.

    Raises `UsageError` for a value out of range, TypeError for a name that is no option.
    """
    if path is not None:
        named["output"] = os.fspath(path) if dir is None else os.path.join(os.fspath(dir), os.fspath(path))
    if dir is not None:
        named["directory"] = os.fspath(dir)
    for name, value in named.items():
        if name not in _FIELDS:
            near = nearest(name, _FIELDS)
            raise TypeError(f"there is no option {name!r}" + (f"; did you mean {near!r}?" if near else ""))
        if isinstance(value, os.PathLike):
            named[name] = os.fspath(value)
        elif name == "headers":
            named[name] = header_lines(value)
        elif name == "checksum" and value is not None:
            named[name] = parse_checksum(value if isinstance(value, str) else ":".join(value))
        elif name == "user" and isinstance(value, tuple):
            named[name] = ":".join(value)
        elif name == "limit_rate" and isinstance(value, str):
            named[name] = parse_size(value)
        elif name == "limit_rate" and isinstance(value, float) and value.is_integer():
            named[name] = int(value)
    return replace(options or Options(), **named)


_FIELDS = names(Options)


def _is_one_line(text: str) -> bool:
    """Whether `text` can be sent in a header; bytes that are no text come from a shell as surrogates."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return not any(c in text for c in "\r\n\0")


def _authority(rest: str) -> str:
    """Host and port in what stands behind `scheme://` in a URL."""
    return rest.partition("#")[0].partition("?")[0].partition("/")[0].rpartition("@")[2]


@lru_cache(maxsize=64)  # most URLs are of a few servers
def _problem_of_address(authority: str) -> str:
    """What is wrong with host and port of a URL; "" if nothing is."""
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        if not bracket or not host.isascii():
            return "no valid host"
    else:
        host, colon, port = authority.partition(":")
        port = colon + port
    if not host:
        return "no host"
    try:
        host.isascii() or host.encode("idna")
    except UnicodeError:
        return "no valid host"
    number = port[1:] or "0"  # "host:" means the usual port
    if port and not (port[0] == ":" and number.isascii() and number.isdigit() and int(number[:6]) <= 65535):
        return "no valid port"
    return ""


def parse_checksum(text: str) -> tuple[str, str]:
    """("sha256", hex) from "sha256:HEX" or "sha-256=HEX"; every algorithm of hashlib with a fixed digest length.

    Raises `UsageError` for an unknown algorithm, or a digest of the wrong length.
    """
    import hashlib

    cut = min((text.find(c) for c in ":=" if c in text), default=-1)
    name, digest = (text[:cut].strip().lower(), text[cut + 1 :].strip().lower()) if cut > 0 else ("", "")
    if not name or not digest:
        raise UsageError("a checksum must look like sha256:HEX")
    known = {_plain(n): n for n in sorted(hashlib.algorithms_available) if not n.lower().startswith("shake")}
    try:
        size = hashlib.new(known[_plain(name)]).digest_size
    except (KeyError, ValueError):
        raise UsageError(f"unknown checksum algorithm {name!r}", "sha256, sha512, sha1, md5 and blake2b are known") from None
    if len(digest) != 2 * size or any(c not in "0123456789abcdef" for c in digest):
        raise UsageError(f"a {name} checksum has {2 * size} hexadecimal digits")
    return known[_plain(name)], digest


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def parse_size(text: str) -> int:
    """Bytes from "500", "10k", "10M", "1.5GiB": units of 1024, as curl and wget read them.

    Raises `UsageError`.
    """
    number = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}.get(number[-1:], 1)
    try:
        size = float(number if unit == 1 else number[:-1]) * unit
        if not 0 <= size < 1 << 62:
            raise ValueError(text)
    except ValueError:
        raise UsageError(f"not a size: {text!r}", "write it like 500k, 10M or 1.5G") from None
    return int(size)


def check_url(url: str) -> None:
    """Raise `UsageError` unless `url` is http or https, names a host, and holds nothing that no URL may hold."""
    if not isinstance(url, str):
        raise UsageError(f"a URL must be text, not {type(url).__name__}")
    if not url:
        raise UsageError("a URL is missing: it is empty")
    if url.split() != [url]:
        raise UsageError(f"a URL holds no spaces: {redact(url)}", "write %20 for a space, and quote the URL")
    if not url.isprintable():
        raise UsageError(f"a URL holds no control characters: {redact(url)}")
    scheme, separator, rest = url.partition("://")
    if not separator:
        hint = "see fastidm --help"
        if "." in url or ":" in url or "/" in url:
            hint = f"did you mean https://{redact(url.partition(':/')[2] or url).lstrip('/')}?"
        raise UsageError(f"not a URL: {redact(url)!r}", hint)
    if scheme.lower() not in SCHEMES:
        near = nearest(scheme.lower(), SCHEMES)
        hint = f"did you mean {near}?" if near else "http and https are"
        shown = f"{scheme}://" if scheme.isalnum() else redact(url)
        raise UsageError(f"not supported: {printable(shown)}", hint)
    if problem := _problem_of_address(_authority(rest)):
        raise UsageError(f"{problem} in {redact(url)}", "a port is a number up to 65535" if "port" in problem else "")


def nearest(word: str, choices: Iterable[str], likeness: float = 0.6) -> str | None:
    """The one of `choices` that `word` was most probably meant to be, or None if none is at least so alike (0 to 1)."""
    known = list(choices)
    if not word.strip("-"):
        return None
    if longer := [c for c in known if c.startswith(word)]:
        return min(longer, key=len)
    if shorter := [c for c in known if word.startswith(c) and len(c) > 4]:
        return max(shorter, key=len)
    from difflib import get_close_matches

    return next(iter(get_close_matches(word.lower(), known, 1, likeness)), None)
