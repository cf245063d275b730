"""The command line as text: flags become fields, mistakes become one helpful line, secrets stay secret."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastidm.cli.arguments import Command, TextRequested, known_flags, parse, plainly
from fastidm.cli.main import run
from fastidm.cli.usage import FOREIGN, make_parser, read
from fastidm.errors import EXIT_CODES, UsageError
from fastidm.options import Options, check_url, nearest

URL = "https://example.com/file.iso"
SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
SECRET = "hunter2"
HERE = str(Path(__file__))

FLAGS: list[tuple[list[str], str, Any]] = [
    (["-o", "a.iso"], "output", "a.iso"),
    (["--output", "a.iso"], "output", "a.iso"),
    (["-d", "/tmp"], "directory", "/tmp"),
    (["--dir=/tmp"], "directory", "/tmp"),
    (["-n", "32"], "connections", 32),
    (["-n32"], "connections", 32),
    (["--conn", "1"], "connections", 1),
    (["--conn=128"], "connections", 128),
    (["--checksum", f"sha256:{SHA}"], "checksum", ("sha256", SHA)),
    (["--checksum", f"sha-256={SHA.upper()}"], "checksum", ("sha256", SHA)),
    (["-H", "A: 1", "--header", "B: 2"], "headers", ("A: 1", "B: 2")),
    (["-A", "me"], "user_agent", "me"),
    (["--user-agent", "me"], "user_agent", "me"),
    (["-u", "ann:x:y"], "user", "ann:x:y"),
    (["--user", "ann:"], "user", "ann:"),
    (["--netrc"], "netrc", True),
    (["-b", HERE], "cookie_file", HERE),
    (["--cookie-file", HERE], "cookie_file", HERE),
    (["-x", "socks5h://h:1080"], "proxy", "socks5h://h:1080"),
    (["--proxy", "HTTP://a:b@h:3128"], "proxy", "HTTP://a:b@h:3128"),
    (["--proxy", ""], "proxy", ""),
    (["--cacert", HERE], "cacert", HERE),
    (["--cert", HERE], "cert", HERE),
    (["--key", HERE], "key", HERE),
    (["-k"], "insecure", True),
    (["--insecure"], "insecure", True),
    (["--limit-rate", "10M"], "limit_rate", 10 << 20),
    (["--retries", "0"], "retries", 0),
    (["--timeout", "2.5"], "timeout", 2.5),
    (["--connect-timeout", "3"], "connect_timeout", 3.0),
    (["--max-redirects", "0"], "max_redirects", 0),
    (["--allow-downgrade"], "allow_downgrade", True),
    (["--http", "3"], "http", "3"),
    (["--io", "mmap"], "io", "mmap"),
    (["--no-sync"], "sync", False),
    (["--restart"], "restart", True),
    (["--on-change", "restart"], "on_change", "restart"),
    (["--overwrite"], "overwrite", True),
    (["--rename"], "rename", True),
]

MISTAKES: list[tuple[list[str], str, str]] = [
    # arguments, what the line says, what it proposes
    (["--con", "4", URL], "unknown flag --con", "--conn?"),
    (["--connections=4", URL], "unknown flag --connections", "--conn?"),
    (["--chekcsum", "x", URL], "unknown flag --chekcsum", "--checksum?"),
    (["--insecur", URL], "unknown flag --insecur", "--insecure?"),
    (["--QUIET", URL], "unknown flag --QUIET", "--quiet?"),
    (["-output", "f", URL], "unknown flag -output", "--output?"),
    (["-Q", URL], "unknown flag -Q", "-q?"),
    (["--zzzzzz", URL], "unknown flag --zzzzzz", "--help"),
    (["--split", "16", URL], "unknown flag --split", "--conn?"),
    (["-c", URL], "unknown flag -c", "always continued"),
    (["--http", "2.0", URL], "--http must be 1.1, 2 or 3, not '2.0'", ""),
    (["--io", "map", URL], "--io must be auto, mmap or pwrite", "mmap?"),
    (["--on-change", "restrat", URL], "--on-change must be fail or restart", "restart?"),
    (["-x", "sock5h://h", URL], "--proxy must be http, https, socks4a or socks5h", "socks5h?"),
    (["-x16", URL], "--proxy must be a URL", ""),
    (["-x", "http://h:99999", URL], "--proxy has no valid port: http://h:99999", ""),
    (["--token:abc", URL], "unknown flag --token;", ""),
    (["-n", "0", URL], "--conn must be 1 to 128, not 0", ""),
    (["-n", "129", URL], "--conn must be 1 to 128, not 129", ""),
    (["--max-downloads", "0", URL], "--max-downloads must be at least 1", ""),
    (["--max-downloads", "few", URL], "--max-downloads must be a whole number, not 'few'", ""),
    (["-n", "many", URL], "--conn must be a whole number, not 'many'", ""),
    (["--conn", "1.5", URL], "--conn must be a whole number", ""),
    (["--timeout", "soon", URL], "--timeout must be a number of seconds", ""),
    (["--timeout", "nan", URL], "--timeout must be at least", ""),
    (["--connect-timeout", "0", URL], "--connect-timeout must be at least", ""),
    (["--max-redirects", "-1", URL], "--max-redirects must be at least 0", ""),
    (["--retries", "-1", URL], "--retries must be at least 0", ""),
    (["--limit-rate", "0", URL], "--limit-rate must be at least 1", ""),
    (["--limit-rate", "fast", URL], "--limit-rate: not a size: 'fast'", "10M"),
    (["--checksum", "sha256:12", URL], "--checksum: a sha256 checksum has 64", ""),
    (["--checksum", "sha265:12", URL], "unknown checksum algorithm 'sha265'", "sha256"),
    (["--checksum", f"sha256:{SHA}", URL, URL], "--checksum fits one URL, not 2", ""),
    (["--overwrite", "--rename", URL], "--overwrite and --rename exclude each other", ""),
    (["-o", "f", URL, URL], "--output fits one URL, not 2", ""),
    (["-o", "-", "--json", URL], "--json and -o - exclude each other", ""),
    (["-o", "folder/", URL], "--output must name a file", "--dir"),
    (["--cookie-file", "/nowhere/c.txt", URL], "--cookie-file cannot be read: /nowhere/c.txt", ""),
    (["-H", "no colon", URL], "a header must look like 'Name: value'", ""),
    (["-H", "@/nowhere/h", URL], "--header: cannot read /nowhere/h: No such file", ""),
    (["-u", "ann", URL], "--user has no password", "FASTIDM_PASSWORD"),
    (["--quiet=yes", URL], "--quiet takes no value", ""),
    ([URL, "--conn"], "--conn needs a value", ""),
    ([], "no URL given", "--help"),
    (["example.com/f"], "not a URL: 'example.com/f'", "https://example.com/f?"),
    (["https:/example.com/f"], "not a URL", "https://example.com/f?"),
    (["file"], "not a URL: 'file'", ""),
    (["ftp://example.com/f"], "not supported: ftp://", "http and https"),
    (["htps://example.com/f"], "not supported: htps://", "https?"),
    (["https:///f"], "no host in https:///f", ""),
    (["https://"], "no host", ""),
    (["https://ann:pw@:80/f"], "no host", ""),
    (["https://h:http/f"], "no valid port", ""),
    (["https://h:65536/f"], "no valid port", ""),
    (["https://[::1]80/f"], "no valid port", ""),
    (["https://[::1/x"], "no valid host", ""),
    (["https://[é]/x"], "no valid host", ""),
    (["https://" + "ä" * 70], "no valid host", ""),
    (["https://h/a b"], "a URL holds no spaces", "%20"),
    (["https://h/a\tb"], "a URL holds no spaces", "%20"),
    (["https://h/a\x1b[2Jb"], "no control characters", ""),
    (["https://h/\udcff"], "no control characters", ""),
    (["https://h/a\u202eb"], "no control characters", ""),
]


def parsed(*arguments: str, **environment: str) -> Command:
    return parse(arguments, environment)


@pytest.mark.parametrize(("flag", "field", "value"), FLAGS, ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else "")
def test_a_flag_sets_its_field_and_no_other(flag: list[str], field: str, value: object) -> None:
    options = parsed(*flag, URL).options
    changed = {f.name: getattr(options, f.name) for f in fields(Options) if getattr(options, f.name) != f.default}
    assert changed == {field: value}


def test_every_field_of_options_has_a_flag() -> None:
    assert {field for _, field, _ in FLAGS} == {f.name for f in fields(Options)}


def test_without_flags_everything_is_as_options_has_it() -> None:
    command = parsed(URL)
    assert (command.urls, command.options, command.quiet, command.json) == ((URL,), Options(), False, False)


def test_quiet_and_json_belong_to_the_command() -> None:
    command = parsed("-q", "--json", URL)
    assert (command.quiet, command.json, command.options) == (True, True, Options())


def test_urls_and_flags_come_in_any_order() -> None:
    command = parsed("http://h/1", "-n", "4", "http://h/2", "-q", "--", "http://h/3")
    assert command.urls == ("http://h/1", "http://h/2", "http://h/3")
    assert command.options.connections == 4


def test_output_is_in_the_directory_if_both_are_given() -> None:
    assert parsed("-d", "/there", "-o", "f", URL).options.output == "/there/f"
    assert parsed("-d", "/there", "-o", "/here/f", URL).options.output == "/here/f"


def test_the_password_may_come_from_the_environment() -> None:
    assert parsed("--user", "ann", URL, FASTIDM_PASSWORD=SECRET).options.user == f"ann:{SECRET}"
    assert parsed("--user", "ann:x", URL, FASTIDM_PASSWORD=SECRET).options.user == "ann:x"
    assert parsed(URL, FASTIDM_PASSWORD=SECRET).options.user is None


def test_headers_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("Authorization: Bearer x\n\nX-Two: 2\r\n")
    assert parsed("-H", "X-One: 1", "-H", f"@{file}", URL).options.headers == (
        "X-One: 1",
        "Authorization: Bearer x",
        "X-Two: 2",
    )


@pytest.mark.parametrize(
    "url",
    ["http://h", "HTTPS://h/", "http://h:8080/f?a=b#c", "http://ann:pw@h/f", "http://[::1]:80/f", "http://h:/f",
     "https://münchen.example/ü", "http://h/a@b:c"],
)  # fmt: skip
def test_a_good_url_is_accepted(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("arguments", "says", "proposes"), MISTAKES, ids=lambda v: ascii(" ".join(v)) if isinstance(v, list) else ""
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, proposes: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTIDM_PASSWORD", raising=False)
    assert run(arguments, _no_manager) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastidm: error: ")
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    assert says in err
    assert proposes in err


SECRETS: list[list[str]] = [
    [f"https://ann:{SECRET}@/f"],
    [f"https://ann:{SECRET}@h:port/f"],
    [f"https://h:port/f?token={SECRET}"],
    [f"https://h:port/f#{SECRET}"],
    [f"ann:{SECRET}@h/f"],
    [f"ftp://ann:{SECRET}@h/f"],
    [f"https://ann:{SECRET}@h/a b"],
    [f"--usr=ann:{SECRET}", URL],
    [f"-p{SECRET}", URL],
    [f"--password={SECRET}", URL],
    ["--header", SECRET, URL],
    ["--header", f"A: b\n{SECRET}", URL],
    ["--proxy", f"ann:{SECRET}@h", URL],
    ["--proxy", f"sock://ann:{SECRET}@h", URL],
    ["--proxy", f"http://ann:{SECRET}@h h", URL],
    ["--user", SECRET, URL],
]


@pytest.mark.parametrize("arguments", SECRETS, ids=" ".join)
def test_no_error_shows_a_secret(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTIDM_PASSWORD", raising=False)
    assert run(arguments, _no_manager) == 2
    out, err = capsys.readouterr()
    assert SECRET not in out + err


def test_help_names_every_flag_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for flag in {flag[0].partition("=")[0] for flag, _, _ in FLAGS} - {"-n32"} | {"--quiet", "--json", "--version", "-h"}:
        assert flag in out
    for code, (name, meaning) in EXIT_CODES.items():
        assert f"{code:>2}  {name:<16} {meaning}" in out
    assert out.count("\n  fastidm ") >= 5
    assert "FASTIDM_PASSWORD" in out


def test_help_can_be_printed_in_any_encoding() -> None:
    with pytest.raises(TextRequested) as request:
        parse(["--help"])
    assert request.value.text.isascii()


def test_version_is_answered_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-q", "--version", "nonsense"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("fastidm 0.")
    assert "libcurl " in out
    assert "pycurl " in out
    assert "sink " in out


def test_hints_for_flags_of_other_tools_name_flags_that_exist() -> None:
    with pytest.raises(TextRequested) as request:
        parse(["--help"])
    for foreign, hint in FOREIGN.items():
        assert f" {foreign}," not in request.value.text
        for word in hint.replace(",", " ").replace("?", " ").split():
            assert not word.startswith("-") or f"{word}" in request.value.text


def test_the_nearest_spelling_is_none_when_nothing_is_near() -> None:
    assert nearest("zzz", ["--conn"]) is None
    assert nearest("--", ["--conn"]) is None
    assert nearest("--conect-timeout", ["--conn", "--connect-timeout"]) == "--connect-timeout"


words = st.one_of(
    st.sampled_from([f for flag, _, _ in FLAGS for f in flag] + [URL, "--json", "-q", "--", "-"]),
    st.text(max_size=12),
    st.text(max_size=12).map("--".__add__),
)


@given(st.lists(words, max_size=6))
def test_whatever_is_typed_is_understood_or_explained(arguments: list[str]) -> None:
    with contextlib.suppress(UsageError, TextRequested):
        assert parse(arguments, {}).urls


def _no_manager(observer: object) -> Any:
    raise AssertionError("no manager is made for wrong arguments")


# --- Plain words, without argparse ---


def outcome(reader: Any, arguments: list[str]) -> object:
    """What it makes of them, or what it says."""
    try:
        return reader(arguments)
    except (UsageError, TextRequested) as error:
        return type(error), str(error)


def test_the_plain_reader_knows_the_flags_of_argparse() -> None:
    parser = make_parser()
    known = {flag: action.dest for action in parser._actions for flag in action.option_strings}
    assert {flag: field for flag, (field, _, _) in known_flags().items()} == known


VALUES = st.sampled_from(
    ["", "-", "--", "-1", "-x", "a=b", "=", "8", "0", "1e3", "-q", "1.1", "auto", "pwrite", "fail", "http://p:1", "X: y", "10M",
     HERE, f"@{HERE}", f"sha256:{SHA}", "user:word", "a b", "-a b", URL, "@/nowhere", "--conn", "/tmp"]
)  # fmt: skip
SPELLINGS = st.sampled_from(sorted(known_flags()))
WORDS = st.one_of(
    SPELLINGS.map(lambda flag: [flag]),
    st.tuples(SPELLINGS, VALUES).map(list),
    st.tuples(SPELLINGS, VALUES).map(lambda pair: ["=".join(pair)]),
    st.tuples(SPELLINGS, VALUES).map(lambda pair: ["".join(pair)]),
    VALUES.map(lambda value: [value]),
    st.sampled_from(["--con", "--outpu=x", "-qk", "-qn8", "-output", "--x", "-"]).map(lambda word: [word]),
)


@given(st.lists(WORDS, max_size=6).map(lambda groups: [word for group in groups for word in group]))
def test_plain_words_mean_what_argparse_would_make_of_them(arguments: list[str]) -> None:
    plain = outcome(plainly, arguments)
    if plain is not None:
        assert plain == outcome(read, arguments)


@pytest.mark.parametrize(("flags", "field", "value"), FLAGS)
def test_usual_flags_are_plain(flags: list[str], field: str, value: Any) -> None:
    # Those that stick to their values are not.
    assert (plainly([*flags, URL]) is None) is (flags[0] not in known_flags() and not flags[0].startswith("--"))


def test_a_file_of_header_lines_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=lambda: pipe.write_text("A: b\n"), daemon=True)
    writer.start()
    command = parse(["--header", f"@{pipe}", "-n8", URL])  # -n8 is for argparse
    writer.join()
    assert (command.options.headers, command.options.connections) == (("A: b",), 8)


@pytest.mark.parametrize(("arguments", "loaded"), [(["-q", "--conn", "4", URL], False), (["-qn4", URL], True)])
def test_argparse_is_loaded_for_what_is_unusual(arguments: list[str], loaded: bool) -> None:
    script = "import sys; from fastidm.cli.arguments import parse; parse(sys.argv[1:]); print('argparse' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", script, *arguments], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})  # fmt: skip
    assert done.stdout == f"{loaded}\n"
