"""fastidm: downloads one file over many connections, fast, and survives being killed.

This is the menu, and nothing else. A name is loaded when it is first used: `import fastidm` itself loads no other
module, so that a program which embeds it, or a command that only prints its version, does not pay for the engine.
"""

__version__ = "0.1.0"

__all__ = [
    "Body",
    "DownloadManager",
    "DownloadStatus",
    "DownloadTask",
    "FastidmError",
    "Options",
    "Progress",
    "RemoteFile",
    "Result",
    "Stream",
    "adownload",
    "afetch",
    "download",
    "fetch",
    "open",
    "stream",
]

_HOMES = {
    "Body": "fastidm.storage.memory",
    "DownloadManager": "fastidm.manager",
    "DownloadStatus": "fastidm.events",
    "DownloadTask": "fastidm.manager",
    "FastidmError": "fastidm.errors",
    "Options": "fastidm.options",
    "Progress": "fastidm.events",
    "RemoteFile": "fastidm.streams",
    "Result": "fastidm.events",
    "Stream": "fastidm.streams",
    "adownload": "fastidm.api",
    "afetch": "fastidm.api",
    "download": "fastidm.api",
    "fetch": "fastidm.api",
    "open": "fastidm.api",
    "stream": "fastidm.api",
}

# Type checkers believe this to be true. Importing it from `typing` would cost more than the whole module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastidm.api import adownload as adownload
    from fastidm.api import afetch as afetch
    from fastidm.api import download as download
    from fastidm.api import fetch as fetch
    from fastidm.api import open as open
    from fastidm.api import stream as stream
    from fastidm.errors import FastidmError as FastidmError
    from fastidm.events import DownloadStatus as DownloadStatus
    from fastidm.events import Progress as Progress
    from fastidm.events import Result as Result
    from fastidm.manager import DownloadManager as DownloadManager
    from fastidm.manager import DownloadTask as DownloadTask
    from fastidm.options import Options as Options
    from fastidm.storage.memory import Body as Body
    from fastidm.streams import RemoteFile as RemoteFile
    from fastidm.streams import Stream as Stream


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fastidm' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
