"""Every target for a moment with hypothesis: the seeds, their mutations, and bytes out of nothing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import SEEDS
from tests.fuzz.targets import TARGETS

EXAMPLES = 150
"""Of each target; `make fuzz` makes millions."""


def mutations(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Seeds of which pieces are replaced, left out or said twice, and seeds joined."""

    def mutate(seed: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
        for at, length, piece in cuts:
            at %= len(seed) + 1
            seed = seed[:at] + piece + seed[at + length :]
        return seed[:12_000]

    piece = st.one_of(st.binary(max_size=6), st.sampled_from(seeds))
    cut = st.tuples(st.integers(0, 5000), st.integers(0, 40), piece)
    return st.builds(mutate, st.sampled_from(seeds), st.lists(cut, max_size=4))


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_keeps_its_promises_whatever_it_is_given(name: str) -> None:
    target, seeds = TARGETS[name], list(SEEDS[name])
    for seed in (*seeds, b""):
        target(seed)

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.one_of(mutations(seeds), mutations(seeds), st.binary(max_size=200)))
    def fuzz(data: bytes) -> None:
        target(data)

    fuzz()


def test_every_target_has_seeds() -> None:
    assert set(SEEDS) == set(TARGETS)
    assert all(list(seeds) for seeds in SEEDS.values())
