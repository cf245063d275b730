"""The servers that other tests rely on do what their names say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pycurl
import pytest

from tests.support import servers
from tests.support.content import content, first_difference
from tests.support.servers import CA, Caddy, Nginx, wait_until

DATA = content(300_000)


class Answer:
    """A GET of `url` with libcurl; `options` by their libcurl names. Raises `pycurl.error`."""

    def __init__(self, url: str, **options: object) -> None:
        body = BytesIO()
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.WRITEFUNCTION, body.write)
        curl.setopt(pycurl.PROXY, "")
        for name, value in options.items():
            curl.setopt(getattr(pycurl, name), value)
        try:
            curl.perform()
            self.status = curl.getinfo(pycurl.RESPONSE_CODE)
            self.version = curl.getinfo(pycurl.INFO_HTTP_VERSION)
        finally:
            curl.close()
        self.body = body.getvalue()


def test_nginx_sends_ranges_and_its_log_tells(nginx: Nginx) -> None:
    url = nginx.add("a.bin", DATA)
    whole, part = Answer(url), Answer(url, RANGE="1000-1999")
    assert (whole.status, first_difference(whole.body, DATA)) == (200, None)
    assert (part.status, first_difference(part.body, DATA[1000:2000])) == (206, None)

    first, second = nginx.wait_for_requests(2, url)
    assert (first.method, first.range, first.status, first.protocol) == ("GET", "-", 200, "HTTP/1.1")
    assert (second.range, second.status) == ("bytes=1000-1999", 206)
    assert 1000 < second.sent < 2000
    assert first.connection != second.connection


def test_nginx_without_ranges_sends_everything(server_folders: tuple[Path, Path]) -> None:
    with Nginx(*server_folders, ranges=False) as server:
        answer = Answer(server.add("a.bin", DATA), RANGE="5-6")
    assert (answer.status, len(answer.body)) == (200, len(DATA))


@pytest.mark.parametrize("status", [503, 429])
def test_nginx_limits_what_it_sends_at_once(server_folders: tuple[Path, Path], status: int) -> None:
    with Nginx(*server_folders, limit_conn=1, limit_status=status, limit_rate=100_000) as server:
        url = server.add("a.bin", content(3_000_000))
        script = f"import urllib.request as u; r = u.urlopen({url!r}); print(r.status, flush=True); input()"
        slow = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert slow.stdout is not None
        assert slow.stdout.readline() == b"200\n"
        assert Answer(url).status == status
        slow.communicate(b"\n")
        wait_until(lambda: Answer(url, RANGE="0-0").status == 206, "the place that became free")


def test_nginx_speaks_tls_that_only_its_authority_vouches_for(tls_nginx: Nginx, ca: CA) -> None:
    url = tls_nginx.add("a.bin", DATA)
    for wish, got in ((pycurl.CURL_HTTP_VERSION_1_1, 2), (pycurl.CURL_HTTP_VERSION_2TLS, 3)):
        answer = Answer(url, CAINFO=ca.file, HTTP_VERSION=wish)
        assert (answer.version, answer.body == DATA) == (got, True)
    with pytest.raises(pycurl.error) as caught:
        Answer(url)
    assert caught.value.args[0] == pycurl.E_PEER_FAILED_VERIFICATION


def test_a_certificate_for_another_name_is_refused(server_folders: tuple[Path, Path], ca: CA) -> None:
    with Nginx(*server_folders, ca.issue("elsewhere.example")) as server:
        url = server.add("a.bin", DATA)
        assert Answer(url, CAINFO=ca.file, SSL_VERIFYHOST=0).status == 200
        with pytest.raises(pycurl.error) as caught:
            Answer(url, CAINFO=ca.file)
    assert caught.value.args[0] == pycurl.E_PEER_FAILED_VERIFICATION


def test_caddy_speaks_three_versions_of_http(caddy: Caddy, ca: CA) -> None:
    url = caddy.add("a.bin", DATA)
    wishes = [(pycurl.CURL_HTTP_VERSION_1_1, 2), (pycurl.CURL_HTTP_VERSION_2TLS, 3)]
    if "HTTP3" in pycurl.version or "nghttp3" in pycurl.version:
        wishes.append((30, 30))
    for wish, got in wishes:
        answer = Answer(url, CAINFO=ca.file, HTTP_VERSION=wish, RANGE="100-99999")
        assert (answer.status, answer.version) == (206, got)
        assert first_difference(answer.body, DATA[100:100_000]) is None
    entry = caddy.wait_for_requests(len(wishes), url)[0]
    assert (entry.range, entry.status, entry.sent, entry.protocol) == ("bytes=100-99999", 206, 99_900, "HTTP/1.1")


def test_caddy_without_a_certificate_is_plain(server_folders: tuple[Path, Path]) -> None:
    with Caddy(*server_folders) as server:
        assert Answer(server.add("a.bin", DATA)).body == DATA


def test_a_server_comes_back_on_the_same_port(server_folders: tuple[Path, Path]) -> None:
    with Nginx(*server_folders) as server:
        url = server.add("a.bin", DATA)
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        with pytest.raises(pycurl.error):
            Answer(url)
        server.start()
        assert Answer(url).body == DATA


def test_a_port_that_was_taken_meanwhile_is_passed_over(
    nginx: Nginx, server_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [nginx.port, *(servers._free_port() for _ in range(4))]
    left = iter(ports)
    monkeypatch.setattr(servers, "_free_port", lambda: next(left))
    with Caddy(*server_folders) as server:
        assert server.port == ports[1]


def test_a_server_that_cannot_start_says_why(server_folders: tuple[Path, Path]) -> None:
    with pytest.raises(RuntimeError, match="no_such_word"):
        Nginx(*server_folders, extra="no_such_word on;")


STRAY = """
import subprocess, sys

SLEEPER = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"

def test_it():
    subprocess.run([sys.executable, "-c", SLEEPER], check=True)
"""


def test_a_test_whose_grandchild_goes_on_running_fails(tmp_path: Path) -> None:
    (tmp_path / "test_stray.py").write_text(STRAY)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 1
    assert "the test left processes behind" in done.stdout
    assert "time.sleep(60)" in done.stdout


@pytest.mark.parametrize(
    ("found", "wanted", "offset"),
    [(b"abc", b"abc", None), (b"abc", b"abd", 2), (b"xbc", b"abc", 0), (b"ab", b"abc", 2), (b"a" * 9, b"a" * 5, 5)],
)
def test_the_first_difference_is_found(found: bytes, wanted: bytes, offset: int | None) -> None:
    assert first_difference(found, wanted) == offset
