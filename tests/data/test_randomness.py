"""Counter-based randomness: reproducible, never shared between samples, uniform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shufflenet_fn.data.randomness import (
    ERASING,
    MIXING,
    ORDER,
    POLICY,
    REPLACEMENT,
    SAMPLE,
    order_keys,
    sample_rng,
)
from shufflenet_fn_backends.support.errors import UsageError

SEEDS = st.integers(0, 2**64 - 1)
COUNTS = st.integers(0, 2**40)
FROZEN_KEYS = [7439742537924227365, 7649825982119630819]
FROZEN_DRAWS = [0.015694984907741794, 0.9248726817494252]


@given(SEEDS, COUNTS, COUNTS)
def test_a_stream_depends_on_its_key_alone(seed: int, epoch: int, index: int) -> None:
    first = sample_rng(seed, epoch, index).random(5)
    sample_rng(seed, epoch, index + 1).random(3)
    assert first.tolist() == sample_rng(seed, epoch, index).random(5).tolist()


@given(st.tuples(SEEDS, COUNTS, COUNTS), st.tuples(SEEDS, COUNTS, COUNTS))
def test_different_keys_have_different_streams(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    if one != other:
        assert sample_rng(*one).random(4).tolist() != sample_rng(*other).random(4).tolist()


def test_neighbours_share_no_block() -> None:
    """Long streams of neighbouring samples, epochs and seeds have no draw in common."""
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2**64 - 1, 0, 0)]
    streams = [set(sample_rng(*key).bit_generator.random_raw(4096).tolist()) for key in keys]
    assert len(set.union(*streams)) == 4096 * len(keys)


def test_operations_and_repeats_share_no_block() -> None:
    """Nor do the long streams of one sample's operations and showings, or of its neighbours'."""
    streams = [
        sample_rng(3, epoch, index, domain=domain, repeat=repeat).bit_generator.random_raw(1024)
        for epoch in (0, 1)
        for index in (0, 1)
        for domain in (SAMPLE, ORDER, POLICY, ERASING, MIXING, REPLACEMENT)
        for repeat in (0, 1, 2)
    ]
    assert len(set(np.concatenate(streams).tolist())) == 1024 * len(streams)


def test_first_draws_are_frozen() -> None:
    """A resumed run of an older version must see the same draws: these values may never change."""
    assert sample_rng(7, 2, 5).random(2).tolist() == FROZEN_DRAWS
    assert order_keys(7, 2, 2).tolist() == FROZEN_KEYS


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(UsageError, match=rf"seed must be .* 0 to 2\*\*64 - 1, got {seed}"):
        sample_rng(seed, 0, 0)
    with pytest.raises(UsageError, match="seed"):
        order_keys(seed, 0, 3)
