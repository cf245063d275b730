"""Where `fastidm` and `python -m fastidm` begin.

Rule of this module: load nothing that the command at hand does not need. `--version` alone takes a short way.
"""

from __future__ import annotations

import gc
import sys

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> int:
    """Run the command with the arguments of this process; returns its exit code."""
    # The process is ours: with thousands of files that wait, looking for garbage as often as usual takes 7 % of the time.
    gc.set_threshold(20_000, 20, 20)
    arguments = sys.argv[1:]
    try:
        if arguments == ["--version"]:
            from fastidm.cli.version import describe, say

            return say(describe())
        from fastidm.cli.main import run

        return run(arguments)
    except KeyboardInterrupt:  # before the signal handlers were in place: nothing had begun
        return 7


def command() -> NoReturn:
    """Run the command as the whole business of this process, and end it."""
    code = main()
    from fastidm.cli.leaving import leave

    leave(code)


if __name__ == "__main__":
    command()
