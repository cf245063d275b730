"""`fastidm-aria2c`: the command line of aria2c, as programs that call it write it, done by fastidm.

Rules of this module: what an option means stands in `cli/aria2options.py`; here is what is done with all of them together.
As aria2c it reads its configuration and input files, goes on with the other files where one is no good, and exits with aria2's
codes. What it says names aria2's options, since those are the ones that can be given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from fastidm.cli.arguments import Command
from fastidm.cli.aria2options import Wishes, parse, set_option
from fastidm.cli.main import Run, error_line
from fastidm.cli.version import say
from fastidm.errors import FastidmError, UsageError, printable
from fastidm.options import Options

EXIT_CODES = {0: 0, 3: 3, 4: 22, 5: 29, 6: 6, 7: 7, 8: 8, 9: 9, 10: 18, 11: 11, 12: 13, 14: 8, 15: 32, 16: 6, 17: 23, 18: 24}
"""Ours -> aria2's; any other is 1, an unknown error, and what is wrong on the command line is 28."""
UNKNOWN, USAGE = 1, 28
ADVICE = {
    "--cacert FILE trusts a private CA, --insecure trusts anybody":
        "--ca-certificate=FILE trusts a private CA, --check-certificate=false trusts anybody",
    "choose another name with -o or --rename, or replace it with --overwrite":
        "choose another name with -o, or replace it with --allow-overwrite=true",
    "give them by --user, --netrc or --proxy": "give them by --http-user and --http-passwd, in ~/.netrc, or with the proxy",
    "give name and password in the URL of --proxy": "give them by --all-proxy-user and --all-proxy-passwd",
    "see fastidm --help": "see fastidm-aria2c --help",
}  # fmt: skip
"""What `fastidm` advises -> the same for this command. Other advice that names an option is left out."""


class Aria2Command(Command):
    """A command of which each URL has options of its own."""

    program = "fastidm-aria2c"

    def __init__(self, jobs: Sequence[tuple[str, Options]], wishes: Wishes) -> None:
        urls = tuple(url for url, _ in jobs)
        options = jobs[0][1] if len(jobs) == 1 else Options()
        super().__init__(urls, options, wishes.quiet, json=False, max_downloads=wishes.max_downloads)
        self.jobs = tuple(jobs)
        self.limit_rate = wishes.limit_rate

    def advice(self, hint: str) -> str:
        return _advice(hint)


@dataclass
class Files:
    """What is to be downloaded."""

    jobs: list[tuple[str, Options]] = field(default_factory=list)
    refused: list[UsageError] = field(default_factory=list)
    """What is no URL, or has options that cannot be."""


def main() -> int:
    """The console command; returns the exit code."""
    return run(sys.argv[1:])


def run(arguments: Sequence[str], stdin: TextIO | None = None) -> int:
    """Do what `arguments` (without the program's name) say; returns the exit code, one of aria2's."""
    try:
        wishes = wishes_of(arguments)
        if wishes.text is not None:
            return say(wishes.text)
        files = files_of(wishes, stdin or sys.stdin)
    except UsageError as error:
        _complain(error)
        return USAGE
    for warning in dict.fromkeys(wishes.warnings):
        _tell(f"fastidm-aria2c: {warning}")
    for refused in files.refused:
        _complain(refused)
    if not files.jobs:
        return USAGE
    code = _download(Aria2Command([job for job in files.jobs if not _is_complete(job, wishes)], wishes), arguments)
    return code or (UNKNOWN if files.refused else 0)


def wishes_of(arguments: Sequence[str]) -> Wishes:
    """What the command line asks for, and before it the configuration. Raises `UsageError`."""
    first = parse(Wishes(), arguments)
    if first.text is not None:
        return first
    wishes = Wishes()
    for line in _configuration(first):
        name, _, value = line.partition("=")
        if name.strip() and not name.lstrip().startswith("#"):
            set_option(wishes, f"{name.strip()}={value.strip()}")
    return parse(wishes, arguments)


def _configuration(wishes: Wishes) -> list[str]:
    """The lines of the configuration that was chosen, or else of the first that is in its place."""
    if wishes.configuration is not None:
        return _lines_of(wishes.configuration, "conf-path")
    if not wishes.unconfigured:
        home = os.path.expanduser("~")
        other = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
        for path in (os.path.join(home, ".aria2", "aria2.conf"), os.path.join(other, "aria2", "aria2.conf")):
            if os.path.isfile(path):
                return _lines_of(path, "conf-path")
    return []


