"""Counter-based randomness: reproducible, never shared between samples, uniform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shufflenet_fn.data.randomness import (
    ERASING,
    MIXING,
    PERMUTATION,
    POLICY,
    SAMPLE,
    epoch_permutation,
    sample_rng,
)
from shufflenet_fn_backends.errors import UsageError

SEEDS = st.integers(0, 2**64 - 1)
COUNTS = st.integers(0, 2**40)
FROZEN_PERMUTATION = [4, 6, 5, 0, 1, 3, 9, 2, 8, 7]
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
        for domain in (SAMPLE, PERMUTATION, POLICY, ERASING, MIXING)
        for repeat in (0, 1, 2)
    ]
    assert len(set(np.concatenate(streams).tolist())) == 1024 * len(streams)


def test_permutation_and_samples_are_independent() -> None:
    raw = sample_rng(3, 5, 0).bit_generator.random_raw(64)
    assert np.argsort(raw, kind="stable").tolist() != epoch_permutation(3, 5, 64).tolist()


def test_first_draws_are_frozen() -> None:
    """A resumed run of an older version must see the same order: these values may never change."""
    assert epoch_permutation(7, 2, 10).tolist() == FROZEN_PERMUTATION
    assert sample_rng(7, 2, 5).random(2).tolist() == FROZEN_DRAWS


@settings(max_examples=30)
@given(SEEDS, COUNTS, st.integers(0, 300))
def test_permutation_visits_every_sample(seed: int, epoch: int, n: int) -> None:
    order = epoch_permutation(seed, epoch, n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_permutation(s, e, 50).tolist()) for s in range(4) for e in range(4)}
    assert len(orders) == 16


def test_every_position_is_equally_likely() -> None:
    firsts = [int(epoch_permutation(0, epoch, 5)[0]) for epoch in range(2000)]
    counts = np.bincount(firsts, minlength=5)
    assert abs(counts - 400).max() < 80


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(UsageError, match=rf"seed must be .* 0 to 2\*\*64 - 1, got {seed}"):
        sample_rng(seed, 0, 0)
    with pytest.raises(UsageError, match="seed"):
        epoch_permutation(seed, 0, 3)
