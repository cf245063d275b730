"""What becomes of each option of aria2c, on its command line, in its input files and in its configuration?

Rules of this module:

* `TABLE` has every option of aria2: it means something of ours, or nothing (it tunes aria2, or is about what we never do), or
  it is warned of, or it is refused. What is not there is warned of and passed over.
* An option that protects somebody (where traffic may go, what is trusted) is never passed over: it is done, or it is a usage
  error.
* As for aria2c, the beginning of a name that only one option has is that option.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastidm import __version__
from fastidm.errors import UsageError, printable
from fastidm.options import MAX_CONNECTIONS, Options, check_url, parse_checksum, parse_size

HELP = """\
usage: fastidm-aria2c [OPTION of aria2c]... URL...
       fastidm-aria2c [OPTION of aria2c]... -i FILE

Downloads with fastidm what a program wants to download with aria2c. Several URLs are several files with -Z or
-i, else one file of which the first URL is used. To download by hand use fastidm: fastidm --help

examples:
  yt-dlp --downloader fastidm-aria2c URL
  fastidm-aria2c -x16 -s16 -d folder -o name URL
  fastidm-aria2c -j4 -i urls.txt
"""


@dataclass(frozen=True)
class Meaning:
    """What becomes of an option. `apply(wishes, value)`; None: nothing. `flag`: its value may be left out."""

    apply: Callable[[Wishes, str], None] | None = None
    flag: bool = False


@dataclass
class Wishes:
    """What a command line asks for, or a file of an input file."""

    options: dict[str, Any] = field(default_factory=dict)
    headers: list[str] = field(default_factory=list)
    inherited: bool = False
    """Whether `headers` are those of the command line, which a file's own replace."""
    referer: str | None = None
    no_cache: bool = False
    urls: list[str] = field(default_factory=list)
    user: str = ""
    password: str = ""
    proxies: dict[str, str] = field(default_factory=dict)
    """What aria2 calls it ("all-proxy", "https-proxy-user", ...) -> its value."""
    split: int | None = None
    per_server: int | None = None
    allow_overwrite: bool = False
    auto_rename: bool = True
    go_on: bool = False
    """A file that is there is the one that was begun, and never a reason for another name."""
    parameterized: bool = False
    input_file: str | None = None
    configuration: str | None = None
    unconfigured: bool = False
    each: bool = False
    """Each URL is a file of its own."""
    max_downloads: int = 5
    limit_rate: int | None = None
    quiet: bool = False
    text: str | None = None
    warnings: list[str] = field(default_factory=list)

    def made(self, url: str) -> Options:
        """The options of a file. Raises `UsageError`."""
        check_url(url)
        if self.parameterized and set("{}[]") & set(url.partition("://")[2].partition("/")[2]):
            raise UsageError("--parameterized-uri: a URL cannot stand for several here", "give each of them")
        named = {"netrc": True, **self.options}
        chosen = [number for number in (self.split, self.per_server) if number is not None]
        if chosen:
            named["connections"] = max(1, min(MAX_CONNECTIONS, *chosen))
        if self.user:
            named["user"] = f"{self.user}:{self.password}"
        if (proxy := self._proxy(url.partition(":")[0].lower())) is not None:
            named["proxy"] = proxy
        named["overwrite"] = self.allow_overwrite
        named["rename"] = self.auto_rename and not self.allow_overwrite and not self.go_on
        if "output" in named:
            named["output"] = os.path.join(named.get("directory", ""), named["output"])
        headers = list(self.headers)
        if self.referer:
            headers.append(f"Referer: {url if self.referer == '*' else self.referer}")
        if self.no_cache:
            headers += ["Cache-Control: no-cache", "Pragma: no-cache"]
        return Options(headers=tuple(headers), **named)

    def _proxy(self, scheme: str) -> str | None:
        """The proxy for URLs of this scheme, "" for none; None: as the environment says.

        The first that is not empty counts: that of the scheme, then the one for all, and each comes from the environment where
        no option gives it.
        """
        kinds = f"{scheme}-proxy", "all-proxy"
        if not self.proxies:
            return None
        for kind in kinds:
            if proxy := self.proxies.get(kind, _of_environment(kind)):
                return _with_user(proxy, self.proxies.get(f"{kind}-user", ""), self.proxies.get(f"{kind}-passwd", ""))
        return "" if any(kind in self.proxies for kind in kinds) else None


