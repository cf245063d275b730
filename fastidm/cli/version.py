"""What `--version` says: the versions that matter in a bug report, found without starting anything.

Rule of this module: answer fast.
"""

from __future__ import annotations

import os
import sys


def describe() -> str:
    """The text of `--version`: fastidm, libcurl and its TLS library, pycurl, Python, and the sink in use."""
    from fastidm import __version__

    try:
        from fastidm.net.curl import pycurl

        info = pycurl.version_info()
        version = pycurl.version.split()[0].rpartition("/")[2]
        libcurl = f"libcurl {info[1]} ({info[5] or 'no TLS'})\npycurl {version}"
    except ImportError as error:
        libcurl = f"libcurl not available: {error}"
    return f"fastidm {__version__}\n{libcurl}\nPython {sys.version.split()[0]}\nsink {sink_kind()}\n"


def sink_kind() -> str:
    """ "C", or "pure Python" when the extension is not built or FASTIDM_PURE=1 turns it off."""
    if os.environ.get("FASTIDM_PURE") == "1":
        return "pure Python"
    try:
        import fastidm._hotpath  # noqa: F401
    except ImportError:
        return "pure Python"
    return "C"


def say(text: str) -> int:
    """Write `text` to stdout; returns the exit code. A reader that went away is no error, a full disk is (10)."""
    if sys.stdout is None:
        return 0
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_stdout()
    except OSError as error:
        abandon_stdout()
        print(f"fastidm: error: cannot write to standard output: {error.strerror}", file=sys.stderr)
        return 10
    return 0


def abandon_stdout() -> None:
    """Send what stdout still holds nowhere, so that the interpreter does not complain about it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        pass
    finally:
        os.close(nowhere)
