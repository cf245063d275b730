"""Files that are ours alone: who may open and remove them, and whose they are. More in the tests of part file and journal."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastidm.errors import LockedError, UnsafePathError
from fastidm.storage import owned

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.part"
    path.write_bytes(b"content")
    return path


def test_a_new_file_is_private_empty_and_locked(tmp_path: Path) -> None:
    fd = owned.create(str(tmp_path / "new"))
    assert os.stat(tmp_path / "new").st_mode & 0o7777 == 0o600
    assert not os.get_inheritable(fd)
    with pytest.raises(LockedError):
        owned.open_locked(str(tmp_path / "new"), linked=True)
    owned.close(fd)
    os.close(owned.open_locked(str(tmp_path / "new"), linked=True))


def test_where_files_cannot_be_locked_no_new_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unable)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOLCK):
        owned.create(str(tmp_path / "new"))
    assert os.listdir(tmp_path) == []


def test_a_file_with_a_second_name_is_opened_and_dropped_only_where_that_does_no_harm(path: Path, tmp_path: Path) -> None:
    os.link(path, tmp_path / "second")
    for attempt in (lambda: owned.open_locked(str(path), linked=False), lambda: owned.drop(str(path), linked=False)):
        with pytest.raises(UnsafePathError, match="second name"):
            attempt()
    owned.drop(str(path))
    assert os.listdir(tmp_path) == ["second"]
    assert (tmp_path / "second").read_bytes() == b"content"


def test_looking_whether_a_file_is_free_changes_nothing(path: Path, tmp_path: Path) -> None:
    owned.check_free(str(tmp_path / "absent"))
    owned.check_free(str(path))
    with path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            owned.check_free(str(path))
    assert os.listdir(tmp_path) == ["a.part"]
    assert path.read_bytes() == b"content"


@pytest.mark.parametrize("open_or_drop", [lambda path: os.close(owned.open_locked(path, linked=True)), owned.drop])
def test_a_file_that_its_holder_removes_before_we_can_lock_it_is_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch, open_or_drop: Callable[[str], None]
) -> None:
    real = fcntl.flock

    def finished(fd: int, operation: int) -> None:
        path.unlink(missing_ok=True)
        real(fd, operation)

    before = sorted(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "flock", finished)
    if open_or_drop is owned.drop:
        owned.drop(str(path))
    else:
        with pytest.raises(FileNotFoundError):
            open_or_drop(str(path))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_pipe_that_comes_between_the_look_and_the_opening_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.lstat(path)
    for thing in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/null", path)):
        path.unlink()
        thing(path)
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(os, "lstat", lambda path: before)
            with pytest.raises(UnsafePathError, match="not a plain file"):
                owned.open_locked(str(path), linked=True)
        path.rmdir() if path.is_dir() else None
        path.unlink(missing_ok=True)
        path.write_bytes(b"")


def test_what_is_no_plain_file_is_not_even_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open a device can rewind a tape or reset a board."""
    monkeypatch.setattr(os, "open", lambda *arguments: pytest.fail("opened"))
    with pytest.raises(UnsafePathError, match="not a plain file"):
        owned.drop("/dev/null")


# Whose is it?


def owner(monkeypatch: pytest.MonkeyPatch, *, file: int, folder: int, me: int) -> None:
    """As if file and folder belonged to these users, and we were this one."""
    fstat, stat = os.fstat, os.stat

    def given_to(user: int, facts: os.stat_result) -> os.stat_result:
        return os.stat_result([*facts[:4], user, *facts[5:]])

    monkeypatch.setattr(os, "fstat", lambda fd: given_to(file, fstat(fd)))
    monkeypatch.setattr(os, "stat", lambda path: given_to(folder, stat(path)))
    monkeypatch.setattr(os, "geteuid", lambda: me)


@pytest.mark.parametrize(
    ("file", "folder", "me", "ours"),
    [
        (7, 7, 7, True),
        (7, 0, 7, True),  # as in /tmp
        (0, 0, 7, True),  # a disk with FAT that root has mounted
        (8, 7, 7, False),  # planted in our folder
        (8, 0, 7, False),  # planted in /tmp
        (7, 7, 0, True),  # root, at work in a user's folder
        (8, 7, 0, False),
    ],
)
def test_a_file_is_ours_if_we_own_it_or_if_whoever_owns_the_folder_does(
    path: Path, monkeypatch: pytest.MonkeyPatch, file: int, folder: int, me: int, ours: bool
) -> None:
    owner(monkeypatch, file=file, folder=folder, me=me)
    if ours:
        owned.drop(str(path))
    else:
        with pytest.raises(UnsafePathError, match="belongs to another user"):
            owned.drop(str(path))
    monkeypatch.undo()
    assert path.exists() is not ours


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_file_that_only_its_owner_may_write_is_another_users_and_one_that_we_may_not_write_is_no_permission(
    tmp_path: Path,
) -> None:
    """In a folder of the same owner, where it would be ours if it could be opened for writing."""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o755)
    for name in ("theirs.part", "shared.part", "mine.part"):
        (folder / name).write_bytes(b"")
    (folder / "shared.part").chmod(0o666)
    (folder / "mine.part").chmod(0o400)
    os.chown(folder / "mine.part", NOBODY, NOBODY)
    script = (
        "import os, sys\n"
        "from fastidm.storage import owned\n"
        f"os.chdir(sys.argv[1]); os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "for name in ('theirs', 'shared', 'mine'):\n"
        "    try: owned.check_free(name + '.part'); print('free')\n"
        "    except Exception as error: print(type(error).__name__)\n"
    )
    command = [sys.executable, "-c", script, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.split() == ["UnsafePathError", "free", "PermissionError"]


# Names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/d/a.iso.part", "/d/a.iso"),
        ("/d/a.iso.fastidm", "/d/a.iso"),
        ("/d/a.part.fastidm", "/d/a.part"),
        ("/d/a.fastidm.part", "/d/a.fastidm"),
        ("/d/a.iso", "/d/a.iso"),
        ("/d/\x1b[2J.part", r"/d/\x1b[2J"),
    ],
)
def test_who_is_locked_out_hears_of_the_finished_file(path: str, name: str) -> None:
    assert owned.target_name(path) == name
    assert owned.locked(path).message == f"another process is downloading {name}"
    assert owned.locked(path).hint


def test_the_names_in_a_folder_are_synced_even_if_it_cannot_be_read_or_knows_no_such_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(number: int) -> Callable[..., int]:
        def fail(*arguments: object) -> int:
            raise OSError(number, os.strerror(number))

        return fail

    everything: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EACCES))
        patch.setattr(os, "sync", lambda: everything.append("synced"))
        owned.sync_folder(str(tmp_path))
    assert everything == ["synced"]
    for number in (errno.EINVAL, errno.EOPNOTSUPP):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(number))
            owned.sync_folder(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
            owned.sync_folder(str(tmp_path))
