"""Who may import whom. The order that docs/design.md draws, read off the source itself."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import fastidm
from tests.support.content import content
from tests.support.servers import Nginx

PACKAGE = Path(fastidm.__file__).parent
VOCABULARY = ("errors", "records", "options", "events")
ORDER = [
    # Each knows the vocabulary and what stands in the lines above it, and nothing of its own line.
    {"core"},
    {"net", "storage", "background"},
    {"shortway"},
    {"running"},
    {"engine"},
    {"queue"},
    {"listening"},
    {"manager"},
    {"streams"},
    {"api"},
    {"cli", "integrations"},
]
MAY_IMPORT = {
    **{home: set(VOCABULARY) for home in (*VOCABULARY, "demo")},
    **{home: {*VOCABULARY}.union(*ORDER[:level]) for level, line in enumerate(ORDER) for home in line},
    "__main__": {"cli"},
}
# The text of --version names the sink, and must not start the engine to find out.
ONLY_IN = {
    "pycurl": ("net",),
    "mmap": ("storage",),
    "msgpack": ("storage",),
    "fastidm._hotpath": ("storage", "cli.version"),
}
NOT_IN_CORE = {
    *("os", "socket", "select", "selectors", "subprocess", "time", "threading", "asyncio"),
    *("mmap", "pycurl", "msgpack"),
}
PRINTING = ("cli", "demo")


def within(module: str, homes: tuple[str, ...]) -> bool:
    """Whether `module` ("fastidm.cli.version") is one of `homes` ("cli") or inside one."""
    return any(f"{module}.".startswith(f"fastidm.{home}.") for home in homes)


def imported(tree: ast.AST) -> set[str]:
    """Full names of all modules that `tree` imports, at its top or inside functions; relative ones begin with a dot."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            for alias in node.names:
                # `from fastidm import errors` names a module, `from fastidm import Options` a name of the menu.
                found.add(fastidm._HOMES.get(alias.name, f"fastidm.{alias.name}") if source == "fastidm" else source)
    return found - {"fastidm.__version__"}


def printed(tree: ast.AST) -> bool:
    """Whether `tree` calls print, or uses sys.stdout or sys.stderr."""
    return any(
        (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
        or (
            isinstance(node, ast.Attribute)
            and node.attr in ("stdout", "stderr")
            and isinstance(node.value, ast.Name)
            and node.value.id == "sys"
        )
        for node in ast.walk(tree)
    )


def violations(module: str, source: str) -> list[str]:
    """What is wrong with the imports of `module` ("fastidm.core.retry"), as sentences."""
    tree = ast.parse(source)
    home = module.split(".")[1]
    if home not in MAY_IMPORT:
        return [f"{home} has no place in the order yet: see ORDER"]
    wrong = []
    for name in sorted(imported(tree)):
        root, _, rest = name.partition(".")
        if not root:
            wrong.append(f"{module} imports {name}: relative imports hide who is meant")
        elif root == "fastidm":
            other = rest.partition(".")[0]
            if other not in {home} | MAY_IMPORT[home] and not within(module, ONLY_IN.get(name, ())):
                wrong.append(f"{module} imports {name}: {home} may not know {other or 'the menu'}")
        elif home == "core" and root in NOT_IN_CORE:
            wrong.append(f"{module} imports {name}: core has no I/O, no clock, no thread")
        for only, homes in ONLY_IN.items():
            if f"{name}.".startswith(f"{only}.") and not within(module, homes):
                wrong.append(f"{module} imports {name}: only {' and '.join(homes)} may")
    if printed(tree) and not within(module, PRINTING):
        wrong.append(f"{module} prints: only {' and '.join(PRINTING)} may")
    return wrong


def modules() -> dict[str, Path]:
    """Every module of the package but the menu, by its full name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name != "fastidm":
            found[name] = path
    return found


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_is_below_it(module: str) -> None:
    assert violations(module, modules()[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastidm.core.retry", "from fastidm.net import easy"),
        ("fastidm.core.retry", "def f():\n    import time"),
        ("fastidm.core.retry", "import os.path"),
        ("fastidm.core.retry", "from ..net import easy"),
        ("fastidm.core.retry", "from fastidm import DownloadManager"),
        ("fastidm.core", "from fastidm import net"),
        ("fastidm.net.multi", "from fastidm.storage.sink import PureSink"),
        ("fastidm.storage.target", "import fastidm.net"),
        ("fastidm.storage.target", "import pycurl"),
        ("fastidm.engine", "import mmap"),
        ("fastidm.engine", "import fastidm._hotpath"),
        ("fastidm.engine", "from fastidm._hotpath import Sink"),
        ("fastidm.engine", "from msgpack import packb"),
        ("fastidm.engine", "import fastidm.queue"),
        ("fastidm.engine", "print('received')"),
        ("fastidm.engine", "import sys\nsys.stderr.write('x')"),
        ("fastidm.errors", "from fastidm.core.retry import Budget"),
        ("fastidm.manager", "from fastidm.demo.content import content"),
        ("fastidm.cli.run", "import pycurl"),
        ("fastidm.utils", ""),
    ],
)
def test_the_rules_notice_what_they_forbid(module: str, source: str) -> None:
    assert len(violations(module, source)) >= 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastidm.core.retry", "from fastidm.errors import BusyError\nimport math"),
        ("fastidm.storage.sink", "from fastidm._hotpath import Sink\nimport mmap"),
        ("fastidm.net.multi", "import pycurl\nfrom fastidm.core.response import judge"),
        ("fastidm.net.multi", "from fastidm import __version__"),
        ("fastidm.cli.run", "from fastidm import DownloadManager, errors\nprint(1)"),
        ("fastidm.cli.version", "import fastidm._hotpath\nfrom fastidm.net.curl import pycurl"),
    ],
)
def test_the_rules_allow_what_they_should(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_importing_fastidm_loads_no_other_module() -> None:
    script = "import sys; before = set(sys.modules); import fastidm; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fastidm"]


@pytest.mark.parametrize("name", fastidm.__all__)
def test_every_name_of_the_menu_can_be_had(name: str) -> None:
    assert getattr(fastidm, name) is getattr(importlib.import_module(fastidm._HOMES[name]), name)
    assert name in dir(fastidm)


def test_a_name_that_is_not_on_the_menu_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'downlaod'"):
        fastidm.downlaod  # noqa: B018


SLOW = ("argparse", "asyncio", "ast", "dataclasses", "inspect", "logging", "numpy", "re", "shutil", "socket", "typing")
"""Modules that a download does without, since each takes a good part of what loading libcurl takes."""


@pytest.mark.parametrize("size", [100, 3 << 20], ids=["small", "with a journal"])
@pytest.mark.parametrize(
    "work",
    [
        "from fastidm.cli.main import run\nassert run(['--quiet', '--conn=16', '-o', sys.argv[2], sys.argv[1]]) == 0",
        "import fastidm\nfastidm.download(sys.argv[1], sys.argv[2])",
    ],
    ids=["command", "api"],
)
def test_a_download_loads_nothing_slow(nginx: Nginx, tmp_path: Path, work: str, size: int) -> None:
    url = nginx.add(f"imports-{size}.bin", content(size))
    # Without site-packages' .pth files, which may load anything.
    script = f"import sys\nsys.path[:0] = {sys.path!r}\n{work}\nprint(*sorted(set({SLOW!r}) & set(sys.modules)))"
    command = [sys.executable, "-S", "-c", script, url, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
    assert (tmp_path / "file").stat().st_size == size
