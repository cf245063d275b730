"""One small file per tool. Each has the same three names; `benchmarks/README.md` shows how to add one.

* `label`: what readers see.
* `version()`: what the tool says about itself, None when it is missing.
* `command(url, path, connections, extra)`: the command line, absolute path first; raises `Unable` for what it cannot do.

Optional: `many(urls, folder, parallel, connections, extra)`, several files by one command; `single = True` for a tool with one
connection, whose time on a throttled server is known beforehand and so is measured once; `http3 = True` where it has HTTP/3;
`baseline = True` for what is no tool; `downloads = False` for a baseline that writes something else in as many bytes.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

FASTIDM = "fastidm"
FLOOR = "floor"
DISK = "disk"
LIBCURL = "libcurl"


@cache
def all_tools() -> dict[str, ModuleType]:
    """Every tool by its name, which is that of its file; ours first."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    names = sorted(found, key=lambda name: (not is_ours(name), is_baseline(name), name))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def is_ours(name: str) -> bool:
    return name == FASTIDM or name.startswith(f"{FASTIDM}_")


def is_peer(name: str) -> bool:
    """Whether it is somebody else's tool."""
    return not is_ours(name) and not is_baseline(name)


def is_baseline(name: str) -> bool:
    return name in (FLOOR, DISK, LIBCURL) or name.startswith(f"{FLOOR}_")
