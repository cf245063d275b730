"""Several files at once: each on its own, all in one process."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

from fastidm.events import DownloadStatus
from fastidm.options import Options
from fastidm.queue import Queue, Task
from tests.support.command import Command, call, run
from tests.support.content import content, first_difference
from tests.support.oddserver import Exchange, File, Gate, Habit, OddServer
from tests.support.servers import CA, Caddy, Nginx

MIB = 1 << 20
Serve = Callable[[Habit], OddServer]


def test_several_urls_are_several_files(nginx: Nginx, tls_nginx: Nginx, caddy: Caddy, ca: CA, folder: Path) -> None:
    sizes = (0, 1000, MIB, 3 * MIB + 1, 9 * MIB)
    servers = (nginx, tls_nginx, caddy, nginx, tls_nginx)
    urls = [
        server.add(f"{number}.bin", content(size, seed=number))
        for number, (size, server) in enumerate(zip(sizes, servers, strict=True))
    ]
    outcome = run("--json", "--cacert", ca.file, *urls, cwd=folder)
    assert (outcome.code, outcome.stderr) == (0, "")
    done = {event["task"]: event for event in outcome.of("done")}
    for number, (size, url) in enumerate(zip(sizes, urls, strict=True)):
        assert (done[number + 1]["url"], done[number + 1]["size"]) == (url, size)
        assert first_difference((folder / f"{number}.bin").read_bytes(), content(size, seed=number)) is None
    assert len(os.listdir(folder)) == len(sizes)


def test_one_that_fails_does_not_stop_the_others(special: Nginx, folder: Path) -> None:
    good = [special.add(f"{number}.bin", content(2 * MIB)) for number in range(2)]
    urls = [good[0], special.url + "/gone", special.url + "/forbidden", good[1]]
    outcome = run("--quiet", *urls, cwd=folder)
    assert outcome.code == 3, "that of the first on the command line that failed"
    assert sorted(os.listdir(folder)) == ["0.bin", "1.bin"]
    lines = sorted(outcome.stderr.splitlines())
    assert len(lines) == 2
    assert all(url in line for url, line in zip(urls[1:3], sorted(lines, key=lambda line: "forbidden" in line), strict=True))


def test_two_files_of_the_same_name_do_not_harm_each_other(nginx: Nginx, folder: Path) -> None:
    first, second = (nginx.add("a.bin", content(3 * MIB, seed=seed)) for seed in (1, 2))
    outcome = run("--quiet", first, second, cwd=folder)
    assert outcome.code in (11, 12)
    assert outcome.complaint
    assert os.listdir(folder) == ["a.bin"]
    assert (folder / "a.bin").read_bytes() in (content(3 * MIB, seed=1), content(3 * MIB, seed=2))


def test_the_same_url_twice_is_one_file(nginx: Nginx, folder: Path) -> None:
    data = content(3 * MIB)
    url = nginx.add("a.bin", data)
    assert run("--quiet", url, url, cwd=folder).code in (11, 12)
    assert os.listdir(folder) == ["a.bin"]
    assert (folder / "a.bin").read_bytes() == data


def test_a_signal_stops_all_of_them_and_the_same_command_goes_on_with_the_rest(odd: Serve, folder: Path) -> None:
    data = content(3 * MIB)
    gate, file = Gate(File(data), 2 * MIB), File(content(MIB))
    slow, quick = odd(gate), odd(file)
    urls = [slow.url + "/a.bin", quick.url + "/b.bin", slow.url + "/c.bin"]
    with Command("--json", *urls, cwd=folder) as command:
        for task in (1, 3):
            command.wait_for("progress", lambda event, task=task: event["task"] == task and event["received"] >= 2 * MIB)
        command.wait_for("done")
        command.send(signal.SIGINT)
        outcome = command.finish()
    assert outcome.code == 7
    (line,) = outcome.stderr.splitlines()
    assert "1 of 3 files are done" in line
    assert line.endswith(f"--json {urls[0]} {urls[2]}"), "the one that is done is left out"

    gate.open()
    outcome = call("--json", urls[0], urls[2], cwd=folder)
    assert [event["resumed"] >= 2 * MIB for event in outcome.of("done")] == [True, True]
    assert sorted(os.listdir(folder)) == ["a.bin", "b.bin", "c.bin"]
    assert (folder / "a.bin").read_bytes() == (folder / "c.bin").read_bytes() == data


def test_one_manager_runs_dozens_of_files_a_few_at_a_time(odd: Serve, folder: Path) -> None:
    data = [content(100_000 * (number % 30), seed=number) for number in range(40)]
    tasks: list[Task] = []
    most = 0

    def habit(exchange: Exchange) -> None:
        nonlocal most
        most = max(most, sum(task.status is DownloadStatus.DOWNLOADING for task in tasks))
        File(data[int(exchange.target[1:])])(exchange)

    server = odd(habit)
    with Queue(max_downloads=4) as manager:
        tasks += [manager.add(f"{server.url}/{number}", Options(directory=str(folder))) for number in range(40)]
        manager.run()
    assert {task.status for task in tasks} == {DownloadStatus.COMPLETED}
    assert 1 < most <= 4
    for number in range(40):
        assert first_difference((folder / str(number)).read_bytes(), data[number]) is None


def test_a_rate_limit_of_one_does_not_slow_the_other(nginx: Nginx, folder: Path) -> None:
    data = content(3 * MIB)
    with Queue() as manager:
        slow = manager.add(nginx.add("slow", data), Options(directory=str(folder), limit_rate=2 * MIB))
        fast = manager.add(nginx.add("fast", data), Options(directory=str(folder)))
        manager.run()
    assert slow.result is not None and fast.result is not None
    assert fast.result.seconds < 1.0
    assert slow.result.seconds > fast.result.seconds


def test_the_line_on_how_to_go_on_is_a_command_that_does(odd: Serve, folder: Path) -> None:
    """Word for word, in a shell."""
    data = content(2 * MIB)
    gate = Gate(File(data), MIB)
    url = odd(gate).url + "/a.bin"
    with Command("--json", "--conn", "2", "-o", "my file", url, cwd=folder) as command:
        command.wait_for("start")
        command.send(signal.SIGTERM)
        line = command.finish().stderr
    gate.open()
    words = shlex.split(line.partition("to go on: ")[2])
    assert words[:3] == ["python3", "-m", "fastidm"]
    assert run(*words[3:], cwd=folder).code == 0
    assert (folder / "my file").read_bytes() == data
