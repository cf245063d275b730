"""`fastidm-aria2c`: the command line of aria2c, as programs that call it write it, done by fastidm.

Rules of this module:

* `TABLE` says what becomes of each option of aria2c: something of ours, nothing (what only tunes aria2, or what we always do),
  or a refusal. An option that is not there is warned of and passed over.
* An option that protects somebody (where traffic may go, what is trusted) is never passed over: it is done, or it is a usage
  error.
* Exit codes are aria2's, so that callers who look at them understand.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from fastidm import __version__
from fastidm.cli.arguments import Command
from fastidm.cli.main import Run, error_line
from fastidm.cli.version import say
from fastidm.errors import FastidmError, UsageError, printable
from fastidm.options import MAX_CONNECTIONS, Options, check_url, parse_checksum, parse_size

EXIT_CODES = {0: 0, 3: 3, 4: 22, 5: 29, 6: 6, 7: 7, 8: 8, 9: 9, 10: 18, 11: 11, 12: 13, 14: 8, 15: 32, 16: 6, 17: 23, 18: 24}
"""Ours -> aria2's; any other is 1, an unknown error, and what is wrong on the command line is 28."""
USAGE = 28

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
    """What becomes of an option. `apply(job, value)`; None: nothing. `flag`: its value may be left out."""

    apply: Callable[[Wishes, str], None] | None = None
    flag: bool = False


@dataclass
class Wishes:
    """What a command line asks for."""

    options: dict[str, Any] = field(default_factory=dict)
    headers: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    user: str = ""
    password: str = ""
    proxies: dict[str, str] = field(default_factory=dict)
    """What aria2 calls it ("all-proxy", "https-proxy-user", ...) -> its value."""
    split: int | None = None
    per_server: int | None = None
    allow_overwrite: bool = False
    auto_rename: bool = True
    input_file: str | None = None
    each: bool = False
    """Each URL is a file of its own."""
    max_downloads: int = 5
    limit_rate: int | None = None
    quiet: bool = False
    text: str | None = None
    warnings: list[str] = field(default_factory=list)

    def made(self, url: str) -> Options:
        """The options of a file. Raises `UsageError`."""
        named = {"netrc": True, **self.options}
        chosen = [number for number in (self.split, self.per_server) if number is not None]
        if chosen:
            named["connections"] = max(1, min(MAX_CONNECTIONS, *chosen))
        if self.user:
            named["user"] = f"{self.user}:{self.password}"
        if (proxy := self._proxy(url.partition(":")[0].lower())) is not None:
            named["proxy"] = proxy
        named["overwrite"] = self.allow_overwrite
        named["rename"] = self.auto_rename and not self.allow_overwrite
        if "output" in named:
            named["output"] = os.path.join(named.get("directory", ""), named["output"])
        return Options(headers=tuple(self.headers), **named)

    def _proxy(self, scheme: str) -> str | None:
        """The proxy for URLs of this scheme, with its user; None: as the environment says."""
        for kind in (f"{scheme}-proxy", "all-proxy"):
            if (proxy := self.proxies.get(kind)) is not None:
                user, password = self.proxies.get(f"{kind}-user", ""), self.proxies.get(f"{kind}-passwd", "")
                return _with_user(proxy, user, password)
        return None


class Aria2Command(Command):
    """A command of which each URL has options of its own."""

    program = "fastidm-aria2c"

    def __init__(self, jobs: Sequence[tuple[str, Options]], wishes: Wishes) -> None:
        urls = tuple(url for url, _ in jobs)
        options = jobs[0][1] if len(jobs) == 1 else Options()
        super().__init__(urls, options, wishes.quiet, json=False, max_downloads=wishes.max_downloads)
        self.jobs = tuple(jobs)
        self.limit_rate = wishes.limit_rate


def main() -> int:
    """The console command; returns the exit code."""
    return run(sys.argv[1:])


def run(arguments: Sequence[str], stdin: TextIO | None = None) -> int:
    """Do what `arguments` (without the program's name) say; returns the exit code, one of aria2's."""
    try:
        wishes = parse(arguments)
        if wishes.text is not None:
            return say(wishes.text)
        for warning in wishes.warnings:
            _tell(f"fastidm-aria2c: {warning}")
        command = Aria2Command(list(_jobs(wishes, stdin or sys.stdin)), wishes)
    except UsageError as error:
        _tell(error_line(error.message, error.hint))
        return USAGE
    for _, options in command.jobs:
        _make_folder(options)
    try:
        return EXIT_CODES.get(Run(command, arguments).go(_queue(command)), 1)
    except FastidmError as error:
        _tell(error_line(error.message, error.hint))
        return EXIT_CODES.get(error.exit_code, 1)


def _make_folder(options: Options) -> None:
    """As aria2 does."""
    try:
        os.makedirs(options.directory if options.output is None else os.path.dirname(options.output) or ".", exist_ok=True)
    except OSError:
        pass  # what is wrong with it is said when the file is begun


