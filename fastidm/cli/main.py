"""From the command line to an exit code: parse, add the tasks, run the manager, say how it ended.

Rules of this module:

* Whatever goes wrong is one line on stderr and an exit code of `fastidm.errors`; a traceback needs FASTIDM_DEBUG=1.
* Signals: the first SIGINT, SIGTERM or SIGHUP stops the manager in good order, the second ends the process at once.
  A signal that was ignored when the process began (`nohup`) stays ignored.
* The engine is loaded after the arguments are known to be right.

`--json` writes one object a line to stdout. Every object has `event`, the name of its kind, `task`, the place of its
URL on the command line from 1, and the fields of that event's class in `fastidm.events`. Sizes are bytes, times are
seconds, rates bytes a second; what can be null is marked by `?`:

    start     url path size? resumed ranges
    progress  url path? size? received rate eta? connections segments: [[start, stop, position], ...]
    retry     url reason delay failures
    done      url path size seconds rate received resumed connections retries checksum? length_unverified final_url validator?
    error     url error exit_code message hint

`progress` comes at most twice a second for each task, the others always. A task's last object is `done` or `error`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from fastidm.cli.arguments import Command, TextRequested, parse
from fastidm.cli.reporter import Reporter
from fastidm.cli.version import abandon_stdout, say
from fastidm.errors import FastidmError, InterruptedDownload, printable, redact
from fastidm.events import Event, Failed, Finished, Paused, Progress, Started

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    import signal
    from types import FrameType
    from typing import Any, Protocol, TextIO

    from fastidm.options import Options

    class Task(Protocol):
        """What this module needs of a `fastidm.queue.Task`."""

        @property
        def error(self) -> FastidmError | None: ...
        @property
        def result(self) -> Finished | None: ...

    class Manager(Protocol):
        """What this module needs of a `fastidm.queue.Queue`."""

        def add(self, url: str, options: Options) -> Task: ...
        def run(self) -> None: ...
        def stop(self) -> None: ...
        def close(self) -> None: ...

else:  # of `signal` nothing is needed but this; its enumerations take a millisecond to make
    try:
        import _signal as signal
    except ImportError:
        import signal


JSON_INTERVAL = 0.5
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(arguments: Sequence[str], manager_factory: Callable[..., Manager] | None = None) -> int:
    """Do what `arguments` (without the program's name) say; returns the exit code.

    Parameters: `manager_factory`, called with `observer=` and `max_downloads=`, makes the manager; None: `Queue`.
    """
    try:
        command = parse(arguments)
        if command.to_stdout:
            from fastidm.cli.piping import pipe

            return pipe(command, choose_reporter(command.quiet, json=False))
        return Run(command, arguments).go(manager_factory or _queue)
    except TextRequested as request:
        return say(request.text)
    except FastidmError as error:
        _complain(error_line(error.message, error.hint))
        return error.exit_code
    except Exception as error:
        _complain(printable(f"fastidm: internal error: {type(error).__name__}: {error}"))
        if os.environ.get("FASTIDM_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        return 1


class Run:
    """One run of the command: who is shown what, and what the process will exit with."""

    def __init__(self, command: Command, arguments: Sequence[str]) -> None:
        self.command = command
        self.arguments = arguments
        self.reporter = choose_reporter(command.quiet, command.json)
        self.manager: Manager | None = None
        self.stopping = False
        self.numbers: dict[int, int] = {}
        """id of a task -> its number, the place of its URL on the command line from 1."""
        self.codes: dict[int, int] = {}
        """Number -> exit code, of the tasks that have ended."""
        self.started: dict[int, Started] = {}
        self.latest: dict[int, Progress] = {}

    def go(self, manager_factory: Callable[..., Manager]) -> int:
        """Download; returns the exit code. Raises what `add` and `run` of the manager raise."""
        before = self._take_signals()
        try:
            manager = self.manager = manager_factory(observer=self.observe, max_downloads=self.command.max_downloads)
            tasks = [manager.add(url, options) for url, options in self.command.jobs]
            self.numbers = {id(task): number for number, task in enumerate(tasks, 1)}
            self.reporter.begin(self.command.urls, self.command.options.output)
            if not self.stopping:
                manager.run()
            for task in tasks:
                self._settle(task)
            self.reporter.close()
            return self._exit_code()
        finally:
            self.reporter.close()
            if self.manager is not None:
                self.manager.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def observe(self, task: Any, event: Event) -> None:
        """The manager's observer."""
        if isinstance(event, Paused):
            return  # `_settle` says so, with the way to go on
        number = self.numbers[id(task)]
        if isinstance(event, Progress):
            self.latest[number] = event
        elif isinstance(event, Started):
            self.started[number] = event
        elif isinstance(event, Finished):
            self.codes[number] = 0
        elif isinstance(event, Failed):
            self.codes[number] = event.exit_code
        self.reporter.event(number, event)
        if isinstance(event, Failed) and event.exit_code != InterruptedDownload.exit_code:
            named = event.url in event.message
            message = event.message if named else f"{event.url}: {event.message}"
            self.reporter.say(error_line(message, self.command.advice(event.hint)))

    def _settle(self, task: Task) -> None:
        """See to it that every task has ended for the listener too: one that was stopped has sent no last event."""
        number = self.numbers[id(task)]
        if number in self.codes:
            return
        if task.result is not None:
            self.observe(task, task.result)
            return
        error = task.error or InterruptedDownload("stopped on request", "the same command goes on")
        url = redact(self.command.urls[number - 1])
        self.observe(task, Failed(url, error.name, error.exit_code, error.message, error.hint))

    def _exit_code(self) -> int:
        codes = [code for _, code in sorted(self.codes.items())]
        if InterruptedDownload.exit_code in codes:
            self.reporter.say(self._how_to_go_on(codes))
            return InterruptedDownload.exit_code
        return next((code for code in codes if code), 0)

    def _how_to_go_on(self, codes: Sequence[int]) -> str:
        where, last, started = "", self.latest.get(1), self.started.get(1)
        if len(codes) > 1:
            where = f", {codes.count(0)} of {len(codes)} files are done"
        elif started is not None and not started.ranges:
            where = ", and this server can only send the file from its beginning"
        elif last is not None and last.size:
            where = f" at {last.received * 100 // last.size} %"
        done = {url for url, code in zip(self.command.urls, codes, strict=True) if code == 0}
        return f"fastidm: stopped{where}; {how_to_go_on(self.command, self.arguments, done)}"

    def _take_signals(self) -> dict[signal.Signals, Any]:
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]]
        handlers = dict.fromkeys(STOP_SIGNALS, self._stop)
        handlers[signal.SIGCONT] = lambda *_: self.reporter.forget()
        return {
            number: signal.signal(number, handler)
            for number, handler in handlers.items()
            if signal.getsignal(number) is not signal.SIG_IGN
        }

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopping:
            os._exit(InterruptedDownload.exit_code)
        self.stopping = self.reporter.stopping = True
        if self.manager is not None:
            self.manager.stop()


