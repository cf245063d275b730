"""The power is cut at every step of real downloads, in a model of the disk, and nothing false is ever believed afterwards.

The scenarios run the real storage code; `recorder.py` writes down what it does to the disk. `model.py` then says what may be
left after a cut, `judge.py` what the next run would believe of that. What must hold:

* no byte is claimed that is not on the disk, and none outside the file;
* what a checkpoint has promised is still claimed;
* the final name is never on a file that is not whole, and once the download is complete it is always there;
* whatever is left, the next run starts by itself and ends with the right file, and nothing else is left then.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fastidm.core.segments import merge
from fastidm.errors import ExistsError
from tests.crash.driver import NAME, Run, look
from tests.crash.judge import JOURNAL, LAST_BOOT, NEXT_BOOT, PART, Judge, Reader, boot
from tests.crash.rebuild import rebuild
from tests.crash.recorder import Recorder
from tests.crash.scenarios import DATA, OTHER, SCENARIOS, SIZE, judged, killed_twice, recorded, turns, with_another_content
from tests.support.content import first_difference

SEEDS = (1, 2)
CUTS = 100_000
"""At least so many, all scenarios together ..."""
TIMES = 11
"""... that is so many at each step."""
EACH = 139
"""Of so many steps one is followed by a real run."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crashes")


@pytest.fixture(scope="module")
def reader(base: Path) -> Reader:
    (base / "reader").mkdir()
    return Reader(base / "reader")


@pytest.fixture(scope="module")
def traces(base: Path) -> list[Recorder]:
    return [recorded(scenario, base, seed) for seed in SEEDS for scenario in SCENARIOS]


def test_a_recording_is_complete(traces: list[Recorder], reader: Reader) -> None:
    """Replayed without a crash it comes to the folder that is really there."""
    for recorder in traces:
        judge = judged(recorder, reader)
        for _ in judge.steps():
            pass
        alive = judge.disk.alive()
        assert alive.names == recorder.names() == {NAME: alive.names[NAME]}
        file = judge.disk.files[alive.names[NAME]]
        assert file.content is not None and DATA.startswith(file.content)
        assert file.durable == [(0, alive.sizes[alive.names[NAME]])] == [(0, len(file.content))]
        assert first_difference((recorder.folder / NAME).read_bytes(), file.content) is None


def test_a_power_cut_at_any_step_leaves_nothing_false(traces: list[Recorder], reader: Reader) -> None:
    cuts = believing = 0
    for recorder in traces:
        judge = judged(recorder, reader)
        judge.cut_everywhere(TIMES)
        assert not judge.violations, judge.violations[:5]
        cuts += judge.cuts
        believing += judge.believing
    print(f"{cuts} cuts, {believing} with claims, {reader.count} distinct journals")
    assert cuts >= CUTS
    assert believing > cuts // 3, "or little was shown"


def test_a_kill_after_any_store_leaves_nothing_false(traces: list[Recorder], reader: Reader) -> None:
    for recorder in traces:
        judge = judged(recorder, reader)
        judge.kill_everywhere(ascending=True)
        assert not judge.violations, judge.violations[:5]
        assert judge.kills > 0.9 * len(recorder.trace)


def test_nor_does_a_kill_if_a_long_store_goes_in_any_order(traces: list[Recorder], reader: Reader) -> None:
    """No memcpy promises an order."""
    for recorder in traces:
        judge = judged(recorder, reader)
        judge.kill_everywhere(ascending=False)
        assert not judge.violations, judge.violations[:5]


def test_a_kill_at_any_step_loses_nothing_that_was_claimed(base: Path, reader: Reader) -> None:
    judge = judged(recorded(killed_twice, base, seed=3), reader)
    judge.kill_everywhere(ascending=True)
    assert not judge.losses, judge.losses[:5]


def test_the_real_code_believes_of_the_real_files_what_the_model_says(traces: list[Recorder], reader: Reader) -> None:
    """A share of the cuts, put on the file system: `Target.prepare` raises nothing and claims just the same."""
    looks = 0
    for recorder in traces:
        judge = judged(recorder, reader, seed=1)
        at_the_end = recorder.names()
        for number, _ in enumerate(judge.steps()):
            if number % 3:
                continue
            left = judge.disk.cut(judge.random, in_order=number % 2 == 0)
            claims, part = judge.believed(left, NEXT_BOOT)
            rebuild(recorder, judge.disk, left, data=False)
            # Within a recorder, so that files that are removed are kept for the next cut.
            with boot(NEXT_BOOT), Recorder(recorder.folder, recorder.side, stores=False):
                if NAME in left.names:
                    with pytest.raises(ExistsError):
                        look(recorder.folder / NAME)
                else:
                    assert (look(recorder.folder / NAME) or []) == claims, (number, left.names)
                    assert set(recorder.names()) == {PART, JOURNAL} if part else JOURNAL not in recorder.names()
            looks += 1
        alive = judge.disk.alive()
        rebuild(recorder, judge.disk, alive, data=False)
        assert recorder.names() == at_the_end
    assert looks >= 2000


def test_the_next_run_ends_with_the_right_file_and_may_be_cut_as_well(traces: list[Recorder], reader: Reader) -> None:
    """A few cuts, put on the file system byte by byte; the run that follows is recorded, completed, and cut everywhere."""
    runs = 0
    for recorder in traces:
        judge = judged(recorder, reader, seed=2)
        tag = '"new"' if recorder.folder.name.startswith(with_another_content.__name__) else '"1"'
        for number, _ in enumerate(judge.steps()):
            left = judge.disk.cut(judge.random, in_order=True)
            if number % EACH or NAME in left.names:
                continue
            held = rebuild(recorder, judge.disk, left, data=True)
            with boot(NEXT_BOOT), Recorder(recorder.folder, recorder.side, stores=False) as next_run:
                following = Judge(next_run, reader, next_boot=LAST_BOOT)
                for name, inode in left.names.items():
                    data = judge.disk.files[inode].content
                    next_run.adopt(recorder.folder / name, data or b"")
                    following.disk.adopt(
                        name, inode, left.sizes[inode], content=data, held=merge(held.get(inode, []), SIZE),
                        image=b"".join(left.journals.get(inode, ())),
                    )  # fmt: skip
                found = look(recorder.folder / NAME)
                old = found is not None and judge.disk.files[judge.believed(left, NEXT_BOOT)[1]].content is OTHER
                run = Run(next_run, DATA, judge.random, tag=tag, gather=65536, anew=old)
                turns(run, 3)
                run.checkpoint()
                run.receive_all()
                run.finish()
            assert first_difference((recorder.folder / NAME).read_bytes(), DATA) is None
            assert list(next_run.names()) == [NAME]
            following.cut_everywhere(3)
            assert not following.violations, following.violations[:5]
            runs += 1
    assert runs >= 40