def parse(arguments: Sequence[str]) -> Wishes:
    """What `arguments` ask for. Raises `UsageError`."""
    wishes = Wishes()
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            wishes.urls += rest
        elif word.startswith("--"):
            _long(wishes, word[2:], rest)
        elif word.startswith("-") and len(word) > 1:
            _short(wishes, word[1:], rest)
        else:
            wishes.urls.append(word)
    return wishes


def _long(wishes: Wishes, word: str, rest: Iterator[str]) -> None:
    name, equals, value = word.partition("=")
    meaning = TABLE.get(name)
    if meaning is None:
        # Whether its value comes as a word of its own nobody knows: what looks like a URL is none.
        wishes.warnings.append(f"--{printable(name)} is not known here and is left out")
        return
    if not equals:
        value = "true" if meaning.flag else _next(name, rest)
    _apply(wishes, name, meaning, value)


def _short(wishes: Wishes, word: str, rest: Iterator[str]) -> None:
    letter, value = word[0], word[1:]
    name = SHORT.get(letter)
    if name is None:
        wishes.warnings.append(f"-{printable(letter)} is not known here and is left out")
        return
    meaning = TABLE[name]
    if meaning.flag:
        if value and value not in ("true", "false"):
            _apply(wishes, name, meaning, "true")
            _short(wishes, value, rest)  # several in one word
            return
        value = value or "true"
    _apply(wishes, name, meaning, value or _next(name, rest))