class JsonReporter(Reporter):
    """For programs: JSON lines to `stdout`, as the top of this module describes them; errors go to `stream` too."""

    def __init__(self, stream: TextIO, stdout: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream, clock)
        self._stdout: TextIO | None = stdout
        self._due: dict[int, float] = {}

    def event(self, number: int, event: Event) -> None:
        if self._stdout is None:
            return
        if isinstance(event, Progress):
            now = self.clock()
            if now < self._due.get(number, now):
                return
            self._due[number] = now + JSON_INTERVAL
        import json

        fields: dict[str, object] = {"event": event.kind, "task": number}
        for name, value in vars(event).items():
            finite = not isinstance(value, float) or value - value == 0  # JSON has no infinity
            fields[name] = value if finite else None
        try:
            self._stdout.write(json.dumps(fields, separators=(",", ":")) + "\n")
            self._stdout.flush()
        except OSError as error:  # whoever listened is gone; the download goes on
            self._stdout = None
            abandon_stdout()
            if not isinstance(error, BrokenPipeError):
                self.say(f"fastidm: no more JSON lines: {error.strerror}")


def choose_reporter(quiet: bool, json: bool, environment: Mapping[str, str] = os.environ) -> Reporter:
    """The reporter that fits the flags, and what stderr leads to."""
    stream = sys.stderr if sys.stderr is not None else open(os.devnull, "w", encoding="utf-8")
    if json and sys.stdout is not None:
        return JsonReporter(stream, sys.stdout)
    if quiet or json:
        return Reporter(stream)
    from fastidm.cli.progress import LiveReporter, PlainReporter

    # A dumb terminal, as in an editor's shell window, cannot move its cursor: it is treated like a log.
    dumb = environment.get("TERM", "") in ("", "dumb")
    if not stream.isatty():
        return PlainReporter(stream, _can_show(stream))
    if dumb:
        return PlainReporter(stream, unicode=False)
    return LiveReporter(stream, _can_show(stream), colour=not environment.get("NO_COLOR"), environment=environment)


def error_line(message: str, hint: str = "") -> str:
    """What went wrong and what to do next, as the one line that a user sees."""
    return printable(f"fastidm: error: {message}; {hint}" if hint else f"fastidm: error: {message}")


def how_to_go_on(command: Command, arguments: Sequence[str], done: Collection[str] = ()) -> str:
    """Which command continues a stopped one: word for word, unless it holds secrets or cannot be shown.

    Parameters: `arguments`, as they were given; `done`, the URLs that need not be downloaded again.
    """
    options = command.options
    private = options.user or options.headers or any(redact(url) != url for url in (*command.urls, options.proxy or ""))
    if private or not all(a.isprintable() for a in arguments):
        without = " without --restart" if options.restart else ""
        return f"run the same command again{without} to go on"
    from shlex import join

    kept = [a for a in arguments if a != "--restart" and a not in done]
    program = ["python3", "-m", "fastidm"] if os.path.basename(sys.argv[0]) == "__main__.py" else [command.program]
    return f"to go on: {join([*program, *kept])}"


def _complain(line: str) -> None:
    if sys.stderr is not None:
        Reporter(sys.stderr).say(line)


def _can_show(stream: TextIO) -> bool:
    try:
        "█▏░…".encode(stream.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def _queue(observer: Callable[[Any, Event], None], max_downloads: int) -> Manager:
    from fastidm.queue import Queue

    return Queue(observer=observer, max_downloads=max_downloads)
