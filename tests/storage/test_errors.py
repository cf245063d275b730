"""Errors of the system become ours: each has a class, a path and a piece of advice."""

from __future__ import annotations

import errno
import os

import pytest

from fastidm.errors import LockedError, NoSpaceError, StorageError, UnsafePathError
from fastidm.storage.errors import mapped, storage_error


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, NoSpaceError),
        (errno.EDQUOT, NoSpaceError),
        (errno.EFBIG, NoSpaceError),
        (errno.ELOOP, UnsafePathError),
        (errno.ENAMETOOLONG, UnsafePathError),
        (errno.EACCES, StorageError),
        (errno.EROFS, StorageError),
        (errno.EIO, StorageError),
        (errno.ESTALE, StorageError),
    ],
)
def test_every_error_of_the_system_is_one_of_ours_with_path_and_advice(number: int, kind: type[StorageError]) -> None:
    error = storage_error(OSError(number, os.strerror(number)), "odd\x1b[2Jname")
    assert type(error) is kind
    assert r"odd\x1b[2Jname" in error.message
    assert error.hint
    named = storage_error(OSError(number, os.strerror(number), "its own path"), "other")
    assert "its own path" in named.message


def test_one_of_our_own_errors_stays_what_it_is_and_a_defect_is_no_error_of_the_disk() -> None:
    ours = LockedError("held")
    assert storage_error(ours, "file") is ours
    with pytest.raises(KeyError):
        storage_error(KeyError("a defect"), "file")


def test_a_block_lets_ours_out_and_keeps_the_foreign_one_as_the_cause() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(NoSpaceError, match="cannot write file") as caught, mapped("file"):
        raise full
    assert caught.value.__cause__ is full
    with pytest.raises(LockedError), mapped("file"):
        raise LockedError("held")
