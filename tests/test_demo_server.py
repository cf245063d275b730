"""The demo server keeps its word about bytes, ranges and rate; the demonstration notices whatever goes wrong."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import pytest

from fastidm.demo import content as made
from fastidm.demo.process import ServerProcess
from fastidm.demo.protocol import Request, name_of, parse_head, respond, size_of
from fastidm.demo.server import MAX_HEAD, SLACK, Pace
from fastidm.demo.show import show
from tests.support.content import content, first_difference, sha256
from tests.support.servers import wait_until

SIZE = 3_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(size=SIZE) as running:
        yield running


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    yield made
    made.close()


def get(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


class TestContent:
    def test_is_the_same_wherever_it_is_cut(self) -> None:
        whole = content(5 * made.STRETCH // 2)
        for start, stop in ((0, 1), (7, 100_000), (made.STRETCH - 1, made.STRETCH + 1), (900_000, 2_400_000), (9, 9)):
            assert first_difference(made.content(start, stop), whole[start:stop]) is None
        assert b"".join(made.slices(len(whole), step=777_777)) == whole
        assert made.sha256(len(whole)) == sha256(whole)

    @pytest.mark.parametrize("distance", [1, 16, 512, 4096, 16384, 1 << 20, made.STRETCH, 16 << 20, 128 << 20])
    def test_differs_when_it_is_misplaced(self, distance: int) -> None:
        here = made.content(12_345, 12_345 + 4096)
        there = made.content(12_345 + distance, 12_345 + distance + 4096)
        assert sum(a == b for a, b in zip(here, there, strict=True)) < 100

    def test_differs_with_the_seed(self) -> None:
        assert content(1000, seed=1) != content(1000, seed=2)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "size"),
        [("256M.bin", 256 << 20), ("10k", 10240), ("1.5G.iso", 3 << 29), ("1.5G", 3 << 29), ("7.bin", 7), ("0", 0)],
    )
    def test_a_size_is_a_name(self, name: str, size: int) -> None:
        assert size_of(name) == size

    @pytest.mark.parametrize("name", ["", "favicon.ico", ".bin", "-1.bin", "M", "nan", "inf.bin"])
    def test_other_names_are_no_files(self, name: str) -> None:
        assert size_of(name) is None

    @pytest.mark.parametrize("size", [0, 1, 1024, 1025, 256 << 20, 3 << 30, 1 << 40])
    def test_the_name_of_a_size_is_read_back(self, size: int) -> None:
        assert size_of(name_of(size)) == size


class TestRespond:
    @pytest.mark.parametrize(
        ("wanted", "status", "start", "stop"),
        [
            ("bytes=0-", 206, 0, 1000),
            ("bytes=0-0", 206, 0, 1),
            ("bytes=10-19", 206, 10, 20),
            ("bytes=990-5000", 206, 990, 1000),
            ("bytes=-7", 206, 993, 1000),
            ("bytes=-5000", 206, 0, 1000),
            ("bytes=1000-", 416, 0, 0),
            ("bytes=-0", 416, 0, 0),
            ("", 200, 0, 1000),
            ("bytes=-", 200, 0, 1000),
            ("bytes=20-10", 200, 0, 1000),
            ("bytes=0-1,5-6", 200, 0, 1000),
            ("lines=0-1", 200, 0, 1000),
            ("bytes=" + 5000 * "9" + "-", 200, 0, 1000),
        ],
    )
    def test_a_range_is_answered_as_the_standard_says(self, wanted: str, status: int, start: int, stop: int) -> None:
        response = respond(Request("GET", "/x", {"range": wanted}, True), 1000, 0)
        assert (response.status, response.start, response.stop) == (status, start, stop)

    def test_an_empty_file_has_no_range(self) -> None:
        assert respond(Request("GET", "/x", {"range": "bytes=0-"}, True), 0, 0).status == 416
        assert respond(Request("GET", "/x", {}, True), 0, 0).status == 200

    @pytest.mark.parametrize(("value", "status"), [('"0-3e8"', 206), ('"1-3e8"', 200), ('W/"0-3e8"', 200)])
    def test_if_range_compares_strongly(self, value: str, status: int) -> None:
        headers = {"range": "bytes=5-6", "if-range": value}
        assert respond(Request("GET", "/x", headers, True), 1000, 0).status == status

    def test_another_seed_or_size_is_another_etag(self) -> None:
        request = Request("GET", "/x", {}, True)
        assert len({respond(request, size, seed).headers for size in (5, 6) for seed in (0, 1)}) == 4

    @pytest.mark.parametrize("head", [b"", b"GET /x", b"GET x HTTP/1.1", b"GET /x HTTP/2", b"GET /x HTTP/1.1\r\nnonsense"])
    def test_what_is_no_request_is_none(self, head: bytes) -> None:
        assert parse_head(head) is None


class TestPace:
    def test_nothing_is_given_in_advance(self) -> None:
        assert Pace(1000, now=50.0).delay(1000, now=50.0) == pytest.approx(1.0)

    def test_the_mean_is_the_rate_although_the_loop_wakes_late(self) -> None:
        pace, now = Pace(1000, now=0.0), 0.0
        for _ in range(100):
            now += pace.delay(100, now) + SLACK / 2
        assert now == pytest.approx(10.0, abs=2 * SLACK)

    def test_time_that_was_not_used_is_lost(self) -> None:
        pace = Pace(1000, now=0.0)
        assert pace.delay(1000, now=60.0) == pytest.approx(1.0 - SLACK)


class TestServer:
    def test_several_requests_share_one_connection(self, server: ServerProcess, connection: http.client.HTTPConnection) -> None:
        status, headers, body = get(connection, f"/{SIZE}.bin")
        assert (status, headers["Accept-Ranges"]) == (200, "bytes")
        assert first_difference(body, content(SIZE)) is None
        first = connection.sock

        status, headers, body = get(connection, f"/folder/{SIZE}.bin?q", Range="bytes=1048580-1048590")
        assert (status, headers["Content-Range"]) == (206, f"bytes 1048580-1048590/{SIZE}")
        assert body == content(SIZE)[1048580:1048591]

        status, headers, body = get(connection, f"/{SIZE}.bin", "HEAD")
        assert (status, headers["Content-Length"], body) == (200, str(SIZE), b"")
        assert get(connection, "/9.bin", Range="bytes=9-")[0] == 416
        assert get(connection, "/none.such")[0] == 404
        assert connection.sock is first

    def test_the_digest_is_that_of_the_file(self, server: ServerProcess, connection: http.client.HTTPConnection) -> None:
        digest = hashlib.sha256(content(SIZE)).hexdigest()
        assert get(connection, f"/{SIZE}.sha256")[2].decode() == f"{digest}  {SIZE}.bin\n"
        assert server.digest() == digest
        assert server.digest(0) == sha256(b"")

    def test_what_was_sent_is_counted(self, server: ServerProcess, connection: http.client.HTTPConnection) -> None:
        before = server.stats()
        get(connection, "/1000.bin", Range="bytes=0-99")
        after = server.stats()
        assert (after["sent"] - before["sent"], after["requests"] - before["requests"]) == (100, 1)
        assert after["active"] == 0

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nX: " + MAX_HEAD * b"x", 431),
            (b"PUT /9 HTTP/1.1\r\n\r\n", 405),
        ],
    )
    def test_a_bad_request_is_answered_as_such(self, server: ServerProcess, sent: bytes, status: int) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(sent)
            assert raw.recv(100).startswith(f"HTTP/1.1 {status} ".encode())

    def test_a_client_that_leaves_disturbs_nobody(self, server: ServerProcess) -> None:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(b"GET /1G.bin HTTP/1.1\r\n\r\n")
            raw.recv(100)
        assert server.digest(10) == sha256(content(10))

    def test_the_rate_holds_from_the_first_byte_on(self) -> None:
        with ServerProcess(rate=1_000_000) as slow:
            for length in (100_000, 300_000):
                connection = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=10)
                begin = time.monotonic()
                assert len(get(connection, f"/{length}.bin")[2]) == length
                assert length / 1e6 - SLACK < time.monotonic() - begin < length / 1e6 + 1
                connection.close()

    def test_more_files_at_once_than_allowed_are_refused(self) -> None:
        with ServerProcess(rate=100_000, limit=1) as limited:
            first, second = (http.client.HTTPConnection("127.0.0.1", limited.port, timeout=10) for _ in range(2))
            first.request("GET", "/10M.bin")
            held = first.getresponse()
            held.read(1)
            status, headers, _ = get(second, "/9.bin")
            assert (status, headers["Retry-After"]) == (503, "1")
            held.close()
            first.close()
            second.close()

    def test_another_seed_is_another_file(self) -> None:
        with ServerProcess(size=1000, seed=5) as other:
            assert other.digest() == sha256(content(1000, seed=5))

    def test_it_ends_well_when_told_to(self) -> None:
        other = ServerProcess(size=1000)
        other.process.send_signal(signal.SIGTERM)
        assert other.process.wait(10) == 0
        other.stop()

    def test_it_dies_with_its_parent(self) -> None:
        script = "from fastidm.demo import process as p; s = p.ServerProcess(); print(s.process.pid, flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", script], stdin=PIPE, stdout=PIPE) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            os.kill(child, 0)
            parent.kill()

        def is_gone() -> bool:
            with suppress(ChildProcessError):  # it is ours now, if the platform hands orphans on
                os.waitpid(child, os.WNOHANG)
            with suppress(ProcessLookupError):
                os.kill(child, 0)
                return False
            return True

        wait_until(is_gone, "the end of the server")

    def test_a_port_that_is_taken_is_one_clear_line(self, server: ServerProcess) -> None:
        command = [sys.executable, "-m", "fastidm.demo", "--port", str(server.port)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith(f"cannot listen on port {server.port}: ")
        assert done.stderr.count("\n") == 1

    def test_a_size_that_is_none_is_a_usage_error(self) -> None:
        done = subprocess.run([sys.executable, "-m", "fastidm.demo", "--size", "many"], capture_output=True, text=True)
        assert done.returncode == 2
        assert "not a size: 'many'" in done.stderr


STAND_IN = """
import os, sys, time, urllib.request

