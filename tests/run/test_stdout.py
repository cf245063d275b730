"""`-o -`: the file on standard output."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import environment, run
from tests.support.content import content, sha256
from tests.support.oddserver import Exchange, File, Habit, OddServer, Valve
from tests.support.servers import Nginx, wait_until

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]
PROGRAM = [sys.executable, "-m", "fastidm"]


def piped(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, cwd=cwd, env=environment(cwd), timeout=60)


def test_the_file_comes_out_and_nothing_else(nginx: Nginx, tmp_path: Path) -> None:
    data = content(24 * MIB)
    done = piped("-o", "-", nginx.add("out.bin", data), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sha256(done.stdout) == sha256(data)
    assert b"24.0 MiB" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_a_small_file_comes_out_too(size: int, nginx: Nginx, tmp_path: Path) -> None:
    done = piped("-q", "-o-", nginx.add("small.bin", content(size)), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, content(size), b"")


def test_a_wrong_checksum_is_an_error_at_the_end(nginx: Nginx, tmp_path: Path) -> None:
    url = nginx.add("summed.bin", content(MIB))
    done = piped("-q", "-o", "-", "--checksum", "sha256:" + "0" * 64, url, cwd=tmp_path)
    assert done.returncode == 15
    assert b"checksum" in done.stderr
    assert piped("-q", "-o", "-", "--checksum", "sha256:" + sha256(content(MIB)), url, cwd=tmp_path).returncode == 0


def test_a_missing_file_is_one_line_and_no_byte(nginx: Nginx, tmp_path: Path) -> None:
    done = piped("-o", "-", nginx.url + "/none", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.count(b"\n") == 1


def test_a_reader_that_goes_away_ends_it(nginx: Nginx, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "-o", "-", nginx.add("gone.bin", content(24 * MIB))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment(tmp_path),
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.read(10) == content(24 * MIB)[:10]
        child.stdout.close()
        said = child.stderr.read()
        assert child.wait(10) == 10
    assert b"nobody reads" in said


def test_a_terminal_is_refused(nginx: Nginx, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [*PROGRAM, "-o", "-", nginx.add("terminal.bin", content(1))],
            stdout=theirs, stderr=subprocess.PIPE, cwd=tmp_path, env=environment(tmp_path), timeout=30,
        )  # fmt: skip
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2
    assert b"terminal" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_within_a_moment(number: signal.Signals, odd: Serve, tmp_path: Path) -> None:
    valve = Valve(File(content(24 * MIB)), allowed=MIB)
    with subprocess.Popen(
        [*PROGRAM, "-o", "-", odd(valve).url + "/held.bin"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path, env=environment(tmp_path),
    ) as child:  # fmt: skip
        assert child.stderr is not None
        wait_until(lambda: valve.sent >= MIB, "the first bytes")
        child.send_signal(number)
        said = child.stderr.read()
        assert child.wait(10) == 7
    assert b"stopped on request" in said


def test_json_and_several_urls_do_not_fit(nginx: Nginx, tmp_path: Path) -> None:
    url = nginx.add("usage.bin", content(1))
    assert run("-o", "-", "--json", url, cwd=tmp_path).code == 2
    assert run("-o", "-", url, url, cwd=tmp_path).code == 2


def test_a_server_without_parts_comes_out_as_it_sends(odd: Serve, tmp_path: Path) -> None:
    data = content(24 * MIB)

    def habit(exchange: Exchange) -> None:
        exchange.answer(200, body=data)

    done = piped("-o", "-", odd(habit).url + "/one.bin", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sha256(done.stdout) == sha256(data)