def _next(name: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise UsageError(f"--{name} needs a value")
    return value


def _apply(wishes: Wishes, name: str, meaning: Meaning, value: str) -> None:
    if meaning.apply is not None:
        try:
            meaning.apply(wishes, value)
        except UsageError as error:
            raise UsageError(f"--{name}: {error.message}", error.hint) from None
        except ValueError:
            raise UsageError(f"--{name} has a value that cannot be") from None


def _jobs(wishes: Wishes, stdin: TextIO) -> Iterator[tuple[str, Options]]:
    """(url, options) of each file. Raises `UsageError`."""
    found = [(url, wishes) for url in (wishes.urls if wishes.each else wishes.urls[:1])]
    if wishes.input_file is not None:
        found += _listed(wishes, stdin)
    if not found:
        raise UsageError("no URL given", "see fastidm-aria2c --help")
    for url, wish in found:
        check_url(url)
        yield url, wish.made(url)


def _listed(wishes: Wishes, stdin: TextIO) -> list[tuple[str, Wishes]]:
    """What an input file lists: a line for each file, its mirrors apart by tabs; below it, indented, options of its own."""
    try:
        if wishes.input_file == "-":
            lines = stdin.read().splitlines()
        else:
            with open(str(wishes.input_file), encoding="utf-8") as file:
                lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--input-file cannot be read: {reason}") from None
    found: list[tuple[str, Wishes]] = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        if not line[0].isspace():
            wish = replace(
                wishes, options=dict(wishes.options), headers=list(wishes.headers), proxies=dict(wishes.proxies)
            )
            found.append((line.split("\t")[0].strip(), wish))
        elif found:
            _long(found[-1][1], line.strip(), iter(()))
    return found


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


def _header(name: str) -> Callable[[Wishes, str], None]:
    return lambda wishes, value: wishes.headers.append(f"{name}: {value}")


def _refuse(why: str, flag: bool = False) -> Meaning:
    def apply(wishes: Wishes, value: str) -> None:
        if not flag or _true(value):
            raise UsageError(why)

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


def _rate(value: str) -> int | None:
    return parse_size(value) or None if value.strip("0") else None


def _tries(value: str) -> int:
    return int(value) - 1 if int(value) else 1000  # 0: no limit


def _no_cache(wishes: Wishes, value: str) -> None:
    if _true(value):
        wishes.headers += ["Cache-Control: no-cache", "Pragma: no-cache"]


def _no_proxy(wishes: Wishes, value: str) -> None:
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = value


def _remote_time(wishes: Wishes, value: str) -> None:
    if _true(value):
        wishes.warnings.append("--remote-time: the file gets the time of now")


def _with_user(proxy: str, user: str, password: str) -> str:
    scheme, separator, host = proxy.rpartition("://")
    if not proxy or not user or "@" in host:
        return proxy if separator or not proxy else f"http://{proxy}"
    from urllib.parse import quote

    return f"{scheme or 'http'}://{quote(user, safe='')}:{quote(password, safe='')}@{host}"


def _version(wishes: Wishes, value: str) -> None:
    wishes.text = f"aria2 version 1.37.0 (its command line; what downloads is fastidm {__version__})\n"


def _help(wishes: Wishes, value: str) -> None:
    wishes.text = HELP


_FLAGS = frozenset((
    "allow-piece-length-change", "always-resume", "async-dns", "bt-enable-lpd", "check-integrity", "conditional-get",
    "content-disposition-default-utf8", "continue", "deferred-input", "disable-ipv6", "enable-color", "enable-dht",
    "enable-http-keep-alive", "enable-http-pipelining", "enable-mmap", "force-save", "http-accept-gzip", "human-readable",
    "keep-unfinished-download-result", "no-conf", "optimize-concurrent-downloads", "parameterized-uri",
    "realtime-chunk-checksum", "remove-control-file", "reuse-uri", "save-not-found", "show-console-readout", "stderr",
    "truncate-console-readout", "use-head",
))  # fmt: skip
"""Flags that tune aria2's own engine or its console, or say what is done here in any case."""
_VALUES = frozenset((
    "async-dns-server", "auto-save-interval", "conf-path", "console-log-level", "disk-cache", "download-result",
    "event-poll", "file-allocation", "follow-metalink", "follow-torrent", "log", "log-level", "lowest-speed-limit",
    "max-download-result", "max-file-not-found", "max-mmap-limit", "max-resume-failure-tries", "min-split-size",
    "no-file-allocation-limit", "piece-length", "retry-wait", "rlimit-nofile", "save-session", "save-session-interval",
    "seed-time", "server-stat-if", "server-stat-of", "server-stat-timeout", "socket-recv-buffer-size", "stop",
    "stream-piece-selector", "summary-interval", "uri-selector",
))  # fmt: skip
"""The same with a value."""


def _proxy_options(kind: str) -> tuple[str, str, str]:
    return f"{kind}-proxy", f"{kind}-proxy-user", f"{kind}-proxy-passwd"


TABLE: Mapping[str, Meaning] = {
    **{name: Meaning(flag=name in _FLAGS) for name in _FLAGS | _VALUES},
    # Where to.
    "dir": Meaning(_to("directory")),
    "out": Meaning(_to("output")),
    "input-file": Meaning(_wish("input_file")),
    "force-sequential": Meaning(_wish("each", _true), flag=True),
    "allow-overwrite": Meaning(_wish("allow_overwrite", _true), flag=True),
    "auto-file-renaming": Meaning(_wish("auto_rename", _true), flag=True),
    "remote-time": Meaning(_remote_time, flag=True),
    # How many, how fast, how long.
    "max-connection-per-server": Meaning(_wish("per_server", int)),
    "split": Meaning(_wish("split", int)),
    "max-concurrent-downloads": Meaning(_wish("max_downloads", int)),
    "max-download-limit": Meaning(_to("limit_rate", _rate)),
    "max-overall-download-limit": Meaning(_wish("limit_rate", _rate)),
    "max-tries": Meaning(_to("retries", _tries)),
    "timeout": Meaning(_to("timeout", float)),
    "connect-timeout": Meaning(_to("connect_timeout", float)),
    # What is sent.
    "header": Meaning(lambda wishes, value: wishes.headers.append(value)),
    "referer": Meaning(_header("Referer")),
    "user-agent": Meaning(_to("user_agent")),
    "http-no-cache": Meaning(_no_cache, flag=True),
    "load-cookies": Meaning(_to("cookie_file")),
    "http-user": Meaning(_wish("user")),
    "http-passwd": Meaning(_wish("password")),
    "http-auth-challenge": Meaning(flag=True),
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
    "save-cookies": _refuse("cookies cannot be saved here"),
    "enable-rpc": _refuse("there is no RPC server here", flag=True),
    "daemon": _refuse("it does not go into the background", flag=True),
    "dry-run": _refuse("it cannot be tried without downloading", flag=True),
    "hash-check-only": _refuse("it cannot be verified without downloading", flag=True),
    # Itself.
    "quiet": Meaning(_wish("quiet", _true), flag=True),
    "version": Meaning(_version, flag=True),
    "help": Meaning(_help, flag=True),
}

SHORT = {
    "d": "dir", "o": "out", "i": "input-file", "Z": "force-sequential", "x": "max-connection-per-server", "s": "split",
    "j": "max-concurrent-downloads", "k": "min-split-size", "m": "max-tries", "t": "timeout", "c": "continue",
    "U": "user-agent", "R": "remote-time", "n": "no-netrc", "q": "quiet", "v": "version", "h": "help", "l": "log",
    "V": "check-integrity", "D": "daemon", "P": "parameterized-uri",
}  # fmt: skip


def _queue(command: Aria2Command) -> Callable[..., Any]:
    def make(observer: Callable[..., None], max_downloads: int) -> Any:
        from fastidm.queue import Queue

        return Queue(observer=observer, max_downloads=max_downloads, limit_rate=command.limit_rate)

    return make


def _tell(line: str) -> None:
    if sys.stderr is not None:
        print(line, file=sys.stderr)
