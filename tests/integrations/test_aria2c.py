"""`fastidm-aria2c`: what programs that call aria2c write, and yt-dlp, the real one."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastidm.cli import aria2c
from fastidm.errors import UsageError
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Habit, OddServer
from tests.support.servers import Nginx

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]
URL = "http://127.0.0.1:1/file.bin"


def jobs(*arguments: str, stdin: str = "") -> list[tuple[str, object]]:
    wishes = aria2c.parse(arguments)
    return [(url, options) for url, options in aria2c._jobs(wishes, io.StringIO(stdin))]


def options(*arguments: str, url: str = URL) -> object:
    return jobs(*arguments, url)[0][1]


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["-x16", "-s16"], "connections", 16),
        (["-x", "4", "--split=8"], "connections", 4),
        (["--max-connection-per-server=200"], "connections", 128),
        (["--dir", "here", "-o", "name"], "output", os.path.join("here", "name")),
        (["--out=name"], "output", "name"),
        (["-U", "agent"], "user_agent", "agent"),
        (["--header", "A: b", "--referer=http://x/"], "headers", ("A: b", "Referer: http://x/")),
        (["--http-user=ann", "--http-passwd=secret"], "user", "ann:secret"),
        (["--max-download-limit=2M"], "limit_rate", 2 << 20),
        (["--max-download-limit", "0"], "limit_rate", None),
        (["-m3"], "retries", 2),
        (["--timeout=7"], "timeout", 7.0),
        (["--check-certificate=false"], "insecure", True),
        (["--check-certificate=true"], "insecure", False),
        (["--allow-overwrite=true"], "overwrite", True),
        (["--allow-overwrite"], "overwrite", True),
        (["--auto-file-renaming=false"], "rename", False),
        ([], "rename", True),
        ([], "netrc", True),
        (["--no-netrc"], "netrc", False),
        (["--all-proxy=http://p:1", "--all-proxy-user=u", "--all-proxy-passwd=p@s"], "proxy", "http://u:p%40s@p:1"),
        (["--https-proxy=http://p:1"], "proxy", None),
        (["--http-proxy=p:1"], "proxy", "http://p:1"),
        (["--checksum=sha-256=" + "0" * 64], "checksum", ("sha256", "0" * 64)),
        (["-ck1M", "-j", "3", "--file-allocation=none", "--enable-color=false"], "connections", 16),
    ],
)
def test_an_option_of_aria2_means_what_it_says(arguments: list[str], name: str, value: object) -> None:
    assert getattr(options(*arguments), name) == value


@pytest.mark.parametrize(
    "argument",
    ["--interface=eth0", "--min-tls-version=TLSv1.3", "--enable-rpc", "--dry-run=true", "--daemon", "--check-certificate=no"],
)
def test_what_protects_somebody_or_would_mean_something_else_is_never_passed_over(argument: str) -> None:
    with pytest.raises(UsageError):
        options(argument)


def test_an_unknown_option_is_warned_of_and_passed_over(
    nginx: Nginx, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = nginx.add("unknown.bin", content(1000))
    assert aria2c.run(["--no-such-thing=1", "-W", "-q", "-d", str(tmp_path), url]) == 0
    said = capsys.readouterr().err
    assert "--no-such-thing is not known" in said
    assert "-W is not known" in said
    assert (tmp_path / "unknown.bin").read_bytes() == content(1000)


def test_an_input_file_lists_files_with_options_of_their_own() -> None:
    listed = "# a comment\nhttp://127.0.0.1:1/a\thttp://mirror/a\n  out=first\n  header=A: b\n\nhttp://127.0.0.1:1/b\n"
    found = jobs("-i", "-", "-d", "here", stdin=listed)
    assert [url for url, _ in found] == ["http://127.0.0.1:1/a", "http://127.0.0.1:1/b"]
    assert getattr(found[0][1], "output", None) == os.path.join("here", "first")
    assert getattr(found[0][1], "headers", None) == ("A: b",)
    assert getattr(found[1][1], "headers", None) == ()


def test_several_urls_are_mirrors_unless_each_is_wanted() -> None:
    assert len(jobs(URL, URL + "2")) == 1
    assert len(jobs("-Z", URL, URL + "2")) == 2


@pytest.mark.parametrize(("path", "code"), [("/none", 3), ("", 28)])
def test_exit_codes_are_those_of_aria2(path: str, code: int, nginx: Nginx, tmp_path: Path) -> None:
    assert aria2c.run(["-q", "-d", str(tmp_path), *([nginx.url + path] if path else [])]) == code


def test_it_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert aria2c.run(["-v"]) == 0
    assert "fastidm" in capsys.readouterr().out
    assert aria2c.run(["--help"]) == 0
    assert "yt-dlp" in capsys.readouterr().out


def test_yt_dlp_downloads_through_it(odd: Serve, tmp_path: Path) -> None:
    data = content(9 * MIB)
    file = File(data, lines=("Content-Type: video/mp4",))
    ranges: list[str] = []

    def habit(exchange: Exchange) -> None:
        if exchange.method == "HEAD":
            exchange.head(200, f"Content-Length: {len(data)}", "Content-Type: video/mp4")
            return
        ranges.append(exchange.headers.get("range", ""))
        file(exchange)

    program = shutil.which("fastidm-aria2c", path=os.path.dirname(sys.executable))
    assert program is not None, "the command is installed beside Python"
    done = subprocess.run(
        [sys.executable, "-m", "yt_dlp", "--ignore-config", "--no-update", "--downloader", program, "-o", "video.mp4",
         odd(habit).url + "/video.mp4"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert hashlib.sha256((tmp_path / "video.mp4").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert any(ranges), "it was asked as fastidm asks"
    assert "not known" not in done.stderr + done.stdout
