"""From the words of the command line to `Options`.

Rules of this module:

* A flag is a field of `Options`: its `dest` is the field's name and its default is the field's default, so neither is
  written twice. Whether a value is in range is decided by `Options`; here text becomes numbers, sizes and paths.
* Words that are plain are understood here. `cli.usage` has argparse for help and for all that is not, made of the same
  `flags`, and is loaded when it is needed: it takes as long as half of libcurl.
* Whatever is wrong is one `UsageError` of one line, with the nearest valid spelling if there is one.
* No message holds a secret: URLs and proxies are redacted, the values of `--user` and `--header` are never quoted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from fastidm.errors import UsageError, printable, redact
from fastidm.options import (
    HTTP_VERSIONS,
    IO_MODES,
    MAX_CONNECTIONS,
    MAX_DOWNLOADS,
    ON_CHANGE,
    PROXY_SCHEMES,
    Options,
    check_url,
    nearest,
    parse_checksum,
    parse_size,
)

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Any, TypeVar

    Value = TypeVar("Value")

STDOUT = "-"
"""The FILE of `--output` that is none; a file of that name is "./-"."""

class Command:
    """What one command line asks for."""

    program = "fastidm"

    def __init__(
        self,
        urls: tuple[str, ...],
        options: Options,
        quiet: bool,
        json: bool,
        max_downloads: int = MAX_DOWNLOADS,
        to_stdout: bool = False,
    ) -> None:
        self.urls = urls
        self.options = options
        self.jobs: tuple[tuple[str, Options], ...] = tuple((url, options) for url in urls)
        """Each file and its options."""
        self.max_downloads = max_downloads
        self.quiet = quiet
        self.json = json
        self.to_stdout = to_stdout

    def advice(self, hint: str) -> str:
        """The hint of an error, in terms of this command."""
        return hint


class TextRequested(Exception):
    """`--help` or `--version` was among the arguments; holds the text to print."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Command:
    """What `arguments` (without the program's name) ask for.

    Raises `UsageError` for anything that is wrong, `TextRequested` for `--help` and `--version`.
    """
    values, found = _read(arguments)
    urls = tuple(found)
    if not urls:
        raise UsageError("no URL given", "see fastidm --help")
    for url in urls:
        check_url(url)
    if len(urls) > 1:
        for flag, field in (("--output", "output"), ("--checksum", "checksum")):
            if field in values:
                raise UsageError(f"{flag} fits one URL, not {len(urls)}")
    if "overwrite" in values and "rename" in values:
        raise UsageError("--overwrite and --rename exclude each other")
    quiet, json = values.pop("quiet", False), values.pop("json", False)
    max_downloads = values.pop("max_downloads", MAX_DOWNLOADS)
    if "headers" in values:
        values["headers"] = tuple(line for lines in values["headers"] for line in lines)
    if "user" in values:
        values["user"] = _credentials(values["user"], environment)
    to_stdout = values.get("output") == STDOUT
    if to_stdout:
        if json:
            raise UsageError("--json and -o - exclude each other", "both write to standard output")
        del values["output"]
    if "output" in values:
        values["output"] = os.path.join(values.get("directory", ""), values["output"])
    try:
        options = Options(**values)
    except UsageError as error:
        raise _in_words_of_the_command_line(error) from None
    return Command(urls, options, quiet, json, max_downloads, to_stdout)


