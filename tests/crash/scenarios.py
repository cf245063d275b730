"""What is recorded and crashed: downloads that run through, are stopped, killed, resumed, hit by a failing disk, begun anew.

Rules of this module: a scenario is a function of a recorder, and always does the same with the same random numbers.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from fastidm.errors import StorageError
from fastidm.storage.partfile import SMALL
from tests.crash.driver import NAME, Run
from tests.crash.judge import BOOT, Judge, Reader, boot
from tests.crash.recorder import Killed, Recorder
from tests.support.content import content

SIZE = SMALL + 260_001
DATA, OTHER = content(SIZE, seed=5), content(SIZE, seed=6)

def turns(run: Run, count: int) -> None:
    for _ in range(count):
        run.receive()
        if run.random.random() < 0.3:
            run.split()
        run.melt()


def checkpoints(run: Run) -> None:
    """For ever."""
    while True:
        turns(run, 1)
        run.checkpoint(meanwhile=1)


def without_a_break(recorder: Recorder, random: Random) -> None:
    run = Run(recorder, DATA, random)
    for _ in range(5):
        turns(run, 4)
        run.checkpoint()
    run.receive_all()
    run.finish()


def stopped_twice(recorder: Recorder, random: Random) -> None:
    for _ in range(2):
        run = Run(recorder, DATA, random)
        turns(run, 6)
        run.checkpoint()
        turns(run, 2)
        run.stop()
    run = Run(recorder, DATA, random)
    run.receive_all()
    run.checkpoint()
    run.finish()


def killed_twice(recorder: Recorder, random: Random) -> None:
    """The second run is killed before its first checkpoint, so that the newest claims are in the live page alone."""
    run = Run(recorder, DATA, random)
    turns(run, 5)
    run.checkpoint()
    run.checkpoint()
    turns(run, 3)
    run.die()
    run = Run(recorder, DATA, random)
    turns(run, 4)
    run.die()
    run = Run(recorder, DATA, random)
    turns(run, 2)
    run.checkpoint()
    run.checkpoint()
    run.receive_all()
    run.finish()


def killed_in_each_sync(recorder: Recorder, random: Random) -> None:
    """One run after the other dies in the first sync, the second, and so on: of the data, the journal, the folder."""
    for syncs in range(10):
        run = Run(recorder, DATA, random)
        recorder.syncs_to_live = syncs
        with pytest.raises(Killed):
            checkpoints(run)
        run.die()
    run = Run(recorder, DATA, random)
    run.receive_all()
    recorder.syncs_to_live = 0
    with pytest.raises(Killed):
        run.finish()
    run.die()
    run = Run(recorder, DATA, random)
    run.finish()


def with_a_failing_disk(recorder: Recorder, random: Random) -> None:
    run = Run(recorder, DATA, random)
    turns(run, 5)
    run.checkpoint()
    turns(run, 4)
    recorder.failures = 1
    with pytest.raises(StorageError):
        run.checkpoint()
    with pytest.raises(StorageError):  # once lost, lost for ever
        run.checkpoint()
    run.stop()
    run = Run(recorder, DATA, random)
    turns(run, 3)
    run.checkpoint()
    run.receive_all()
    run.finish()


def with_a_head_start(recorder: Recorder, random: Random) -> None:
    """The disk begins early, which promises nothing; in the end it tells of an error by that."""
    run = Run(recorder, DATA, random)
    for _ in range(3):
        turns(run, 3)
        run.hand_down()
        turns(run, 1)
        run.checkpoint()
        run.hand_down()
    turns(run, 3)
    recorder.early_failures = 1
    with pytest.raises(StorageError):
        run.hand_down()
    for step in (run.hand_down, run.checkpoint):
        with pytest.raises(StorageError):
            step()
    run.stop()
    run = Run(recorder, DATA, random)
    run.receive_all()
    run.hand_down()
    run.finish()


def with_sinks_that_tell_the_disk(recorder: Recorder, random: Random) -> None:
    """As above; the error comes to a sink."""
    run = Run(recorder, DATA, random)
    for _ in range(3):
        turns(run, 3)
        assert run.hand_down_now() == 0
        run.checkpoint()
    turns(run, 3)
    recorder.early_failures = 1
    assert run.hand_down_now() == errno.EIO
    turns(run, 2)  # other sinks go on until they are told
    assert run.hand_down_now() == errno.EIO
    with pytest.raises(StorageError):
        run.checkpoint()
    run.stop()
    run = Run(recorder, DATA, random)
    run.receive_all()
    run.finish()


def with_another_content(recorder: Recorder, random: Random) -> None:
    run = Run(recorder, OTHER, random, tag='"old"')
    turns(run, 5)
    run.checkpoint()
    run.stop()
    run = Run(recorder, DATA, random, tag='"new"', anew=True)
    turns(run, 5)
    run.checkpoint()
    run.receive_all()
    run.finish()


def over_an_older_file(recorder: Recorder, random: Random) -> None:
    run = Run(recorder, DATA, random, overwrite=True)
    turns(run, 5)
    run.checkpoint()
    run.receive_all()
    run.finish()


def of_a_small_file(recorder: Recorder, random: Random) -> None:
    """It has no journal."""
    Run(recorder, DATA[:SMALL], random).stop()
    run = Run(recorder, DATA[:SMALL], random)
    run.receive_all()
    run.finish()


Scenario = Callable[[Recorder, Random], None]
SCENARIOS: tuple[Scenario, ...] = (
    without_a_break, stopped_twice, killed_twice, killed_in_each_sync, with_a_failing_disk, with_a_head_start,
    with_sinks_that_tell_the_disk,
    with_another_content, over_an_older_file, of_a_small_file,
)  # fmt: skip


def recorded(scenario: Scenario, base: Path, seed: int = 1) -> Recorder:
    """A trace of `scenario`, in folders of its own."""
    folder, side = base / f"{scenario.__name__}-{seed}", base / f"{scenario.__name__}-{seed}-side"
    folder.mkdir()
    side.mkdir()
    with boot(BOOT), Recorder(folder, side) as recorder:
        if scenario is over_an_older_file:
            (folder / NAME).write_bytes(OTHER)
            recorder.adopt(folder / NAME, OTHER)
        scenario(recorder, Random(seed))
    return recorder


def judged(recorder: Recorder, reader: Reader, seed: int = 0) -> Judge:
    """A judge at the beginning of the trace."""
    judge = Judge(recorder, reader, seed)
    for inode, data in recorder.contents.items():
        if data is OTHER and recorder.folder.name.startswith("over_an_older_file"):
            judge.disk.adopt(NAME, inode, SIZE, content=data, held=[(0, SIZE)], image=b"")
    return judge
