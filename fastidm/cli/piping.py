"""`-o -`: the file goes to standard output, in order, while it is downloaded.

Rules of this module: nothing but the file's bytes goes to standard output, and as fast as they are taken there; what is shown
to people goes to stderr. Nothing is kept, so what was stopped begins anew.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from time import monotonic

from fastidm.cli.main import error_line
from fastidm.cli.progress import DRAW_INTERVAL
from fastidm.cli.reporter import Reporter
from fastidm.core.rate import SpeedAverage, time_left
from fastidm.errors import FastidmError, InterruptedDownload, StorageError, UsageError, redact
from fastidm.events import Failed, Finished, Progress, Started

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

    from fastidm.cli.arguments import Command
    from fastidm.streams import Stream

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PIPE_BYTES = 1 << 20
"""What a pipe is asked to hold: with its usual 64 KiB reader and writer wait for each other more often."""
SHOWN = "standard output"


def pipe(command: Command, reporter: Reporter) -> int:
    """Write the file to standard output; returns the exit code."""
    (url,) = command.urls
    before = {
        number: signal.signal(number, _stop) for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN
    }
    reporter.begin(command.urls, None)
    try:
        Piping(command, reporter).run()
        return 0
    except FastidmError as error:
        reporter.event(1, Failed(redact(url), error.name, error.exit_code, error.message, error.hint))
        reporter.say(error_line(f"{redact(url)}: {error.message}", error.hint))
        return error.exit_code
    finally:
        reporter.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for again in STOP_SIGNALS:
        if signal.getsignal(again) is _stop:
            signal.signal(again, _stop_at_once)
    raise InterruptedDownload("stopped on request", "nothing was kept: the same command begins anew")


def _stop_at_once(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(InterruptedDownload.exit_code)


class Piping:
    """One file on its way to standard output."""

    def __init__(self, command: Command, reporter: Reporter) -> None:
        self._command = command
        self._reporter = reporter
        self._url = redact(command.urls[0])
        self._written = 0
        self._due = 0.0

    def run(self) -> None:
        """Write all of it. Raises what has ended it."""
        try:
            self._out = sys.stdout.fileno()
        except (AttributeError, OSError):
            raise UsageError("there is no standard output") from None
        if os.isatty(self._out):
            raise UsageError("standard output is a terminal", "send it to a program or a file: fastidm -o - URL | tar -xz")
        _widen(self._out)
        from fastidm.api import stream

        begun = monotonic()
        self._average = SpeedAverage(begun)
        with stream(self._command.urls[0], options=self._command.options) as source:
            self._source = source
            self._reporter.event(1, Started(self._url, SHOWN, source.size, 0, source.raw.run.ranges))
            source.raw.write_to(self._write)
            self._tell(monotonic())
            self._reporter.event(1, self._finished(source, monotonic() - begun))

    def _write(self, data: memoryview) -> int:
        now = monotonic()
        if now >= self._due:
            self._due = now + DRAW_INTERVAL
            self._tell(now)
        try:
            count = os.write(self._out, data)
        except BlockingIOError:  # whoever gave it to us may have made it so
            select.select((), (self._out,), (), DRAW_INTERVAL)
            count = 0
        except BrokenPipeError:
            raise StorageError("nobody reads standard output any more") from None
        except OSError as error:
            raise StorageError(f"cannot write to standard output: {error.strerror}") from error
        self._written += count
        return count

    def _tell(self, now: float) -> None:
        size, run = self._source.size, self._source.raw.run
        rate = self._average.update(self._written, now)
        left = None if size is None else time_left(size - self._written, rate)
        segments = run.segments(self._written)
        busy = sum(1 for part in tuple(run.parts) if not part.complete)
        self._reporter.event(1, Progress(self._url, SHOWN, size, self._written, rate, left, busy, segments))

    def _finished(self, source: Stream, seconds: float) -> Finished:
        run, checksum = source.raw.run, self._command.options.checksum
        return Finished(
            url=self._url,
            path=SHOWN,
            size=self._written,
            seconds=seconds,
            rate=self._written / seconds if seconds > 0 else 0.0,
            received=self._written,
            resumed=0,
            connections=run.peak,
            retries=run.retries,
            checksum=f"{checksum[0]}:{checksum[1]}" if checksum else None,
            length_unverified=source.size is None,
            final_url=source.final_url,
            validator=source.validator,
        )


def _widen(fd: int) -> None:
    try:
        from fcntl import F_SETPIPE_SZ, fcntl

        fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES)
    except (ImportError, OSError):
        pass  # no pipe, or not on this system
