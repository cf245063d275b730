"""From the words of the command line to `Options`.

Rules of this module:

* A flag is a field of `Options`: its `dest` is the field's name and its default is the field's default, so neither is
  written twice. Whether a value is in range is decided by `Options`; here text becomes numbers, sizes and paths.
* Whatever is wrong is one `UsageError` of one line, with the nearest valid spelling if there is one.
* No message holds a secret: URLs and proxies are redacted, the values of `--user` and `--header` are never quoted.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from fastidm.errors import EXIT_CODES, UsageError, printable, redact
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
    from typing import Any, NoReturn, TypeVar

    Value = TypeVar("Value")

STDOUT = "-"
"""The FILE of `--output` that is none; a file of that name is "./-"."""

# What other download tools call it. Only spellings that resemble none of ours are listed.
FOREIGN = {
    "--continue": "downloads are always continued, leave it out",
    "-c": "downloads are always continued, leave it out",
    "--split": "did you mean --conn?",
    "-s": "did you mean --conn, or --quiet?",
    "-j": "did you mean --max-downloads, or --conn?",
    "--parallel-max": "did you mean --max-downloads?",
    "--max-concurrent-downloads": "did you mean --max-downloads?",
    "--max-connection-per-server": "did you mean --conn?",
    "--num-connections": "did you mean --conn?",
    "--max-speed": "did you mean --limit-rate?",
    "--no-check-certificate": "did you mean --insecure?",
    "--tries": "did you mean --retries?",
    "-t": "did you mean --retries?",
    "-L": "redirects are always followed, leave it out",
    "-O": "did you mean -o? Without it the server names the file",
    "-P": "did you mean -d?",
}

EXAMPLES = """\
examples:
  fastidm https://example.com/disk.iso                   one file, up to 16 connections
  fastidm -n 32 -o disk.iso https://example.com/latest   more connections, a name of your own
  fastidm -d ~/Downloads URL1 URL2 URL3                  several files into one folder
  fastidm --max-downloads 16 $(cat urls.txt)             many small files, 16 at a time
  fastidm --checksum sha256:9f86d0...0a08 URL           the file appears only if the checksum is right
  fastidm --limit-rate 2M --quiet URL                    gently, and silent unless something fails
  fastidm -o - URL | tar -xz                             in order to another program, nothing on disk
  FASTIDM_PASSWORD=... fastidm --user ann URL            a password that no process list shows
  fastidm --json URL | jq .event                         one JSON object a line for programs
  Ctrl-C, then the same command again                    goes on where it stopped, also after kill -9 or a power cut
"""

ENVIRONMENT = """\
environment:
  FASTIDM_PASSWORD         the password of --user NAME
  http_proxy, https_proxy, all_proxy, no_proxy           proxies, unless --proxy is given
  NO_COLOR                 no colours
  FASTIDM_PURE=1           do without the C extension
  FASTIDM_DEBUG=1          show the traceback of an internal error
