"""Whoever loads pycurl first, all have the same one."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAME = """
assert theirs.error is ours.error and theirs.Curl is ours.Curl and theirs.CurlMulti is ours.CurlMulti
try:
    theirs.Curl().setopt(theirs.URL, 1)
except TypeError:
    pass
curl = ours.Curl()
curl.setopt(ours.URL, "http://127.0.0.1:1/")
try:
    curl.perform()
except theirs.error as error:
    print("caught", error.args[0])
"""


def told(code: str, *flags: str) -> str:
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "imports",
    [
        "from fastidm.net.curl import pycurl as ours\nimport pycurl as theirs",
        "import pycurl as theirs\nfrom fastidm.net.curl import pycurl as ours",
        "import pycurl._pycurl\nfrom fastidm.net.curl import pycurl as ours\nimport pycurl as theirs",
    ],
)
def test_it_is_the_same_whoever_is_first(imports: str) -> None:
    assert told(imports + SAME) == "caught 7\n"


def test_the_package_is_whole_when_it_is_imported_afterwards() -> None:
    code = (
        "from fastidm.net.curl import pycurl as ours\n"
        "import sys, pycurl\n"
        "print(set(dir(ours)) <= set(dir(pycurl)), sys.modules.get('pycurl._pycurl', ours) is ours, ours.__name__)\n"
        "from importlib import reload; reload(pycurl)\n"
        "print(pycurl.error is ours.error, bool(ours.__spec__ and ours.__file__))\n"
    )
    assert told(code).splitlines()[0].startswith("True True ")
    assert told(code).splitlines()[1] == "True True"


HOOK = """
import importlib.machinery, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "pycurl":
            return importlib.machinery.ModuleSpec(name, Finder)
    @staticmethod
    def create_module(spec):
        return None
    @staticmethod
    def exec_module(module):
        module.made_by = "hook"
sys.meta_path.insert(0, Finder)
from fastidm.net.curl import pycurl
print(pycurl.made_by)
"""


def test_where_something_else_finds_modules_it_is_asked() -> None:
    assert told(HOOK) == "hook\n"


@pytest.mark.parametrize(
    "broken", ["folder / '__init__.py'", "folder / '_pycurl.abi3.so'"], ids=["no extension", "an extension that does not load"]
)
def test_what_an_import_would_say_is_said(broken: str) -> None:
    code = (
        "import pathlib, sys, tempfile\n"
        "with tempfile.TemporaryDirectory() as top:\n"
        "    folder = pathlib.Path(top, 'pycurl')\n"
        "    folder.mkdir()\n"
        "    (folder / '__init__.py').write_text('from pycurl import _pycurl')\n"
        f"    ({broken}).touch() if 'so' in {broken!r} else None\n"
        "    sys.path.insert(0, top)\n"
        "    try:\n"
        "        import fastidm.net.curl\n"
        "    except ImportError as error:\n"
        "        print(type(error).__name__, '_pycurl' in str(error))\n"
    )
    assert told(code) == "ImportError True\n"


def test_the_package_around_it_stays_out() -> None:
    code = (
        "import sys\n"
        "from fastidm.net.curl import pycurl\n"
        "import importlib.machinery\n"
        "spec = importlib.machinery.PathFinder.find_spec('pycurl')\n"
        "if spec.submodule_search_locations:\n"
        "    assert not {'pycurl', 'inspect', 'dataclasses', 'typing'} & set(sys.modules), sorted(sys.modules)\n"
    )
    told(code, "-E")