MODE = {mode!r}
url, path, part, journal = sys.argv[1], sys.argv[5], sys.argv[5] + ".part", sys.argv[5] + ".fastidm"
assert sys.argv[2:5] == ["--conn", "16", "-o"] and sys.argv[6] == "--checksum" and len(sys.argv) == 8
again = os.path.exists(part)
if MODE == "fails":
    sys.exit(6)
if MODE == "sprints":
    sys.exit(0)
if MODE == "hangs" and again:
    time.sleep(60)
with open(part, "ab") as file, open(journal, "w"):
    request = urllib.request.Request(url, headers={{"Range": f"bytes={{file.tell()}}-"}})
    with urllib.request.urlopen(request) as response:
        while data := response.read1(65536):
            file.write(data)
            file.flush()
if MODE == "corrupts":
    with open(part, "r+b") as file:
        file.write(b"?")
if MODE != "litters":
    os.remove(journal)
os.rename(part, path)
"""


class TestShow:
    """With a stand-in for the command, which can do what the real one never should."""

    def run(self, folder: Path, mode: str, seconds: float = 30.0) -> int:
        (folder / "command.py").write_text(STAND_IN.format(mode=mode))
        return show(size=1_500_000, rate=3_000_000, command=[sys.executable, str(folder / "command.py")], seconds=seconds)

    @pytest.fixture(autouse=True)
    def _own_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        (tmp_path / "tmp").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        yield
        assert list((tmp_path / "tmp").iterdir()) == []

    def test_ends_with_the_verified_digest(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert self.run(tmp_path, "works") == 0
        lines = capfd.readouterr().out.splitlines()
        assert lines[1].startswith("$ fastidm http://127.0.0.1:")
        assert "Left: 1500000.bin.fastidm, 1500000.bin.part." in lines[2]
        assert lines[-1].startswith(f"SHA-256 verified: {made.sha256(1_500_000)} ")

    @pytest.mark.parametrize(
        ("mode", "complaint"),
        [
            ("fails", "ended by itself, with status 6"),
            ("sprints", "ended by itself, with status 0"),
            ("corrupts", "the SHA-256 is"),
            ("litters", "left behind: 1500000.bin, 1500000.bin.fastidm"),
        ],
    )
    def test_what_goes_wrong_is_told(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: str, complaint: str
    ) -> None:
        assert self.run(tmp_path, mode) == 1
        assert complaint in capfd.readouterr().err

    def test_a_command_that_hangs_does_not_hang_it(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert self.run(tmp_path, "hangs", seconds=1.5) == 1
        assert "it took too long" in capfd.readouterr().err

    def test_the_real_command_passes(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert show(size=12 << 20, rate=500_000) == 0
        assert "SHA-256 verified" in capfd.readouterr().out
