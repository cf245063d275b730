"""pycurl, loaded fast.

Rule of this module: what others get is the very extension module that `import pycurl` would load, whoever is first; its errors
are the same classes then. The package around it is left out, since that loads helpers for asyncio, and with them
dataclasses, inspect and ast: twice what libcurl itself takes. In doubt it is a plain `import pycurl`.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def load() -> ModuleType:
    """The extension module of pycurl, or the package if that is loaded already. Raises `ImportError`."""
    module = None if "pycurl" in sys.modules else sys.modules.get("pycurl._pycurl") or _extension()
    if module is None:
        import pycurl

        module = pycurl
    return module


def _extension() -> ModuleType | None:
    """None: it is not to be found in the usual way, or does not load."""
    package = _spec("pycurl", None)
    folders = package and package.submodule_search_locations
    spec = _spec("pycurl._pycurl", folders) if folders else None
    if spec is None or spec.loader is None or type(spec.loader).__name__ != "ExtensionFileLoader":
        return None
    try:
        module = spec.loader.create_module(spec)
        if module is None:
            return None
        # As importlib.util.module_from_spec would do it, which takes some milliseconds to load itself.
        module.__spec__, module.__loader__, module.__package__, module.__file__ = spec, spec.loader, spec.parent, spec.origin
        spec.loader.exec_module(module)
    except ImportError:
        return None  # a plain import says why
    # The package finds it there when it is imported after all.
    return sys.modules.setdefault(spec.name, module)


def _spec(name: str, folders: list[str] | None) -> ModuleSpec | None:
    """Where the module is, by the same finders that an import asks."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is None:
            return None  # of a kind that is older than we know
        spec: ModuleSpec | None = find(name, folders)
        if spec is not None:
            return spec
    return None


if TYPE_CHECKING:
    import pycurl as pycurl
else:
    pycurl = load()
