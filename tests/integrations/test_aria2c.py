"""`fastidm-aria2c`: what programs that call aria2c write, and yt-dlp, the real one."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastidm.cli import aria2c
from fastidm.cli.aria2options import TABLE
from fastidm.errors import UsageError
from fastidm.options import Options
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Habit, OddServer
from tests.support.servers import Nginx

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]
URL = "http://127.0.0.1:1/file.bin"


@pytest.fixture(autouse=True)
def _nothing_of_ones_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration and no proxy of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def jobs(*arguments: str, stdin: str = "") -> list[tuple[str, Options]]:
    files = aria2c.files_of(aria2c.wishes_of(arguments), io.StringIO(stdin))
    for refused in files.refused:
        raise refused
    return files.jobs


def options(*arguments: str, url: str = URL) -> Options:
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
        (["--referer=*"], "headers", (f"Referer: {URL}",)),
        (["--http-no-cache"], "headers", ("Cache-Control: no-cache", "Pragma: no-cache")),
        (["--ca-cert=file"], "cacert", "file"),
        (["-c"], "rename", False),
        (["--seed-ratio", "0", "-u", "10K", "--on-download-complete", "./x.sh", "--bt-tracker=x"], "rename", True),
        (["--ftp-proxy", "http://127.0.0.1:2/"], "proxy", None),
        (["-ck1M", "-j", "3", "--file-allocation=none", "--enable-color=false"], "connections", 16),
    ],
)
def test_an_option_of_aria2_means_what_it_says(arguments: list[str], name: str, value: object) -> None:
    assert getattr(options(*arguments), name) == value


@pytest.mark.parametrize(
    "argument",
    [
        "--interface=eth0", "--interf=eth0", "--min-tls-version=TLSv1.3", "--check-certificate=no", "--check=no",
        "--enable-rpc", "--dry-run=true", "--daemon", "--conf-path=/none/there", "-Tx", "-j0", "-x0", "-m-5",
    ],
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


def test_the_value_of_an_unknown_option_is_not_taken_for_the_file() -> None:
    assert [url for url, _ in jobs("--no-such-thing", "7", URL)] == [URL]
    assert [url for url, _ in jobs("--no-such-thing", URL)] == [URL]


@pytest.mark.parametrize(
    ("arguments", "environment", "proxy"),
    [
        ([], {"http_proxy": "http://e:1"}, None),
        (["--all-proxy=p:1", "--http-proxy="], {}, "http://p:1"),
        (["--all-proxy="], {"http_proxy": "http://e:1"}, "http://e:1"),
        (["--http-proxy="], {"http_proxy": "http://e:1"}, ""),
        (["--http-proxy="], {"all_proxy": "http://e:1"}, "http://e:1"),
        (["--http-proxy-user=u", "--http-proxy-passwd=p"], {"http_proxy": "http://e:1"}, "http://u:p@e:1"),
        (["--all-proxy-user=u", "--all-proxy-passwd=p"], {"all_proxy": "e:1"}, "http://u:p@e:1"),
        (["--http-proxy=http://a:b@p:1", "--http-proxy-user=u", "--http-proxy-passwd=p"], {}, "http://u:p@p:1"),
        (["--http-proxy=http://a:b@p:1"], {}, "http://a:b@p:1"),
    ],
)
def test_traffic_goes_by_the_proxy_that_aria2_would_use(
    arguments: list[str], environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert options(*arguments).proxy == proxy


def test_its_configuration_is_read_before_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "my.conf"
    mine.write_text("# a comment\nall-proxy=p:1\nmax-tries = 3\nuser-agent=file\n", encoding="utf-8")
    found = options(f"--conf-path={mine}", "--user-agent=line")
    assert (found.proxy, found.retries, found.user_agent) == ("http://p:1", 2, "line")
    usual = Path(os.environ["HOME"], ".aria2", "aria2.conf")
    usual.parent.mkdir()
    usual.write_text("check-certificate=false\n", encoding="utf-8")
    assert options().insecure
    assert not options("--no-conf").insecure
    assert not options(f"--conf-path={mine}").insecure


def test_a_file_that_is_there_is_gone_on_with_and_never_doubled(
    nginx: Nginx, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = nginx.add("there.bin", content(MIB))
    for _ in range(2):
        assert aria2c.run(["-c", "-d", str(tmp_path), url]) == 0
    assert "is complete" in capsys.readouterr().err
    (tmp_path / "there.bin").write_bytes(b"of somebody else")
    assert aria2c.run(["-q", "-c", "-d", str(tmp_path), url]) == 13
    assert (tmp_path / "there.bin").read_bytes() == b"of somebody else"
    assert "--allow-overwrite=true" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["there.bin"]


def test_what_is_wrong_in_an_input_file_does_not_stop_the_rest(
    nginx: Nginx, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, better = nginx.add("good.bin", b"1"), nginx.add("better.bin", b"2")
    listed = f"\ufeff{good}\n nosuch=1\nmagnet:?x\nftp://x/y\t{better}\nnonsense\n"
    path = tmp_path / "list"
    path.write_text(listed, encoding="utf-8")
    assert aria2c.run(["-q", "-d", str(tmp_path), "-i", str(path)]) == 1
    assert sorted(os.listdir(tmp_path)) == ["better.bin", "good.bin", "list"]
    said = capsys.readouterr().err
    assert "--nosuch is not known" in said
    assert [name in said for name in ("magnet", "nonsense", "ftp")] == [True, True, False]


def test_of_several_files_none_gets_the_name_that_is_for_one() -> None:
    assert [found.output for _, found in jobs("-Z", "-o", "same", URL, URL + "2")] == [None, None]
    listed = f"{URL}\n{URL}2\n out=own\n"
    assert [found.output for _, found in jobs("-i", "-", "-o", "same", stdin=listed)] == [None, "own"]


def test_headers_of_a_listed_file_replace_those_for_all() -> None:
    listed = f"{URL}\n header=A: 1\n header=B: 2\n{URL}2\n"
    found = jobs("--header=Authorization: x", "-i", "-", stdin=listed)
    assert [options.headers for _, options in found] == [("A: 1", "B: 2"), ("Authorization: x",)]


def test_a_url_that_stands_for_several_is_refused() -> None:
    with pytest.raises(UsageError, match="several"):
        options("-P", url="http://127.0.0.1:1/file[1-3].bin")
    assert options("-P").rename


@pytest.mark.parametrize("hint", sorted(aria2c.ADVICE))
def test_its_advice_is_given_by_the_package_and_names_options_of_aria2(hint: str) -> None:
    package = Path(aria2c.__file__).parent.parent
    assert any(f'"{hint}"' in path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.name != "aria2c.py")
    for name in re.findall(r"--([a-z-]+)", aria2c.ADVICE[hint]):
        assert name in TABLE


def test_an_input_file_lists_files_with_options_of_their_own() -> None:
    listed = "# a comment\nhttp://127.0.0.1:1/a\thttp://mirror/a\n  out=first\n  header=A: b\n\nhttp://127.0.0.1:1/b\n"
    found = jobs("-i", "-", "-d", "here", stdin=listed)
    assert [url for url, _ in found] == ["http://127.0.0.1:1/a", "http://127.0.0.1:1/b"]
    assert found[0][1].output == os.path.join("here", "first")
    assert found[0][1].headers == ("A: b",)
    assert found[1][1].headers == ()


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