def parse(wishes: Wishes, arguments: Iterable[str]) -> Wishes:
    """Add what `arguments` ask for. Raises `UsageError`."""
    words = deque(arguments)
    while words:
        word = words.popleft()
        if word == "--":
            wishes.urls += words
            break
        if word.startswith("--"):
            set_option(wishes, word[2:], words)
        elif word.startswith("-") and len(word) > 1:
            _short(wishes, word[1:], words)
        else:
            wishes.urls.append(word)
    return wishes


def set_option(wishes: Wishes, word: str, words: deque[str] | None = None) -> None:
    """Do what "NAME=VALUE" says, or "NAME" with its value in `words`. Raises `UsageError`."""
    name, equals, value = word.partition("=")
    name = _whole(name.strip())
    meaning = TABLE.get(name)
    if meaning is None:
        wishes.warnings.append(f"--{printable(name)} is not known here and is left out")
        if not equals and words and not words[0].startswith("-") and not _is_url(words[0]):
            words.popleft()  # probably its value
        return
    if not equals:
        value = "true" if meaning.flag else _next(name, words)
    _apply(wishes, name, meaning, value.strip())


def _whole(name: str) -> str:
    """The option of which `name` is the beginning. Raises `UsageError` if it is that of several."""
    if name in TABLE or not name:
        return name
    found = sorted(known for known in TABLE if known.startswith(name))
    if len(found) > 1:
        raise UsageError(f"--{printable(name)} may be {', '.join(f'--{known}' for known in found)}")
    return found[0] if found else name


def _short(wishes: Wishes, word: str, words: deque[str]) -> None:
    letter, value = word[0], word[1:]
    name = SHORT.get(letter)
    if name is None:
        wishes.warnings.append(f"-{printable(letter)} is not known here and is left out")
        return
    meaning = TABLE[name]
    if meaning.flag:
        if value and value not in ("true", "false"):
            _apply(wishes, name, meaning, "true")
            _short(wishes, value, words)  # several in one word
            return
        value = value or "true"
    _apply(wishes, name, meaning, value or _next(name, words))


def _next(name: str, words: deque[str] | None) -> str:
    if not words:
        raise UsageError(f"--{name} needs a value")
    return words.popleft()


def _is_url(word: str) -> bool:
    try:
        check_url(word)
    except UsageError:
        return False
    return True


def _apply(wishes: Wishes, name: str, meaning: Meaning, value: str) -> None:
    if meaning.apply is not None:
        try:
            meaning.apply(wishes, value)
        except UsageError as error:
            raise UsageError(f"--{name}: {error.message}", error.hint) from None
        except ValueError:
            raise UsageError(f"--{name} has a value that cannot be") from None


# ---------------------------------------------------------------------- what options mean


def _to(name: str, convert: Callable[[str], Any] = str) -> Callable[[Wishes, str], None]:
    """Sets an option of ours."""

    def apply(wishes: Wishes, value: str) -> None:
        wishes.options[name] = convert(value)

    return apply


def _wish(name: str, convert: Callable[[str], Any] = str) -> Callable[[Wishes, str], None]:
    """Sets a field of `Wishes`."""

    def apply(wishes: Wishes, value: str) -> None:
        setattr(wishes, name, convert(value))

    return apply


def _header(wishes: Wishes, value: str) -> None:
    if wishes.inherited:
        wishes.headers, wishes.inherited = [], False
    wishes.headers.append(value)


def _refuse(why: str, flag: bool = False) -> Meaning:
    def apply(wishes: Wishes, value: str) -> None:
        if not flag or _true(value):
            raise UsageError(why)

    return Meaning(apply, flag)


def _warn(name: str, what: str, flag: bool = False) -> Meaning:
    def apply(wishes: Wishes, value: str) -> None:
        if value not in ("0", "false"):
            wishes.warnings.append(f"--{name}: {what}")

    return Meaning(apply, flag)


def _proxy(name: str) -> Meaning:
    def apply(wishes: Wishes, value: str) -> None:
        wishes.proxies[name] = value

    return Meaning(apply)


def _true(value: str) -> bool:
    if value not in ("true", "false"):
        raise UsageError("must be true or false")
    return value == "true"


def _false(value: str) -> bool:
    return not _true(value)


def _count(value: str) -> int:
    if (count := int(value)) < 1:
        raise UsageError("must be at least 1")
    return count


def _rate(value: str) -> int | None:
    return parse_size(value) or None if value.strip("0") else None


def _tries(value: str) -> int:
    if (tries := int(value)) < 0:
        raise UsageError("must be at least 0")
    return tries - 1 if tries else 1000  # 0: no limit