def files_of(wishes: Wishes, stdin: TextIO) -> Files:
    """The files that are asked for. Raises `UsageError` if there is none."""
    mirrors = [[url] for url in wishes.urls] if wishes.each else [wishes.urls] if wishes.urls else []
    named = replace(wishes, options=_unnamed(wishes)) if wishes.each else wishes
    found = [(urls, named) for urls in mirrors]
    if wishes.input_file is not None:
        lines = stdin.read().splitlines() if wishes.input_file == "-" else _lines_of(wishes.input_file, "input-file")
        found += _listed(wishes, lines)
    if not found:
        raise UsageError("no URL given", "see fastidm --help")
    files = Files()
    for urls, wish in found:
        try:
            files.jobs.append(_first_good(urls, wish))
        except UsageError as error:
            files.refused.append(error)
    return files


def _unnamed(wishes: Wishes) -> dict[str, Any]:
    """The options for one of several files: a name that is given for all means none of them, as for aria2c."""
    return {name: value for name, value in wishes.options.items() if name != "output"}


def _first_good(urls: Sequence[str], wishes: Wishes) -> tuple[str, Options]:
    """The first of the mirrors that can be used. Raises what is wrong with the first."""
    wrong: list[UsageError] = []
    for url in urls:
        try:
            return url, wishes.made(url)
        except UsageError as error:
            wrong.append(error)
    raise wrong[0]


def _listed(wishes: Wishes, lines: Sequence[str]) -> Iterator[tuple[list[str], Wishes]]:
    """What an input file lists: a line for each file, its mirrors apart by tabs; below it, indented, options of its own."""
    wish: Wishes | None = None
    urls: list[str] = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            if wish is not None:
                set_option(wish, line.strip())
            continue
        if wish is not None:
            yield urls, wish
        urls = [url.strip() for url in line.split("\t") if url.strip()]
        wish = replace(
            wishes, options=_unnamed(wishes), headers=list(wishes.headers), inherited=True, proxies=dict(wishes.proxies)
        )
    if wish is not None:
        yield urls, wish


def _lines_of(path: str, option: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--{option}: {printable(path)} cannot be read: {reason}") from None


def _is_complete(job: tuple[str, Options], wishes: Wishes) -> bool:
    """Whether a file that is to be gone on with is there already, as long as the server's. What another program has left of it
    is none that fastidm can go on with: it is then an error that the file exists."""
    from fastidm.storage.naming import JOURNAL_SUFFIX, name_from_url

    url, options = job
    path = options.output or os.path.join(options.directory, name_from_url(url))
    if not wishes.go_on or not os.path.isfile(path) or os.path.exists(path + JOURNAL_SUFFIX):
        return False
    from fastidm.api import stream

    try:
        with stream(url, options=replace(options, connections=1)) as there:
            complete = there.size == os.path.getsize(path)
    except (FastidmError, OSError):
        return False  # it will be said of the download
    if complete and not wishes.quiet:
        _tell(f"fastidm-aria2c: {printable(path)} is complete")
    return complete


def _download(command: Aria2Command, arguments: Sequence[str]) -> int:
    if not command.jobs:
        return 0
    for _, options in command.jobs:
        _make_folder(options)
    try:
        return EXIT_CODES.get(Run(command, arguments).go(_queue(command)), UNKNOWN)
    except FastidmError as error:
        _complain(error)
        return EXIT_CODES.get(error.exit_code, UNKNOWN)


def _make_folder(options: Options) -> None:
    """As aria2 does."""
    try:
        os.makedirs(options.directory if options.output is None else os.path.dirname(options.output) or ".", exist_ok=True)
    except OSError:
        pass  # what is wrong with it is said when the file is begun


def _queue(command: Aria2Command) -> Callable[..., Any]:
    def make(observer: Callable[..., None], max_downloads: int) -> Any:
        from fastidm.queue import Queue

        return Queue(observer=observer, max_downloads=max_downloads, limit_rate=command.limit_rate)

    return make


def _advice(hint: str) -> str:
    return ADVICE.get(hint, "" if "--" in hint else hint)


def _complain(error: FastidmError) -> None:
    _tell(error_line(error.message, _advice(error.hint)))


def _tell(line: str) -> None:
    if sys.stderr is not None:
        print(line, file=sys.stderr)
