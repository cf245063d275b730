"""What argparse is for: help, and command lines that are unusual or wrong.

Rules of this module: `cli.arguments.flags` says which flags there are, and what a flag's value is; here nothing is said twice.
An unknown flag is answered with the nearest one, or with what another tool's flag is called here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from fastidm.cli.arguments import TextRequested, flags
from fastidm.errors import EXIT_CODES, UsageError, printable
from fastidm.options import nearest

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import Any, NoReturn

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


def read(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Values by field, and URLs.

    Raises `UsageError` for anything that is wrong, `TextRequested` for `--help` and `--version`.
    """
    parser = make_parser()
    _look_for_single_dashes(parser, arguments)
    given, rest = parser.parse_known_args(arguments)
    values: dict[str, Any] = vars(given)
    if unknown := next((a for a in rest if a.startswith("-") and a != "--"), None):
        raise _unknown_flag(unknown, spellings(parser))
    # argparse takes the first URLs in a row only; those that come after another flag are in the rest, in their order.
    return values, [*values.pop("urls"), *(a for a in rest if a != "--")]


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


_ACTIONS: dict[str, type[argparse.Action]] = {"help": _Help, "version": _Version}


def make_parser() -> argparse.ArgumentParser:
    """The parser of `fastidm`."""
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

    def group(title: str) -> Callable[..., None]:
        described = parser.add_argument_group(title)

        def add(*names: str, action: str = "store", type: Callable[[str, str], Any] | None = None, **rest: Any) -> None:
            if type is not None:
                rest["type"] = partial(type, names[-1])
            if action in _ACTIONS:
                rest["nargs"] = 0
            described.add_argument(*names, action=_ACTIONS.get(action, action), **rest)

        return add

    flags(group)
    return parser


def _exit_code_table() -> str:
    rows = (f"  {code:>2}  {name:<16} {meaning}" for code, (name, meaning) in EXIT_CODES.items())
    return "\n".join(("exit codes:", *rows)) + "\n"


def spellings(parser: argparse.ArgumentParser) -> list[str]:
    """Every spelling of every flag."""
    return [flag for action in parser._actions for flag in action.option_strings]


def _look_for_single_dashes(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    # "-output x" would be read as "-o utput x", a file of an unwanted name and a URL that is none.
    known = spellings(parser)
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
