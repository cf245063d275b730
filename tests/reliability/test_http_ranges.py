"""Whatever a server makes of ranges, and whatever becomes of the file meanwhile: the right bytes, or a clear no."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.cases import Case, check, params
from tests.reliability.cases_ranges import CHANGES, LIES
from tests.reliability.faultserver import FaultServer


@pytest.mark.parametrize("case", params(LIES))
def test_a_server_that_lies_about_ranges(case: Case, faults: FaultServer, folder: Path) -> None:
    check(case, faults, folder, inside=True)


@pytest.mark.parametrize("case", params(CHANGES))
def test_a_file_that_changes(case: Case, faults: FaultServer, folder: Path) -> None:
    check(case, faults, folder, inside=True)
