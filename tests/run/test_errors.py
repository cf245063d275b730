"""Whatever goes wrong has its exit code and one clear line, and leaves no file under the final name."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.command import Command, Outcome, call, run
from tests.support.content import content
from tests.support.oddserver import Exchange, File, Gate, Habit, OddServer
from tests.support.servers import CA, Nginx

MIB = 1 << 20
SIZE = 3 * MIB
DATA = content(SIZE, seed=11)
Serve = Callable[[Habit], OddServer]

IS_ROOT = os.geteuid() == 0


def fails(folder: Path, *arguments: object) -> Outcome:
    """Run the command in this process; it has to fail with one line, and with nothing under the final name."""
    return checked(folder, lambda: call("--quiet", *arguments, cwd=folder))


def process_fails(folder: Path, *arguments: object, wrapper: tuple[str, ...] = ()) -> Outcome:
    """The same with a process of its own."""
    return checked(folder, lambda: run("--quiet", *arguments, cwd=folder, wrapper=wrapper))


def checked(folder: Path, command: Callable[[], Outcome]) -> Outcome:
    before = set(os.listdir(folder))
    outcome = command()
    assert outcome.complaint
    assert outcome.stdout == ""
    assert {name for name in os.listdir(folder) if not name.endswith((".part", ".fastidm"))} <= before
    return outcome


# --- 2 usage ---


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--conn", "0", "http://127.0.0.1/a"),
        ("--chekcsum", "x", "http://127.0.0.1/a"),
        ("--checksum", "sha256:123", "http://127.0.0.1/a"),
        ("--cacert", "no-such-file", "http://127.0.0.1/a"),
        ("ftp://127.0.0.1/a",),
        ("-o", "a", "http://127.0.0.1/a", "http://127.0.0.1/b"),
    ],
    ids=" ".join,
)
def test_2_what_cannot_be_asked_for(arguments: tuple[str, ...], folder: Path) -> None:
    assert process_fails(folder, *arguments).code == 2
    assert os.listdir(folder) == []


# --- 3, 4, 5, 18: the server says no ---


def answers(*statuses: int) -> Habit:
    """These answers in turn, the last one for ever."""

    def habit(exchange: Exchange) -> None:
        at = min(len(exchange.server.exchanges), len(statuses)) - 1
        exchange.answer(statuses[at], "Retry-After: 0", body=b"<h1>No</h1>")

    return habit


@pytest.mark.parametrize(("status", "code"), [(404, 3), (410, 3), (403, 4), (451, 4), (505, 4), (401, 18), (407, 18), (600, 4)])
def test_an_answer_that_no_retry_can_mend(status: int, code: int, odd: Serve, folder: Path) -> None:
    server = odd(answers(status))
    outcome = fails(folder, server.url + "/a.bin")
    assert outcome.code == code
    assert str(status) in outcome.complaint
    assert len(server.exchanges) <= 2, "at most once more, without a range"
    assert os.listdir(folder) == []


@pytest.mark.parametrize("path", ["nothing-here", "gone", "forbidden", "private/nothing"])
def test_what_a_real_server_refuses(path: str, special: Nginx, folder: Path) -> None:
    assert process_fails(folder, f"{special.url}/{path}").code == {"f": 4, "p": 18}.get(path[0], 3)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("retries", [0, 1])
def test_5_a_server_that_stays_busy(retries: int, status: int, odd: Serve, folder: Path) -> None:
    server = odd(answers(status))
    outcome = fails(folder, "--retries", retries, server.url + "/a.bin")
    assert outcome.code == 5
    assert len(server.exchanges) == retries + 1
    assert os.listdir(folder) == []


def test_5_a_real_server_that_stays_busy(special: Nginx, folder: Path) -> None:
    assert process_fails(folder, "--retries", "0", special.url + "/unavailable").code == 5
    assert os.listdir(folder) == []


def test_18_a_link_that_expires_in_the_middle(odd: Serve, folder: Path) -> None:
    """Signed links do so: what came is kept, and the line says what to do."""
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        if len(exchange.server.exchanges) > 1:
            exchange.answer(403)
        else:
            body = file.head(exchange)
            exchange.send(body[: MIB + 1000])
            exchange.close()

    outcome = fails(folder, odd(habit).url + "/a.bin")
    assert outcome.code == 18
    assert "-o" in outcome.complaint
    assert sorted(os.listdir(folder)) == ["a.bin.fastidm", "a.bin.part"]


# --- 6 network ---


def test_6_nobody_listens(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        outcome = fails(folder, "--retries", "1", f"http://127.0.0.1:{taken.getsockname()[1]}/a.bin")
    assert outcome.code == 6
    assert os.listdir(folder) == []


def test_6_a_name_that_does_not_exist(folder: Path) -> None:
    outcome = process_fails(folder, "http://no-such-host.invalid/a.bin")
    assert outcome.code == 6
    assert "resolve" in outcome.complaint
    assert outcome.seconds < 10, "it is no outage that would be waited for"
    assert os.listdir(folder) == []


def resets_at_once(exchange: Exchange) -> None:
    exchange.reset()


def hangs_up_at_once(exchange: Exchange) -> None:
    exchange.close()


def breaks_off_the_head(exchange: Exchange) -> None:
    exchange.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
    exchange.close()


@pytest.mark.parametrize("habit", [resets_at_once, hangs_up_at_once, breaks_off_the_head])
def test_6_every_connection_breaks_at_once(habit: Habit, odd: Serve, folder: Path) -> None:
    server = odd(habit)
    assert fails(folder, "--retries", "1", server.url + "/a.bin").code == 6
    assert len(server.exchanges) == 2
    assert os.listdir(folder) == []


@pytest.mark.timeout(15)
@pytest.mark.parametrize("ranges", [True, False])
def test_6_every_connection_breaks_at_the_same_place(ranges: bool, odd: Serve, folder: Path) -> None:
    file = File(DATA)

    def habit(exchange: Exchange) -> None:
        if not ranges:
            exchange.headers.pop("range", None)
        start = exchange.first or 0
        body = file.head(exchange)
        exchange.send(body[: max(0, MIB - start)])
        exchange.close()

    server = odd(habit)
    assert fails(folder, "--retries", "1", server.url + "/a.bin").code == 6
    assert len(server.exchanges) < 30


# --- 9 no space ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 5 MiB; root alone can have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "none", str(disk)]
    if not IS_ROOT or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def free(disk: Path) -> int:
    state = os.statvfs(disk)
    return state.f_bfree * state.f_frsize


@pytest.mark.parametrize("io", ["mmap", "pwrite"])
def test_9_a_file_that_is_larger_than_the_disk(io: str, small_disk: Path, nginx: Nginx) -> None:
    before = free(small_disk)
    url = nginx.add("a.bin", content(6 * MIB))
    outcome = process_fails(small_disk, "--io", io, url)
    assert outcome.code == 9
    assert os.listdir(small_disk) == []
    assert free(small_disk) == before, "the space is given back"


def test_9_a_file_of_unknown_length_fills_the_disk(small_disk: Path, odd: Serve) -> None:
    before = free(small_disk)

    def habit(exchange: Exchange) -> None:
        exchange.head(200, "Connection: close")
        exchange.send(content(6 * MIB))
        exchange.close()

    assert fails(small_disk, odd(habit).url + "/a.bin").code == 9
    assert os.listdir(small_disk) == []
    assert free(small_disk) == before


def test_9_a_disk_that_others_fill_has_room_for_what_was_begun(small_disk: Path, odd: Serve) -> None:
    """The blocks are reserved before the first byte."""
    gate = Gate(File(DATA), MIB + 1000)
    with Command("--json", odd(gate).url + "/a.bin", cwd=small_disk) as command:
        command.wait_for("start")
        with pytest.raises(OSError, match="No space"):
            (small_disk / "other").write_bytes(bytes(4 * MIB))
        gate.open()
        outcome = command.finish()
    assert (outcome.code, outcome.stderr) == (0, "")
    assert (small_disk / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize("kind", ["known", "unknown"])
def test_9_a_file_that_is_larger_than_the_process_may_write(kind: str, odd: Serve, folder: Path) -> None:
    def unknown(exchange: Exchange) -> None:
        exchange.head(200, "Connection: close")
        exchange.send(DATA)
        exchange.close()

    server = odd(File(DATA) if kind == "known" else unknown)
    limited = ("sh", "-c", 'ulimit -f 1024; exec "$@"', "sh")  # half a MiB, or one, as the shell counts
    assert process_fails(folder, server.url + "/a.bin", wrapper=limited).code == 9
    assert os.listdir(folder) == []


# --- 10 input/output ---


def test_10_a_folder_that_is_not_there(nginx: Nginx, folder: Path) -> None:
    url = nginx.add("a.bin", DATA)
    assert fails(folder, "-d", "no/such", url).code == 10
    assert nginx.requests(url) == [] or os.listdir(folder) == []


def test_10_a_folder_that_cannot_be_written(request: pytest.FixtureRequest, nginx: Nginx, folder: Path) -> None:
    url = nginx.add("a.bin", DATA)
    if IS_ROOT:  # whom no permission stops
        folder = request.getfixturevalue("small_disk")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    else:
        folder.chmod(0o555)
    outcome = process_fails(folder, "-o", "a.bin", url)
    assert outcome.code == 10
    assert nginx.requests(url) == [], "it is seen before the server is asked"
    assert os.listdir(folder) == []


def test_10_a_part_file_that_is_taken_away_meanwhile(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), MIB + 1000)
    with Command("--json", odd(gate).url + "/a.bin", cwd=folder) as command:
        command.wait_for("start")
        (folder / "a.bin.part").unlink()
        gate.open()
        outcome = command.finish()
    assert outcome.code == 10
    assert "a.bin" not in os.listdir(folder)


# --- 12, 13: the place ---


@pytest.mark.parametrize("named", ["by the URL", "by the server", "by -o"])
def test_12_a_file_of_that_name_is_there(named: str, odd: Serve, folder: Path) -> None:
    (folder / "a.bin").write_text("mine")
    lines = ("Content-Disposition: attachment; filename=a.bin",) if named == "by the server" else ()
    server = odd(File(DATA, lines=lines))
    path = "/x" if named == "by the server" else "/a.bin"
    outcome = fails(folder, *(("-o", "a.bin") if named == "by -o" else ()), server.url + path)
    assert outcome.code == 12
    assert "--overwrite" in outcome.complaint
    assert os.listdir(folder) == ["a.bin"]
    assert (folder / "a.bin").read_text() == "mine"

    assert call("--quiet", "--overwrite", server.url + path, cwd=folder).code == 0
    assert (folder / "a.bin").read_bytes() == DATA


def test_12_a_file_of_that_name_appears_meanwhile(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), MIB + 1000)
    with Command("--json", odd(gate).url + "/a.bin", cwd=folder) as command:
        command.wait_for("start")
        (folder / "a.bin").write_text("mine")
        gate.open()
        assert command.finish().code == 12
    assert (folder / "a.bin").read_text() == "mine"


@pytest.mark.parametrize("name", ["n" * 300, "n" * 250, "sub", "d/" * 2100 + "a.bin"], ids=["300", "250", "folder", "path"])
def test_13_a_name_that_cannot_be_used(name: str, nginx: Nginx, folder: Path) -> None:
    (folder / "sub").mkdir()
    url = nginx.add("a.bin", DATA)
    assert fails(folder, "-o", name, url).code == 13
    assert nginx.requests(url) == []
    assert os.listdir(folder) == ["sub"]


@pytest.mark.parametrize("name", ["a.bin.part", "a.bin.fastidm"])
@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_13_something_strange_lies_where_we_write(what: str, name: str, odd: Serve, folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if what == "link":
        (folder / name).symlink_to(victim)
    elif what == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).mkdir()
    assert fails(folder, odd(File(DATA)).url + "/a.bin").code == 13
    assert victim.read_text() == "precious"
    assert os.listdir(folder) == [name]


def test_13_a_link_in_place_of_the_file_is_replaced_and_not_followed(odd: Serve, folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / "a.bin").symlink_to(victim)
    server = odd(File(DATA))
    assert run("--quiet", server.url + "/a.bin", cwd=folder).code == 12
    assert run("--quiet", "--overwrite", server.url + "/a.bin", cwd=folder).code == 0
    assert victim.read_text() == "precious"
    assert not (folder / "a.bin").is_symlink()
    assert (folder / "a.bin").read_bytes() == DATA


# --- 14 protocol ---


def says(*lines: str, status: int = 200, body: bytes = DATA) -> Habit:
    def habit(exchange: Exchange) -> None:
        exchange.head(status, *lines)
        exchange.send(body)
        exchange.close()

    return habit


def is_no_http(exchange: Exchange) -> None:
    exchange.connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    exchange.close()


@pytest.mark.parametrize(
    "habit",
    [
        says(f"Content-Range: bytes 5-{SIZE - 1}/{SIZE}", status=206, body=DATA[5:]),
        says(f"Content-Range: bytes 0-{SIZE - 1}/{SIZE - 1}", status=206),
        says(f"Content-Range: bytes 0-{SIZE}/{SIZE}", status=206),
        says("Content-Range: bytes 0-5/*", status=206),
        says("Content-Range: words 0-5/9", status=206),
        says(status=206),
        says(f"Content-Range: bytes 0-9/{SIZE}", f"Content-Length: {SIZE}", status=206),
        says("Content-Type: multipart/byteranges; boundary=x", f"Content-Range: bytes 0-{SIZE - 1}/{SIZE}", status=206),
        says("Content-Encoding: gzip", f"Content-Length: {SIZE}"),
        says("Content-Length: -1"),
        says("Content-Length: 12abc"),
        says("Content-Length: 99999999999999999999"),
        says("Content-Length: 5", f"Content-Length: {SIZE}"),
        says(status=204),
        says("Location: /", status=304),
        is_no_http,
    ],
    ids=[
        "a part from elsewhere", "a part beyond the end", "a part one byte beyond the end", "a part of nobody knows what",
        "a part in no bytes", "a part without a place", "two lengths that differ", "several parts", "compressed",
        "negative length", "length and letters", "length of 20 digits", "two lengths", "no content", "not modified", "no HTTP",
    ],
)  # fmt: skip
def test_14_an_answer_that_cannot_be_trusted(habit: Habit, odd: Serve, folder: Path) -> None:
    assert fails(folder, "--retries", "0", odd(habit).url + "/a.bin").code == 14
    assert os.listdir(folder) == []


# --- 15 integrity ---


@pytest.mark.parametrize("size", [1000, SIZE])
@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_15_a_wrong_checksum_leaves_nothing(algorithm: str, size: int, nginx: Nginx, folder: Path) -> None:
    digits = {"sha256": 64, "md5": 32}[algorithm]
    outcome = process_fails(folder, "--checksum", f"{algorithm}:{'0' * digits}", nginx.add("a.bin", content(size)))
    assert outcome.code == 15
    assert "0" * digits in outcome.complaint
    assert os.listdir(folder) == []


# --- 16 TLS ---


def test_16_an_authority_that_nobody_knows(tls_nginx: Nginx, folder: Path) -> None:
    url = tls_nginx.add("a.bin", DATA)
    outcome = process_fails(folder, url)
    assert outcome.code == 16
    assert "--cacert" in outcome.complaint
    assert tls_nginx.requests(url) == []
    assert os.listdir(folder) == []


@pytest.mark.parametrize("what", ["another name", "expired", "not yet valid"])
def test_16_a_certificate_that_does_not_hold(what: str, ca: CA, folder: Path) -> None:
    now, day = datetime.now(UTC), timedelta(days=1)
    if what == "another name":
        certificate = ca.issue("elsewhere.example")
    elif what == "expired":
        certificate = ca.issue("127.0.0.1", not_before=now - 3 * day, not_after=now - day)
    else:
        certificate = ca.issue("127.0.0.1", not_before=now + day, not_after=now + 3 * day)
    with OddServer(File(DATA), tls=(certificate.chain, certificate.key)) as server:
        assert fails(folder, "--cacert", ca.file, server.url + "/a.bin").code == 16
        assert server.exchanges == []
    assert os.listdir(folder) == []


def test_16_a_server_that_speaks_no_tls(nginx: Nginx, folder: Path) -> None:
    url = nginx.add("a.bin", DATA).replace("http:", "https:")
    assert fails(folder, "--retries", "0", url).code == 16
    assert os.listdir(folder) == []


# --- 17 redirects ---


@pytest.mark.parametrize(
    "location",
    ["/a.bin", "ftp://127.0.0.1/x", "file:///etc/passwd", "gopher://127.0.0.1/x", "http://", "http://[", "/a b\x01c"],
)
def test_17_a_redirect_to_nowhere(location: str, odd: Serve, folder: Path) -> None:
    server = odd(lambda exchange: exchange.answer(302, f"Location: {location}"))
    assert fails(folder, server.url + "/a.bin").code == 17
    assert len(server.exchanges) <= 21
    assert os.listdir(folder) == []


def test_17_a_redirect_without_a_location(odd: Serve, folder: Path) -> None:
    assert fails(folder, odd(lambda exchange: exchange.answer(302)).url + "/a.bin").code == 17


def test_17_a_redirect_from_https_to_http(server_folders: tuple[Path, Path], ca: CA, nginx: Nginx, folder: Path) -> None:
    there = nginx.add("a.bin", DATA)
    extra = f"location = /down {{ return 302 {there}; }}"
    with Nginx(*server_folders, ca.issue("127.0.0.1"), extra=extra) as server:
        assert fails(folder, "--cacert", ca.file, server.url + "/down").code == 17
    assert nginx.requests(there) == []
    assert os.listdir(folder) == []


def test_17_a_loop_of_a_real_server(special: Nginx, folder: Path) -> None:
    assert process_fails(folder, "--max-redirects", "3", special.url + "/loop").code == 17
    assert len(special.wait_for_requests(4, "/loop")) == 4
