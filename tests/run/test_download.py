"""Files of all sizes come whole and alone from all servers, by both sinks and all ways of writing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastidm.errors import NetworkError, ProtocolError
from fastidm.events import Started
from fastidm.options import Options
from tests.support.alone import download
from tests.support.command import run
from tests.support.content import content, first_difference
from tests.support.oddserver import Exchange, File, Habit, OddServer
from tests.support.servers import CA, Nginx, Server, wait_until

MIB = 1 << 20
SIZES = (0, 1, 65536, MIB - 1, MIB, MIB + 1, 20 * MIB)
Serve = Callable[[Habit], OddServer]


def assert_only(folder: Path, name: str, data: bytes) -> None:
    """In `folder` there is one file of that name, it holds `data`, and nothing else is there."""
    assert os.listdir(folder) == [name]
    assert first_difference((folder / name).read_bytes(), data) is None


# --- sizes and servers ---


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size_comes_from_any_server(any_server: Server, size: int, folder: Path, ca: CA) -> None:
    data = content(size)
    url = any_server.add("some.file", data)
    done = download(url, Options(directory=str(folder), cacert=ca.file))
    assert (done.path, done.size, done.received, done.resumed) == (str(folder / "some.file"), size, size, 0)
    assert not done.length_unverified
    assert_only(folder, "some.file", data)
    wait_until(lambda: "bytes=0-" in {request.range for request in any_server.requests(url)}, "the first request in the log")
    requests = any_server.requests(url)
    assert {request.method for request in requests} == {"GET"}
    if size <= MIB:
        assert len(requests) == 1


@pytest.mark.parametrize("size", [MIB - 1, MIB + 1, 20 * MIB])
@pytest.mark.parametrize("io", ["auto", "mmap", "pwrite"])
def test_each_sink_writes_in_each_way(pure_and_c: type, io: str, size: int, nginx: Nginx, folder: Path) -> None:
    data = content(size, seed=1)
    outcome = run("--io", io, "--quiet", nginx.add("a.bin", data), cwd=folder)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert_only(folder, "a.bin", data)


@pytest.mark.parametrize("connections", [1, 2, 128])
def test_any_ceiling_of_connections_gives_the_same_file(connections: int, nginx: Nginx, folder: Path) -> None:
    data = content(9 * MIB + 17, seed=2)
    done = download(nginx.add("a.bin", data), Options(directory=str(folder), connections=connections))
    assert done.connections <= connections
    assert_only(folder, "a.bin", data)


def test_a_server_that_offers_http_2_is_asked_by_http_1_for_a_connection_each(
    server_folders: tuple[Path, Path], ca: CA, folder: Path
) -> None:
    data = content(20 * MIB, seed=3)
    with Nginx(*server_folders, ca.issue("localhost", "127.0.0.1"), http2=True, limit_rate=4 * MIB) as server:
        url = server.add("a.bin", data)
        download(url, Options(directory=str(folder), cacert=ca.file))
        requests = server.wait_for_requests(2, url)
    assert {request.protocol for request in requests} == {"HTTP/1.1"}
    assert len({request.connection for request in requests}) > 1
    assert_only(folder, "a.bin", data)


def test_every_byte_is_asked_for_and_few_twice(server_folders: tuple[Path, Path], folder: Path) -> None:
    data = content(20 * MIB, seed=4)
    with Nginx(*server_folders, limit_rate=4 * MIB) as server:
        url = server.add("a.bin", data)
        download(url, Options(directory=str(folder)))
        sent = sum(request.sent for request in server.wait_for_requests(2, url))
    # A connection that is cut short has sent what the kernel's buffers hold: a few MiB on loopback.
    assert len(data) <= sent <= 1.5 * len(data)


# --- servers that cannot do everything ---


def test_a_server_without_ranges_gives_the_file_over_one_connection(server_folders: tuple[Path, Path], folder: Path) -> None:
    data = content(5 * MIB, seed=5)
    with Nginx(*server_folders, ranges=False) as server:
        url = server.add("a.bin", data)
        started: list[object] = []
        done = download(url, Options(directory=str(folder)), started.append)
        assert len(server.wait_for_requests(1, url)) == 1
    assert done.connections == 1
    assert [event.ranges for event in started if isinstance(event, Started)] == [False]
    assert_only(folder, "a.bin", data)


def chunked(data: bytes, end: bool = True) -> Habit:
    def habit(exchange: Exchange) -> None:
        exchange.head(200, "Transfer-Encoding: chunked")
        for at in range(0, len(data), 100_000):
            piece = data[at : at + 100_000]
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        if not end:
            exchange.close()
        exchange.send(b"0\r\n\r\n")

    return habit


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
def test_a_chunked_file_of_unknown_length_comes_whole(size: int, odd: Serve, folder: Path) -> None:
    data = content(size)
    done = download(odd(chunked(data)).url + "/a.bin", Options(directory=str(folder)))
    assert (done.size, done.connections <= 1) == (size, True)
    assert_only(folder, "a.bin", data)


@pytest.mark.timeout(15)
def test_a_chunked_file_that_always_breaks_off_is_no_file(odd: Serve, folder: Path) -> None:
    server = odd(chunked(content(2 * MIB), end=False))
    with pytest.raises(NetworkError):
        download(server.url + "/a.bin", Options(directory=str(folder), retries=1))
    assert len(server.exchanges) <= 3, "one retry, and one more because the first brought something"
    assert os.listdir(folder) == []


def test_a_chunked_file_that_breaks_off_once_is_begun_anew(odd: Serve, folder: Path) -> None:
    data = content(2 * MIB)

    half, whole = chunked(data[: len(data) // 2], end=False), chunked(data)
    server = odd(lambda exchange: (half if len(exchange.server.exchanges) == 1 else whole)(exchange))
    download(server.url + "/a.bin", Options(directory=str(folder)))
    assert len(server.exchanges) == 2
    assert_only(folder, "a.bin", data)


def test_a_file_that_ends_with_its_connection_is_marked_as_unverified(odd: Serve, folder: Path) -> None:
    data = content(2 * MIB)

    def habit(exchange: Exchange) -> None:
        exchange.head(200, "Connection: close")
        exchange.send(data)
        exchange.close()

    done = download(odd(habit).url + "/a.bin", Options(directory=str(folder)))
    assert done.length_unverified
    assert_only(folder, "a.bin", data)


def test_an_empty_file_may_be_an_unsatisfiable_range(odd: Serve, folder: Path) -> None:
    server = odd(File(b""))  # 416 with "bytes */0", as Apache and S3 answer
    assert download(server.url + "/a.bin", Options(directory=str(folder))).size == 0
    assert_only(folder, "a.bin", b"")


@pytest.mark.parametrize("status", [400, 403, 405, 416, 501])
def test_a_server_that_refuses_ranges_is_asked_without(status: int, odd: Serve, folder: Path) -> None:
    data = content(2 * MIB)

    def habit(exchange: Exchange) -> None:
        if exchange.first is not None:
            exchange.answer(status)
        else:
            exchange.answer(200, body=data)

    server = odd(habit)
    download(server.url + "/a.bin", Options(directory=str(folder)))
    assert [exchange.status for exchange in server.exchanges] == [status, 200]
    assert_only(folder, "a.bin", data)


def assert_right_or_refused(server: OddServer, folder: Path, data: bytes) -> None:
    """Whatever the server does, there is the right file, or `ProtocolError` and nothing under its name."""
    try:
        download(server.url + "/a.bin", Options(directory=str(folder), retries=0))
    except ProtocolError:
        assert "a.bin" not in os.listdir(folder)
    else:
        assert_only(folder, "a.bin", data)
    assert len(server.exchanges) < 40


def test_a_server_that_ignores_later_ranges_spoils_nothing(odd: Serve, folder: Path) -> None:
    data = content(6 * MIB)
    file = File(data)

    def habit(exchange: Exchange) -> None:
        if exchange.first:
            exchange.answer(200, *file.lines, body=data)
        else:
            file(exchange)

    assert_right_or_refused(odd(habit), folder, data)


def lies(how: str, data: bytes) -> Habit:
    """Right answers to requests from 0 on, wrong ones to those for another part."""
    file = File(data)

    def habit(exchange: Exchange) -> None:
        first, last = exchange.first, exchange.last
        if not first or last is None:
            file(exchange)
            return
        first += {"from behind": 1, "from before": -1}.get(how, 0)
        body = data[first : last + 1]
        span = () if how == "without a range" else (f"Content-Range: bytes {first}-{last}/{len(data)}",)
        if how == "of another length":
            body = body[:-1]
        exchange.head(206, f"Content-Length: {len(body)}", *span, *file.lines)
        exchange.send(body)

    return habit


LIES = pytest.mark.parametrize("how", ["from behind", "from before", "without a range", "of another length"])


@LIES
def test_parts_that_cannot_be_placed_are_not_used(how: str, odd: Serve, folder: Path) -> None:
    data = content(6 * MIB)
    server = odd(lies(how, data))
    download(server.url + "/a.bin", Options(directory=str(folder), retries=0))
    assert os.listdir(folder) == ["a.bin"]
    assert (folder / "a.bin").read_bytes() == data


@LIES
def test_a_few_parts_that_cannot_be_placed_spoil_nothing(how: str, odd: Serve, folder: Path) -> None:
    data = content(6 * MIB)
    wrong, right = lies(how, data), File(data)
    server = odd(lambda exchange: (wrong if len(exchange.server.exchanges) < 4 else right)(exchange))
    assert_right_or_refused(server, folder, data)


def test_parts_that_are_shorter_than_asked_for_are_enough(odd: Serve, folder: Path) -> None:
    data = content(4 * MIB)
    file = File(data)

    def habit(exchange: Exchange) -> None:
        first, last = exchange.first or 0, exchange.last
        stop = min(first + 300_000, len(data) if last is None else last + 1)
        span = f"Content-Range: bytes {first}-{stop - 1}/{len(data)}"
        exchange.head(206, span, f"Content-Length: {stop - first}", *file.lines)
        exchange.send(data[first:stop])

    server = odd(habit)
    download(server.url + "/a.bin", Options(directory=str(folder)))
    assert len(server.exchanges) < 40
    assert_only(folder, "a.bin", data)


def test_a_body_that_is_longer_than_its_range_stays_within_its_segment(odd: Serve, folder: Path) -> None:
    data = content(6 * MIB)
    file = File(data)

    def habit(exchange: Exchange) -> None:
        if not exchange.first:
            file(exchange)
            return
        span = f"Content-Range: bytes {exchange.first}-{exchange.last}/{len(data)}"
        exchange.head(206, span, "Connection: close", *file.lines)
        exchange.send(data[exchange.first : (exchange.last or 0) + 1] + b"#" * 300_000)
        exchange.close()

    download(odd(habit).url + "/a.bin", Options(directory=str(folder)))
    assert_only(folder, "a.bin", data)


# --- names ---


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("attachment; filename=report.pdf", "report.pdf"),
        ('attachment; filename="a b.pdf"', "a b.pdf"),
        ("attachment; filename=x; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.txt", "naïve €.txt"),
        ('attachment; filename="../../../etc/passwd"', "passwd"),
        ('attachment; filename="..\\\\..\\\\autoexec.bat"', "autoexec.bat"),
        ('attachment; filename="/etc/cron.d/evil"', "evil"),
        ('attachment; filename=".."', "from-url.bin"),
        ("inline", "from-url.bin"),
    ],
)
def test_the_server_names_the_file_within_the_folder(header: str, name: str, odd: Serve, folder: Path) -> None:
    data = content(2000)
    server = odd(File(data, lines=(f"Content-Disposition: {header}",)))
    done = download(server.url + "/from-url.bin", Options(directory=str(folder)))
    assert done.path == str(folder / name)
    assert_only(folder, name, data)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a%20b.bin?token=x", "a b.bin"),
        ("/%2e%2e%2fup.bin", "up.bin"),
        ("/folder/", "download"),
        ("", "download"),
        ("/%00%1b%5b31m", "__[31m"),
        ("/" + "n" * 400 + ".tar.gz", "n" * (241 - 7) + ".tar.gz"),
    ],
)
def test_without_a_name_from_the_server_the_address_has_one(path: str, name: str, odd: Serve, folder: Path) -> None:
    data = content(2000)
    download(odd(File(data)).url + path, Options(directory=str(folder)))
    assert_only(folder, name, data)


def test_a_name_of_ones_own_wins(special: Nginx, folder: Path) -> None:
    data = content(2 * MIB)
    url = special.add("a.bin", data).replace(special.url, special.url + "/named") + "?name=theirs"
    assert run("-q", url, cwd=folder).code == 0
    assert_only(folder, "theirs", data)
    assert run("-q", "-d", "sub", "-o", "mine", url, cwd=folder).code == 10, "there is no such folder"
    (folder / "sub").mkdir()
    assert run("-q", "-d", "sub", "-o", "mine", url, cwd=folder).code == 0
    assert_only(folder / "sub", "mine", data)


def test_the_file_has_the_permissions_of_a_file_that_the_user_makes(nginx: Nginx, folder: Path) -> None:
    url = nginx.add("a.bin", content(2 * MIB))
    assert run("-q", url, cwd=folder, wrapper=("sh", "-c", 'umask 027; exec "$@"', "sh")).code == 0
    assert (folder / "a.bin").stat().st_mode & 0o777 == 0o640


# --- redirects that are followed ---


def test_redirects_are_followed_to_the_file_and_the_first_address_names_it(special: Nginx, folder: Path) -> None:
    data = content(4 * MIB)
    path = special.add("a.bin", data).removeprefix(special.url + "/")
    done = download(f"{special.url}/relative/{path}", Options(directory=str(folder)))
    assert (done.size, done.url) == (len(data), f"{special.url}/relative/{path}")
    assert_only(folder, "a.bin", data)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_every_kind_leads_to_another_server(status: int, odd: Serve, nginx: Nginx, folder: Path) -> None:
    data = content(4 * MIB)
    there = nginx.add("there.bin", data)
    here = odd(lambda exchange: exchange.answer(status, f"Location: {there}", body=b"moved"))
    assert download(here.url + "/here.bin", Options(directory=str(folder))).connections >= 1
    assert_only(folder, "here.bin", data)
    assert len(here.exchanges) == 1, "only the first request has to be told where the file is"
