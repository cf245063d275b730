"""How the process of a command ends: at once.

Rules of this module: the interpreter would take some 10 ms to free what the kernel frees in one go, and wake threads that wait
for nothing, so it is left out. Whoever asked to be told of the end is told (`atexit`, and with it coverage), and what was
written is flushed. Whoever watches, a debugger or a profiler, gets the usual end.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process with this exit code."""
    if not watched():
        import atexit

        atexit._run_exitfuncs()
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except (OSError, ValueError):
            pass  # the interpreter says so, in its own way
        else:
            os._exit(code)
    sys.exit(code)


def watched() -> bool:
    """Whether the interpreter has more to do at its end: for a debugger or profiler, `python -i`, or another's thread."""
    if sys.gettrace() is not None or sys.getprofile() is not None or sys.flags.inspect or os.environ.get("PYTHONINSPECT"):
        return True
    monitoring = getattr(sys, "monitoring", None)  # since Python 3.12
    if monitoring is not None and any(monitoring.get_tool(number) is not None for number in range(6)):
        return True
    threading = sys.modules.get("threading")
    return threading is not None and any(
        thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()
    )
