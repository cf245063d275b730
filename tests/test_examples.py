"""The examples, the pages of the docs and the docstrings do what they say: each is run, against servers of our own."""

from __future__ import annotations

import asyncio
import doctest
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import fastidm
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Habit, OddServer

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
DISK = content(3 * MIB)
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md") if "```python" in path.read_text(encoding="utf-8"))


class Site:
    """A server that has what the docs speak of."""

    def __init__(self, serve: Callable[[Habit], OddServer]) -> None:
        packed, zipped = io.BytesIO(), io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            member = tarfile.TarInfo("source.c")
            member.size = 5
            archive.addfile(member, io.BytesIO(b"int x"))
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("readme.txt", "read me\n")
            archive.writestr("large.bin", DISK)
        self.files = {f"/{name}.zip": content(300_000) for name in "abcdef"}
        self.files |= {"/disk.iso": DISK, "/table.csv": b"a,b\n" * 1000}
        self.files |= {"/source.tar.gz": packed.getvalue(), "/archive.zip": zipped.getvalue()}
        self.asked: list[str] = []
        self.url = serve(self).url

    def __call__(self, exchange: Exchange) -> None:
        self.asked.append(exchange.target)
        data = self.files.get(exchange.target)
        if data is None:
            exchange.answer(404)
        else:
            File(data)(exchange)

    def served(self, text: str) -> str:
        """`text` with the address of this server."""
        return text.replace("https://example.com", self.url)


@pytest.fixture
def site(odd: Callable[[Habit], OddServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The server, and an empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return Site(odd)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:fsspec", "ignore::ResourceWarning")
def test_every_example_of_a_page_runs(page: str, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        block = site.served(block).replace('filesystem("https")', 'filesystem("http")')
        exec(compile(block, page, "exec"), names)
    assert "False" not in capsys.readouterr().out


def run(name: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_bar_of_tqdm(site: Site, tmp_path: Path) -> None:
    said = run("tqdm_bar.py", site.url + "/disk.iso", cwd=tmp_path)
    assert "3.00M/3.00M" in said
    assert (tmp_path / "disk.iso").read_bytes() == DISK


def test_the_asyncio_fan_out(site: Site, tmp_path: Path) -> None:
    said = run("asyncio_fan_out.py", "here", *(f"{site.url}/{name}" for name in ("a.zip", "b.zip", "none.zip")), cwd=tmp_path)
    assert said.count("300000 bytes") == 2
    assert "not_found" in said


def test_the_display_for_notebooks(site: Site, tmp_path: Path) -> None:
    assert "█" * 40 in run("notebook.py", site.url + "/disk.iso", cwd=tmp_path)
    assert (tmp_path / "disk.iso").read_bytes() == DISK


def test_the_verified_data_set(site: Site, tmp_path: Path) -> None:
    good, bad = hashlib.sha256(DISK).hexdigest(), "0" * 64
    url = site.url + "/SHA256SUMS"
    site.files["/SHA256SUMS"] = f"{good}  disk.iso\n".encode()
    assert "completed" in run("verified_dataset.py", url, "set", cwd=tmp_path)
    before = site.asked.count("/disk.iso")
    assert run("verified_dataset.py", url, "set", cwd=tmp_path) == ""
    assert site.asked.count("/disk.iso") == before
    site.files["/SHA256SUMS"] = f"{bad}  a.zip\n".encode()
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "verified_dataset.py"), url, "set"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "checksum" in done.stdout


def test_the_remote_zip(site: Site, tmp_path: Path) -> None:
    assert "readme.txt" in run("remote_zip.py", site.url + "/archive.zip", cwd=tmp_path)
    assert run("remote_zip.py", site.url + "/archive.zip", "readme.txt", cwd=tmp_path) == "read me\n"


def test_every_example_is_run() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert all(path.name in tested for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", sorted(fastidm.__all__))
def test_the_example_in_a_docstring_is_right(name: str, site: Site) -> None:
    thing = getattr(fastidm, name)
    text = site.served(thing.__doc__ or "")
    if name in WITH_EXAMPLE:
        assert ">>>" in text, f"{name} shows no example"
    test = doctest.DocTestParser().get_doctest(text, {"fastidm": fastidm, "asyncio": asyncio}, name, None, None)
    said: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert results.failed == 0, "".join(said)


WITH_EXAMPLE = ("DownloadManager", "adownload", "afetch", "download", "fetch", "open", "stream")


def test_the_public_names_are_these() -> None:
    """Names that programs rely on. To take one away, or to give one another meaning, is a change that breaks them."""
    assert fastidm.__all__ == [
        "Body", "DownloadManager", "DownloadStatus", "DownloadTask", "FastidmError", "Options", "Progress", "RemoteFile",
        "Result", "Stream", "adownload", "afetch", "download", "fetch", "open", "stream",
    ]  # fmt: skip


def test_the_pages_are_all_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in menu] == []


