"""When a checkpoint is due, and when the disk is too far behind."""

from __future__ import annotations

from fastidm.core.checkpoints import BYTES, PAUSE, SECONDS, UNSYNCED_MOST, Checkpoints

MEMORY = 1 << 40


def test_one_is_due_each_second_if_there_is_anything_new() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    assert not checkpoints.due(0, 10.0)
    assert not checkpoints.due(1, SECONDS / 2)
    assert checkpoints.due(1, SECONDS)
    checkpoints.begun(1, SECONDS)
    assert not checkpoints.due(1, 9.0)
    assert not checkpoints.due(2, SECONDS * 1.5)
    assert checkpoints.due(2, SECONDS * 2)


def test_many_bytes_make_it_sooner_but_not_at_once() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    assert not checkpoints.due(BYTES, PAUSE / 2)
    assert checkpoints.due(BYTES, PAUSE)


def test_what_was_there_before_is_nothing_new() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    checkpoints.start(5000)
    assert not checkpoints.due(5000, 10.0)
    assert checkpoints.due(5001, 10.0)


def test_claims_that_are_given_up_are_no_reason_to_wait_for_their_return() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    checkpoints.start(5000)
    assert not checkpoints.due(100, 10.0)
    assert checkpoints.due(101, 10.0)


def test_the_disk_is_behind_until_a_checkpoint_is_done() -> None:
    checkpoints = Checkpoints(MEMORY, 0.0)
    checkpoints.due(UNSYNCED_MOST, 0.1)
    assert not checkpoints.behind
    assert checkpoints.due(UNSYNCED_MOST + 1, 0.1), "it does not wait for its second"
    assert checkpoints.behind
    checkpoints.begun(UNSYNCED_MOST + 1, 0.1)
    checkpoints.due(UNSYNCED_MOST + 2, 0.2)
    assert checkpoints.behind, "begun is not done"
    checkpoints.done(UNSYNCED_MOST + 1)
    checkpoints.due(UNSYNCED_MOST + 2, 0.3)
    assert not checkpoints.behind


def test_a_small_machine_lets_less_wait() -> None:
    checkpoints = Checkpoints(1 << 20, 0.0)
    checkpoints.due(1 << 16, 0.1)
    assert not checkpoints.behind
    checkpoints.due((1 << 16) + 1, 0.1)
    assert checkpoints.behind