"""


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
    parser = _parser()
    _look_for_single_dashes(parser, arguments)
    given, rest = parser.parse_known_args(arguments)
    values: dict[str, Any] = vars(given)
    if unknown := next((a for a in rest if a.startswith("-") and a != "--"), None):
        raise _unknown_flag(unknown, _flags(parser))
    # argparse takes the first URLs in a row only; those that come after another flag are in the rest, in their order.
    urls = (*values.pop("urls"), *(a for a in rest if a != "--"))
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
        raise _in_words_of_the_command_line(error, parser) from None
    return Command(urls, options, quiet, json, max_downloads, to_stdout)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        named, _, problem = message.removeprefix("argument ").partition(": ")
        flag = named.rpartition("/")[2]
        if problem.startswith("expected"):
            raise UsageError(f"{flag} needs a value")
        if problem.startswith("ignored explicit argument"):
            raise UsageError(f"{flag} takes no value")
        raise UsageError(printable(message))


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise TextRequested(parser.format_help())


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        from fastidm.cli.version import describe

        raise TextRequested(describe())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastidm",
        usage="fastidm [FLAG]... URL...",
        description="Download a file over many connections at once; several URLs are several files.\n"
        "What an earlier run received is not fetched again: to resume, run the same command.",
        epilog="\n".join((EXAMPLES, ENVIRONMENT, _exit_code_table())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("urls", metavar="URL", nargs="*", default=[], help=argparse.SUPPRESS)

    add = _group(parser, "where to")
    name = "name of the file (one URL only), in DIR if -d is given; - for stdout"
    add("-o", "--output", metavar="FILE", type=_file_name, help=name)
    add("-d", "--dir", dest="directory", metavar="DIR", help="folder of the files (default: here)")
    add("--overwrite", action="store_true", help="replace a finished file of the same name")
    add("--rename", action="store_true", help="if the name is taken, use the next one: 'name (1).ext', 'name (2).ext', ...")

    add = _group(parser, "speed")
    default = f"1 to {MAX_CONNECTIONS} (default {Options.connections})"
    add("-n", "--conn", dest="connections", metavar="N", type=_whole, help=f"most connections for a file, {default}")
    default = f"(default {MAX_DOWNLOADS})"
    add("--max-downloads", metavar="N", type=_at_least_one, help=f"most files at the same time {default}")
    add("--limit-rate", metavar="RATE", type=_limit_rate, help="bytes a second for each file: 500k, 10M, 1.5G")
    default = f"{_either(HTTP_VERSIONS)} (default {Options.http})"
    add("--http", metavar="VERSION", type=_http, help=f"newest HTTP version to use with https: {default}")
    add("--io", metavar="HOW", type=_io, help=f"{_either(IO_MODES)} (default {Options.io})")
    add("--no-sync", dest="sync", action="store_false", help="do not wait for the disk at the end")

    add = _group(parser, "integrity and going on")
    add(
        "--checksum",
        metavar="NAME:HEX",
        type=_checksum,
        help="verify before the file appears: sha256:HEX, md5:HEX, ...",
    )
    add("--restart", action="store_true", help="forget what an earlier run received")
    default = f"{_either(ON_CHANGE)} (default {Options.on_change})"
    add("--on-change", metavar="WHAT", type=_on_change, help=f"if the remote file changed: {default}")

    add = _group(parser, "access")
    lines = "extra request header 'Name: value', or @FILE with one a line; repeatable"
    add("-H", "--header", dest="headers", metavar="LINE", action="append", type=_header_lines, help=lines)
    add("-A", "--user-agent", metavar="TEXT", help="what to call ourselves")
    add("-u", "--user", metavar="NAME[:PASSWORD]", help="without PASSWORD it is read from FASTIDM_PASSWORD")
    add("--netrc", action="store_true", help="name and password from ~/.netrc")
    add("-b", "--cookie-file", metavar="FILE", type=_readable, help="cookies to send, a Netscape cookies.txt")

    add = _group(parser, "network")
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

    add = _group(parser, "output")
    add("-q", "--quiet", action="store_true", help="nothing but errors")
    add("--json", action="store_true", help="one JSON object a line: start, progress, retry, done, error")
    add("--version", action=_Version, nargs=0, help="versions of fastidm, libcurl and pycurl, and the sink in use")
    add("-h", "--help", action=_Help, nargs=0, help="this text")
    return parser


def _group(parser: argparse.ArgumentParser, title: str) -> Callable[..., None]:
    """A function that adds a flag to the group `title`; a `type` is called with the flag and the text."""
    group = parser.add_argument_group(title)

    def add(*names: str, type: Callable[[str, str], Any] | None = None, **rest: Any) -> None:
        if type is not None:
            rest["type"] = partial(type, names[-1])
        group.add_argument(*names, **rest)

    return add


def _exit_code_table() -> str:
    rows = (f"  {code:>2}  {name:<16} {meaning}" for code, (name, meaning) in EXIT_CODES.items())
    return "\n".join(("exit codes:", *rows)) + "\n"


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def _look_for_single_dashes(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    # "-output x" would be read as "-o utput x", a file of an unwanted name and a URL that is none.
    known = _flags(parser)
    for argument in arguments:
        if argument == "--":
            return
        word = "-" + argument.partition("=")[0]
        if len(word) > 4 and word in known:
            raise UsageError(f"unknown flag {word[1:]}", f"did you mean {word}?")


def _unknown_flag(argument: str, known: Iterable[str]) -> UsageError:
    word = argument.partition("=")[0].partition(":")[0]  # what follows may be a secret
    if not word.startswith("--"):
        near = nearest("-" + word, known, 0.8) if len(word) > 2 else None
        if not near:
            word = word[:2]  # here too, as in -pPASSWORD
            near = word.swapcase() if word.swapcase() in known else None
    else:
        near = nearest(word, known)
    hint = FOREIGN.get(word) or (f"did you mean {near}?" if near else "see fastidm --help")
    return UsageError(f"unknown flag {printable(word)}", hint)


def _in_words_of_the_command_line(error: UsageError, parser: argparse.ArgumentParser) -> UsageError:
    """`error` of `Options`, with the flag in place of the field that its message begins with."""
    field, _, rest = error.message.partition(" ")
    flags = [a.option_strings[-1] for a in parser._actions if a.dest == field and a.option_strings]
    return UsageError(f"{flags[0]} {rest}", error.hint) if flags else error


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
