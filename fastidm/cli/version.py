"""What `--version` says: the versions that matter in a bug report, found without starting anything.

Rule of this module: answer fast. Importing pycurl as a whole drags in helpers for asyncio, dataclasses and inspect,
which takes twice as long as loading libcurl itself; so only its extension module is loaded here.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from types import ModuleType


def describe() -> str:
    """The text of `--version`: fastidm, libcurl and its TLS library, pycurl, Python, and the sink in use."""
    from fastidm import __version__

    try:
        curl = _pycurl()
        info = curl.version_info()
        pycurl = curl.version.split()[0].rpartition("/")[2]
        libcurl = f"libcurl {info[1]} ({info[5] or 'no TLS'})\npycurl {pycurl}"
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


def _pycurl() -> ModuleType:
    """The extension module of pycurl, without the package around it if there is one."""
    if "pycurl" not in sys.modules:
        from importlib.machinery import PathFinder

        package = PathFinder.find_spec("pycurl")
        folders = package.submodule_search_locations if package else None
        spec = PathFinder.find_spec("pycurl._pycurl", folders) if folders else None
        if spec and spec.loader:
            module = spec.loader.create_module(spec)
            if module is not None:
                spec.loader.exec_module(module)
                return module
    from importlib import import_module

    return import_module("pycurl")
