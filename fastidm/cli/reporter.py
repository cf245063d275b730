"""What every reporter has: those in `cli.progress` show how far it is, the one in `cli.main` tells programs.

Rule of this module: it is all that `--quiet` needs, and loads nothing that draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import TextIO

    from fastidm.events import Event


class Reporter:
    """Says nothing but what has to be said (`--quiet`); the others add to it. All of them write to `stream`."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.clock = clock
        self.stopping = False
        """Set once the user asked to stop, for whoever shows it."""

    def begin(self, urls: Sequence[str], output: str | None) -> None:
        """These tasks, with the numbers 1, 2, ..., are about to begin; `output` is the path if the user chose one."""

    def event(self, number: int, event: Event) -> None:
        """Task `number` sent `event`."""

    def say(self, line: str) -> None:
        """Show `line` in any case, whole and alone on its line."""
        self.write(line + "\n")

    def forget(self) -> None:
        """What was shown is no longer where it was: the process was suspended, and the shell wrote."""

    def close(self) -> None:
        """Nothing more will come: leave the terminal as a shell expects it."""

    def write(self, text: str) -> None:
        """Write `text` at once; a stream that fails is not an error of the download."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            pass