def flags(group: Callable[[str], Callable[..., None]]) -> None:
    """The flags, in the groups of `--help`.

    Parameter: `group`, gives for the title of a group a function that takes a flag as argparse's `add_argument` does; a `type`
    is to be called with the flag and the text.
    """
    add = group("where to")
    name = "name of the file (one URL only), in DIR if -d is given; - for stdout"
    add("-o", "--output", metavar="FILE", type=_file_name, help=name)
    add("-d", "--dir", dest="directory", metavar="DIR", help="folder of the files (default: here)")
    add("--overwrite", action="store_true", help="replace a finished file of the same name")
    add("--rename", action="store_true", help="if the name is taken, use the next one: 'name (1).ext', 'name (2).ext', ...")

    add = group("speed")
    default = f"1 to {MAX_CONNECTIONS} (default {Options.connections})"
    add("-n", "--conn", dest="connections", metavar="N", type=_whole, help=f"most connections for a file, {default}")
    default = f"(default {MAX_DOWNLOADS})"
    add("--max-downloads", metavar="N", type=_at_least_one, help=f"most files at the same time {default}")
    add("--limit-rate", metavar="RATE", type=_limit_rate, help="bytes a second for each file: 500k, 10M, 1.5G")
    default = f"{_either(HTTP_VERSIONS)} (default {Options.http})"
    add("--http", metavar="VERSION", type=_http, help=f"newest HTTP version to use with https: {default}")
    add("--io", metavar="HOW", type=_io, help=f"{_either(IO_MODES)} (default {Options.io})")
    add("--no-sync", dest="sync", action="store_false", help="do not wait for the disk at the end")

    add = group("integrity and going on")
    add(
        "--checksum",
        metavar="NAME:HEX",
        type=_checksum,
        help="verify before the file appears: sha256:HEX, md5:HEX, ...",
    )
    add("--restart", action="store_true", help="forget what an earlier run received")
    default = f"{_either(ON_CHANGE)} (default {Options.on_change})"
    add("--on-change", metavar="WHAT", type=_on_change, help=f"if the remote file changed: {default}")

    add = group("access")
    lines = "extra request header 'Name: value', or @FILE with one a line; repeatable"
    add("-H", "--header", dest="headers", metavar="LINE", action="append", type=_header_lines, help=lines)
    add("-A", "--user-agent", metavar="TEXT", help="what to call ourselves")
    add("-u", "--user", metavar="NAME[:PASSWORD]", help="without PASSWORD it is read from FASTIDM_PASSWORD")
    add("--netrc", action="store_true", help="name and password from ~/.netrc")
    add("-b", "--cookie-file", metavar="FILE", type=_readable, help="cookies to send, a Netscape cookies.txt")

    add = group("network")
    add("-x", "--proxy", metavar="URL", type=_proxy, help=f"{_either(PROXY_SCHEMES)}; '' for none")
    add("--cacert", metavar="FILE", type=_readable, help="certificates to trust, PEM")
    add("--cert", metavar="FILE", type=_readable, help="client certificate, PEM")
    add("--key", metavar="FILE", type=_readable, help="key of the client certificate, PEM")
    add("-k", "--insecure", action="store_true", help="accept any certificate")
    default = f"(default {Options.retries})"
    add("--retries", metavar="N", type=_whole, help=f"failures in a row, without progress, to survive {default}")
    default = f"(default {Options.timeout:g})"
    add("--timeout", metavar="SECONDS", type=_seconds, help=f"give up after this long without a byte {default}")
    default = f"(default {Options.connect_timeout:g})"
    add("--connect-timeout", metavar="SECONDS", type=_seconds, help=f"longest wait for one answer to begin {default}")
    default = f"(default {Options.max_redirects})"
    add("--max-redirects", metavar="N", type=_whole, help=f"most redirects to follow {default}")
    add("--allow-downgrade", action="store_true", help="follow redirects from https down to http")

    add = group("output")
    add("-q", "--quiet", action="store_true", help="nothing but errors")
    add("--json", action="store_true", help="one JSON object a line: start, progress, retry, done, error")
    add("--version", action="version", help="versions of fastidm, libcurl and pycurl, and the sink in use")
    add("-h", "--help", action="help", help="this text")


def _read(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Values by field, and URLs. Plain words are understood here; whatever is not, is argparse's business, errors included."""
    plain = plainly(arguments)
    if plain is not None:
        return plain
    from fastidm.cli.usage import read

    return read(arguments)


def plainly(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]] | None:
    """What argparse would make of `arguments`; None: there is more to it than flags, each as it is spelt, values and URLs."""
    known = known_flags()
    urls, given = [], []
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            urls.append(word)
            continue
        flag, equals, text = word.partition("=")
        if flag not in known or (equals and not flag.startswith("--")):
            return None
        field, action, convert = known[flag]
        if action in ("store", "append"):
            value = text if equals else next(words, None)
            if value is None or value == "--" or (value.startswith("-") and value != STDOUT and not equals):
                return None
            given.append((field, action, convert, value))
        elif action in ("store_true", "store_false") and not equals:
            given.append((field, action, None, ""))
        else:
            return None
    # Only now, since to read the file of --header twice may not be possible.
    values: dict[str, Any] = {}
    for field, action, convert, text in given:
        if action == "store":
            values[field] = text if convert is None else convert(text)
        elif action == "append":
            values.setdefault(field, []).append(text if convert is None else convert(text))
        else:
            values[field] = action == "store_true"
    return values, urls