def _no_proxy(wishes: Wishes, value: str) -> None:
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = value


def _of_environment(kind: str) -> str:
    name = kind.replace("-", "_")
    upper = "" if name == "http_proxy" else os.environ.get(name.upper(), "")  # HTTP_PROXY may be a header of a CGI request
    return os.environ.get(name) or upper


def _with_user(proxy: str, user: str, password: str) -> str:
    scheme, _, host = proxy.rpartition("://")
    if user:
        from urllib.parse import quote

        host = f"{quote(user, safe='')}:{quote(password, safe='')}@{host.rpartition('@')[2]}"
    return f"{scheme or 'http'}://{host}"


def _version(wishes: Wishes, value: str) -> None:
    wishes.text = f"aria2 version 1.37.0 (its command line; what downloads is fastidm {__version__})\n"


def _help(wishes: Wishes, value: str) -> None:
    wishes.text = HELP


_FLAGS = frozenset((
    "allow-piece-length-change", "always-resume", "async-dns", "bt-detach-seed-only", "bt-enable-hook-after-hash-check",
    "bt-enable-lpd", "bt-force-encryption", "bt-hash-check-seed", "bt-load-saved-metadata", "bt-metadata-only",
    "bt-remove-unselected-file", "bt-require-crypto", "bt-save-metadata", "bt-seed-unverified", "check-integrity",
    "conditional-get", "content-disposition-default-utf8", "deferred-input", "disable-ipv6", "enable-async-dns6",
    "enable-color", "enable-dht", "enable-dht6", "enable-http-keep-alive", "enable-http-pipelining", "enable-mmap",
    "enable-peer-exchange", "force-save", "ftp-pasv", "ftp-reuse-connection", "http-accept-gzip", "http-auth-challenge",
    "human-readable", "keep-unfinished-download-result", "metalink-enable-unique-protocol", "optimize-concurrent-downloads",
    "pause", "pause-metadata", "realtime-chunk-checksum", "remove-control-file", "reuse-uri", "rpc-allow-origin-all",
    "rpc-listen-all", "rpc-save-upload-metadata", "rpc-secure", "save-not-found", "show-console-readout", "stderr",
    "truncate-console-readout", "use-head",
))  # fmt: skip
"""Flags that tune aria2's own engine or its console, are about what is never downloaded here, or say what is done anyway."""
_VALUES = frozenset((
    "async-dns-server", "auto-save-interval", "bt-exclude-tracker", "bt-external-ip", "bt-lpd-interface", "bt-max-open-files",
    "bt-max-peers", "bt-min-crypto-level", "bt-prioritize-piece", "bt-request-peer-speed-limit", "bt-stop-timeout",
    "bt-tracker", "bt-tracker-connect-timeout", "bt-tracker-interval", "bt-tracker-timeout", "console-log-level",
    "dht-entry-point", "dht-entry-point6", "dht-file-path", "dht-file-path6", "dht-listen-addr6", "dht-listen-port",
    "dht-message-timeout", "disk-cache", "download-result", "dscp", "event-poll", "file-allocation", "follow-metalink",
    "follow-torrent", "ftp-passwd", "ftp-proxy", "ftp-proxy-passwd", "ftp-proxy-user", "ftp-type", "ftp-user", "gid",
    "index-out", "listen-port", "log", "log-level", "lowest-speed-limit", "max-download-result", "max-file-not-found",
    "max-mmap-limit", "max-overall-upload-limit", "max-resume-failure-tries", "max-upload-limit", "metalink-base-uri",
    "metalink-language", "metalink-location", "metalink-os", "metalink-preferred-protocol", "metalink-version",
    "min-split-size", "no-file-allocation-limit", "peer-agent", "peer-id-prefix", "piece-length", "proxy-method", "retry-wait",
    "rlimit-nofile", "rpc-certificate", "rpc-listen-port", "rpc-max-request-size", "rpc-passwd", "rpc-private-key",
    "rpc-secret", "rpc-user", "save-session", "save-session-interval", "seed-ratio", "seed-time", "select-file",
    "server-stat-if", "server-stat-of", "server-stat-timeout", "socket-recv-buffer-size", "ssh-host-key-md",
    "stream-piece-selector", "summary-interval", "uri-selector",
))  # fmt: skip
"""The same with a value."""
_HOOKS = ("start", "pause", "stop", "complete", "error")


def _proxy_options(kind: str) -> tuple[str, str, str]:
    return f"{kind}-proxy", f"{kind}-proxy-user", f"{kind}-proxy-passwd"


