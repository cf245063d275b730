"""`--rename`: where a name is taken, the next free one; nobody's file and nobody's download is touched."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastidm.errors import ExistsError, LockedError, UsageError
from fastidm.options import Options
from fastidm.storage import target as target_module
from fastidm.storage.target import Content, Target
from tests.support.command import Command, call
from tests.support.content import content, first_difference
from tests.support.oddserver import File, Gate, Habit, OddServer
from tests.support.servers import wait_until

MIB = 1 << 20
SIZE = 3 * MIB
DATA = content(SIZE, seed=65)
SMALL = DATA[:4000]
Serve = Callable[[Habit], OddServer]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_next_free_number_is_taken_and_nothing_is_replaced(odd: Serve, folder: Path) -> None:
    url = odd(File(SMALL)).url + "/a.tar.gz"
    (folder / "a.tar.gz").write_text("first")
    (folder / "a (2).tar.gz").write_text("third")
    names = [call("--json", "--rename", url, cwd=folder).done["path"] for _ in range(2)]
    assert names == [str(folder / "a (1).tar.gz"), str(folder / "a (3).tar.gz")]
    assert contents(folder) == {
        "a.tar.gz": b"first", "a (1).tar.gz": SMALL, "a (2).tar.gz": b"third", "a (3).tar.gz": SMALL,
    }  # fmt: skip


def test_a_free_name_is_used_as_it_is(odd: Serve, folder: Path) -> None:
    assert call("--rename", odd(File(SMALL)).url + "/a.bin", cwd=folder).code == 0
    assert os.listdir(folder) == ["a.bin"]


def test_a_name_that_the_user_chose_is_numbered_too(odd: Serve, folder: Path) -> None:
    url = odd(File(DATA)).url + "/a.bin"
    (folder / "sub").mkdir()
    for name in ("mine", "mine (1)", "mine (2)"):
        assert call("--rename", "-d", "sub", "-o", "mine", url, cwd=folder).code == 0
        assert (folder / "sub" / name).read_bytes() == DATA
    long = "n" * 240 + ".iso"
    for name in (long, "n" * 239 + " (1).iso"):
        assert call("--rename", "-o", long, url, cwd=folder).code == 0
        assert (folder / name).read_bytes() == DATA


def test_without_it_a_name_that_is_taken_ends_the_download(odd: Serve, folder: Path) -> None:
    server = odd(File(SMALL))
    (folder / "a.bin").write_text("mine")
    outcome = call(server.url + "/a.bin", cwd=folder)
    assert outcome.code == 12
    assert "--rename" in outcome.complaint
    assert contents(folder) == {"a.bin": b"mine"}


def test_it_contradicts_overwrite(folder: Path) -> None:
    outcome = call("--rename", "--overwrite", "http://127.0.0.1:9/x", cwd=folder)
    assert outcome.code == 2
    assert "exclude each other" in outcome.complaint
    with pytest.raises(UsageError):
        Options(rename=True, overwrite=True)


def test_an_unfinished_download_under_a_number_goes_on_there(odd: Serve, folder: Path) -> None:
    (folder / "a.bin").write_text("mine")
    gate = Gate(File(DATA), MIB)
    server = odd(gate)
    url = server.url + "/a.bin"
    with Command("--json", "--rename", url, cwd=folder) as command:
        command.wait_for("start")
        command.wait_for_received(MIB // 2)
        command.kill()
    assert sorted(os.listdir(folder)) == ["a (1).bin.fastidm", "a (1).bin.part", "a.bin"]
    gate.open()
    done = call("--json", "--rename", url, cwd=folder).done
    assert done["path"] == str(folder / "a (1).bin")
    assert done["resumed"] >= MIB // 2
    assert contents(folder) == {"a.bin": b"mine", "a (1).bin": DATA}


def test_an_unfinished_download_of_another_url_keeps_its_name(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), MIB)
    one, other = odd(gate), odd(File(DATA[::-1], etag='"2"'))
    with Command("--json", one.url + "/a.bin", cwd=folder) as command:
        command.wait_for("start")
        command.wait_for_received(MIB // 2)
        command.kill()
    before = contents(folder)["a.bin.part"]
    assert call("--json", "--rename", other.url + "/a.bin", cwd=folder).done["path"] == str(folder / "a (1).bin")
    assert first_difference(contents(folder)["a.bin.part"], before) is None
    gate.open()
    done = call("--json", "--rename", one.url + "/a.bin", cwd=folder).done
    assert done["path"] == str(folder / "a.bin")
    assert done["resumed"] >= MIB // 2
    assert contents(folder) == {"a.bin": DATA, "a (1).bin": DATA[::-1]}


@pytest.mark.parametrize("size", [SIZE, 4000], ids=["with a journal", "small"])
def test_a_name_that_another_process_downloads_to_is_taken(size: int, odd: Serve, folder: Path) -> None:
    data = DATA[:size]
    gate = Gate(File(data), size // 2)
    url = odd(gate).url + "/a.bin"
    with Command("--json", url, cwd=folder) as command:
        command.wait_for("start")
        wait_until(lambda: (folder / "a.bin.part").exists(), "a part file")
        assert call(url, cwd=folder).code == 11
        other = odd(File(data)).url + "/a.bin"
        assert call("--json", "--rename", other, cwd=folder).done["path"] == str(folder / "a (1).bin")
        gate.open()
        assert command.finish().code == 0
    assert contents(folder) == {"a.bin": data, "a (1).bin": data}


@pytest.mark.parametrize("taken", [(), ("a (1).bin",), ("a (1).bin.part",), ("a (1).bin.fastidm",)], ids=str)
@pytest.mark.parametrize("size", [SIZE, 4000], ids=["with a journal", "small"])
def test_a_file_that_comes_up_meanwhile_is_not_replaced_and_nothing_is_fetched_twice(
    taken: tuple[str, ...], size: int, odd: Serve, folder: Path
) -> None:
    data = DATA[:size]
    gate = Gate(File(data), size // 2)
    server = odd(gate)
    with Command("--json", "--rename", server.url + "/a.bin", cwd=folder) as command:
        command.wait_for("start")
        for name in ("a.bin", *taken):
            (folder / name).write_text("mine")
        gate.open()
        outcome = command.finish()
    name = "a (2).bin" if taken else "a (1).bin"
    assert outcome.done["path"] == str(folder / name)
    assert contents(folder) == {**dict.fromkeys(("a.bin", *taken), b"mine"), name: data}
    assert sum(exchange.sent for exchange in server.exchanges) < 2 * size


def test_without_it_a_file_that_comes_up_meanwhile_ends_the_download_and_keeps_what_came(odd: Serve, folder: Path) -> None:
    gate = Gate(File(DATA), MIB)
    url = odd(gate).url + "/a.bin"
    with Command("--json", url, cwd=folder) as command:
        command.wait_for("start")
        (folder / "a.bin").write_text("mine")
        gate.open()
        assert command.finish().code == 12
    (folder / "a.bin").rename(folder / "elsewhere")
    assert call("--json", url, cwd=folder).done["resumed"] > 0
    assert contents(folder) == {"a.bin": DATA, "elsewhere": b"mine"}


def test_a_stopped_download_says_the_command_that_goes_on_under_the_number(odd: Serve, folder: Path) -> None:
    (folder / "a.bin").write_text("mine")
    gate = Gate(File(DATA), MIB)
    url = odd(gate).url + "/a.bin"
    with Command("--json", "--rename", url, cwd=folder) as command:
        command.wait_for("start")
        command.send(signal.SIGINT)
        assert f"--rename {url}" in command.finish().stderr
    gate.open()
    assert call("--json", "--rename", url, cwd=folder).done["resumed"] > 0


@pytest.mark.parametrize("size", [SIZE, 4000], ids=["with a journal", "small"])
def test_processes_that_start_together_get_a_name_each(size: int, odd: Serve, folder: Path) -> None:
    data = DATA[:size]
    url = odd(File(data)).url + "/a.bin"
    with ExitStack() as stack:
        commands = [stack.enter_context(Command("--json", "--rename", url, cwd=folder)) for _ in range(5)]
        outcomes = [command.finish() for command in commands]
    names = {os.path.basename(outcome.done["path"]) for outcome in outcomes}
    assert len(names) == 5
    assert contents(folder) == dict.fromkeys(names, data)


# --- the target alone ---


def test_who_is_slower_to_begin_takes_the_next_name(folder: Path) -> None:
    targets = [Target(str(folder / "a.bin"), f"http://h/{n}", Options(rename=True)) for n in range(3)]
    assert [target.prepare() for target in targets] == [None] * 3
    for target in targets:
        target.begin(Content(SIZE))
    assert [os.path.basename(target.path) for target in targets] == ["a.bin", "a (1).bin", "a (2).bin"]
    for target in targets:
        target.discard()
    assert os.listdir(folder) == []


def test_who_is_slower_to_begin_ends_without_it(folder: Path) -> None:
    one, other = (Target(str(folder / "a.bin"), f"http://h/{n}", Options()) for n in range(2))
    assert one.prepare() is other.prepare() is None
    one.begin(Content(SIZE))
    with pytest.raises(LockedError):
        other.begin(Content(SIZE))
    one.discard()


def test_there_is_an_end_to_counting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "MOST_NUMBERS", 2)
    for name in ("a", "a (1)", "a (2)"):
        (folder / name).touch()
    with pytest.raises(ExistsError, match=r"a \(2\)"):
        Target(str(folder / "a"), "http://h/", Options(rename=True)).prepare()