def known_flags() -> dict[str, tuple[str, str, Callable[[str], Any] | None]]:
    """Each spelling of each flag -> (its field, what it does in words of argparse, what makes a value of its text)."""
    known: dict[str, tuple[str, str, Callable[[str], Any] | None]] = {}

    def add(*names: str, dest: str = "", action: str = "store", type: Callable[..., Any] | None = None, **_: str) -> None:
        field = dest or names[-1].removeprefix("--").replace("-", "_")
        known.update(dict.fromkeys(names, (field, action, type and partial(type, names[-1]))))

    flags(lambda title: add)
    return known


def _in_words_of_the_command_line(error: UsageError) -> UsageError:
    """`error` of `Options`, with the flag in place of the field that its message begins with."""
    field, _, rest = error.message.partition(" ")
    spellings = [flag for flag, (dest, _, _) in known_flags().items() if dest == field]
    return UsageError(f"{spellings[-1]} {rest}", error.hint) if spellings else error


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _whole(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{flag} must be a whole number, not {text[:40]!r}") from None


def _at_least_one(flag: str, text: str) -> int:
    number = _whole(flag, text)
    if number < 1:
        raise UsageError(f"{flag} must be at least 1")
    return number


def _seconds(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{flag} must be a number of seconds, not {text[:40]!r}") from None


def _limit_rate(flag: str, text: str) -> int:
    return _with_flag(flag, parse_size, text)


def _checksum(flag: str, text: str) -> tuple[str, str]:
    return _with_flag(flag, parse_checksum, text)


def _with_flag(flag: str, convert: Callable[[str], Value], text: str) -> Value:
    try:
        return convert(text)
    except UsageError as error:
        raise UsageError(f"{flag}: {error.message}", error.hint) from None


def _http(flag: str, text: str) -> str:
    return _choice(flag, HTTP_VERSIONS, text)


def _io(flag: str, text: str) -> str:
    return _choice(flag, IO_MODES, text)


def _on_change(flag: str, text: str) -> str:
    return _choice(flag, ON_CHANGE, text)


def _choice(flag: str, choices: Sequence[str], text: str) -> str:
    if text in choices:
        return text
    near = nearest(text, choices)
    raise UsageError(f"{flag} must be {_either(choices)}, not {text[:40]!r}", f"did you mean {near}?" if near else "")


def _file_name(flag: str, text: str) -> str:
    if not text or text.endswith("/"):
        raise UsageError(f"{flag} must name a file", "a folder is named with --dir")
    return text


def _readable(flag: str, text: str) -> str:
    # libcurl takes a missing cookie file for an empty one, so it is said here. Not opened: it may be a pipe.
    if not os.access(text, os.R_OK):
        raise UsageError(f"{flag} cannot be read: {printable(text) or repr(text)}")
    return text


def _proxy(flag: str, text: str) -> str:
    scheme, separator, host = text.partition("://")
    if text and (not separator or not host or not text.isprintable() or " " in text):
        raise UsageError(f"{flag} must be a URL like http://host:3128, not {redact(text)!r}")
    if text:
        _choice(flag, PROXY_SCHEMES, scheme.lower())
    return text


def _header_lines(flag: str, text: str) -> list[str]:
    if not text.startswith("@"):
        return [text]
    try:
        with open(text[1:], encoding="utf-8") as file:
            return [line for line in file.read().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{flag}: cannot read {printable(text[1:])}: {reason}") from None


def _credentials(user: str, environment: Mapping[str, str]) -> str:
    if ":" in user:
        return user
    password = environment.get("FASTIDM_PASSWORD")
    if password is None:
        raise UsageError("--user has no password", "set FASTIDM_PASSWORD, or write NAME:PASSWORD")
    return f"{user}:{password}"