TABLE: Mapping[str, Meaning] = {
    **{name: Meaning(flag=name in _FLAGS) for name in _FLAGS | _VALUES},
    # Where to, and what to do with what is there.
    "dir": Meaning(_to("directory")),
    "out": Meaning(_to("output")),
    "input-file": Meaning(_wish("input_file")),
    "force-sequential": Meaning(_wish("each", _true), flag=True),
    "parameterized-uri": Meaning(_wish("parameterized", _true), flag=True),
    "allow-overwrite": Meaning(_wish("allow_overwrite", _true), flag=True),
    "auto-file-renaming": Meaning(_wish("auto_rename", _true), flag=True),
    "continue": Meaning(_wish("go_on", _true), flag=True),
    "remote-time": _warn("remote-time", "the file gets the time of now", flag=True),
    # How many, how fast, how long.
    "max-connection-per-server": Meaning(_wish("per_server", _count)),
    "split": Meaning(_wish("split", _count)),
    "max-concurrent-downloads": Meaning(_wish("max_downloads", _count)),
    "max-download-limit": Meaning(_to("limit_rate", _rate)),
    "max-overall-download-limit": Meaning(_wish("limit_rate", _rate)),
    "max-tries": Meaning(_to("retries", _tries)),
    "timeout": Meaning(_to("timeout", float)),
    "connect-timeout": Meaning(_to("connect_timeout", float)),
    "stop": _warn("stop", "it does not stop by itself"),
    "stop-with-process": _warn("stop-with-process", "it does not stop with another process"),
    # What is sent.
    "header": Meaning(_header),
    "referer": Meaning(_wish("referer")),
    "user-agent": Meaning(_to("user_agent")),
    "http-no-cache": Meaning(_wish("no_cache", _true), flag=True),
    "load-cookies": Meaning(_to("cookie_file")),
    "http-user": Meaning(_wish("user")),
    "http-passwd": Meaning(_wish("password")),
    "no-netrc": Meaning(_to("netrc", _false), flag=True),
    # Who is trusted, and which way traffic goes.
    "checksum": Meaning(_to("checksum", parse_checksum)),
    "check-certificate": Meaning(_to("insecure", _false), flag=True),
    "ca-certificate": Meaning(_to("cacert")),
    "certificate": Meaning(_to("cert")),
    "private-key": Meaning(_to("key")),
    **{name: _proxy(name) for kind in ("all", "http", "https") for name in _proxy_options(kind)},
    "no-proxy": Meaning(_no_proxy),
    "interface": _refuse("traffic cannot be bound to an interface here"),
    "multiple-interface": _refuse("traffic cannot be bound to an interface here"),
    "min-tls-version": _refuse("the TLS version cannot be chosen here"),
    "netrc-path": _refuse("another netrc cannot be chosen here"),
    # What it does not do.
    "save-cookies": _refuse("cookies cannot be saved here"),
    "torrent-file": _refuse("there is no BitTorrent here"),
    "metalink-file": _refuse("there is no Metalink here"),
    "show-files": _refuse("there is no BitTorrent here", flag=True),
    "enable-rpc": _refuse("there is no RPC server here", flag=True),
    "daemon": _refuse("it does not go into the background", flag=True),
    "dry-run": _refuse("it cannot be tried without downloading", flag=True),
    "hash-check-only": _refuse("it cannot be verified without downloading", flag=True),
    "on-bt-download-complete": Meaning(),
    **{f"on-download-{when}": _warn(f"on-download-{when}", "nothing is called") for when in _HOOKS},
    # Itself.
    "conf-path": Meaning(_wish("configuration")),
    "no-conf": Meaning(_wish("unconfigured", _true), flag=True),
    "quiet": Meaning(_wish("quiet", _true), flag=True),
    "version": Meaning(_version, flag=True),
    "help": Meaning(_help, flag=True),
}

SHORT = {
    "d": "dir", "o": "out", "i": "input-file", "Z": "force-sequential", "x": "max-connection-per-server", "s": "split",
    "j": "max-concurrent-downloads", "k": "min-split-size", "m": "max-tries", "t": "timeout", "c": "continue",
    "U": "user-agent", "R": "remote-time", "n": "no-netrc", "q": "quiet", "v": "version", "h": "help", "l": "log",
    "V": "check-integrity", "D": "daemon", "P": "parameterized-uri", "p": "ftp-pasv", "u": "max-upload-limit",
    "T": "torrent-file", "O": "index-out", "M": "metalink-file", "S": "show-files", "a": "file-allocation",
}  # fmt: skip
