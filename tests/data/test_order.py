"""The order of an epoch as a formula: a permutation, uniform, without structure, for any size."""

from __future__ import annotations

import math
import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shufflenet_fn.data.schedule import samples_at
from shufflenet_fn_backends.support.errors import UsageError

from .conftest import Array

FROZEN = [7, 3, 6, 2, 0, 9, 4, 5, 1, 8]
FROZEN_FAR = [559430258599, 413575138099, 940483156198]
SIGMAS = 4.5  # seeds are fixed, so a bound either always or never holds


def order(seed: int, epoch: int, n: int) -> Array:
    return samples_at(np.arange(n), seed=seed, epoch=epoch, n=n)


def sigmas(counts: Array) -> float:
    """How far the chi-square of ``counts`` against equal ones is from its mean."""
    expected = counts.mean()
    freedom = counts.size - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    return float((chi_square - freedom) / math.sqrt(2 * freedom))


def test_every_size_to_400_is_a_permutation() -> None:
    for n in range(401):
        assert sorted(order(5, n, n).tolist()) == list(range(n))


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(401, 5000))
def test_larger_sizes_are_permutations(seed: int, epoch: int, n: int) -> None:
    found = order(seed, epoch, n)
    assert found.dtype == np.int64
    assert np.bincount(found, minlength=n).max() == 1 == np.bincount(found, minlength=n).min()


@given(st.integers(2, 2**40), st.integers(0, 2**20))
def test_huge_sets_give_distinct_samples_in_range(n: int, epoch: int) -> None:
    places = np.unique(np.linspace(0, n - 1, min(n, 500)).astype(np.int64))
    found = samples_at(places, seed=1, epoch=epoch, n=n)
    assert found.min() >= 0
    assert found.max() < n
    assert len(set(found.tolist())) == len(places)


def test_a_part_is_what_the_whole_has_there() -> None:
    whole = order(3, 1, 1000)
    places = np.array([[7, 999], [0, 500]])
    np.testing.assert_array_equal(samples_at(places, seed=3, epoch=1, n=1000), whole[places])


def test_orders_are_frozen() -> None:
    """A resumed run of an older version must see the same order: these values may never change."""
    assert order(7, 2, 10).tolist() == FROZEN
    far = samples_at(np.array([0, 1, 2**40 - 1]), seed=7, epoch=2, n=2**40)
    assert far.tolist() == FROZEN_FAR


@pytest.mark.parametrize("n", [2, 3, 5, 7, 16, 17])
def test_every_sample_is_equally_likely_at_every_position(n: int) -> None:
    counts = np.zeros((n, n))
    for epoch in range(2000):
        counts[np.arange(n), order(1, epoch, n)] += 1
    # Rows and columns of a permutation matrix add to one, which leaves (n-1)^2 degrees of freedom.
    freedom = (n - 1) ** 2
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(chi_square - freedom) < SIGMAS * math.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_every_order_of_a_tiny_set_is_equally_likely(n: int) -> None:
    counts = dict.fromkeys(permutations(range(n)), 0)
    for epoch in range(4000):
        counts[tuple(order(2, epoch, n).tolist())] += 1
    assert abs(sigmas(np.array([*counts.values()]))) < SIGMAS


def test_neighbours_are_not_kept_together() -> None:
    """The distance of two samples that follow each other is that of two drawn at random."""
    n = 100_000
    steps = np.diff(order(4, 0, n)) % n
    assert abs(sigmas(np.bincount(steps * 100 // n, minlength=100))) < SIGMAS


def test_a_batch_is_spread_over_a_sorted_set() -> None:
    """Of a set sorted by class, each batch has all parts in proportion."""
    n, batch = 1_281_167, 1024
    for start in (0, 640_000, n - batch):
        found = samples_at(np.arange(start, start + batch), seed=0, epoch=3, n=n)
        assert abs(sigmas(np.bincount(found * 16 // n, minlength=16))) < SIGMAS


@pytest.mark.parametrize("other", [(0, 1), (0, 2), (1, 0), (2**63, 0)])
def test_epochs_and_seeds_are_uncorrelated(other: tuple[int, int]) -> None:
    n = 20_000
    one, two = order(0, 0, n), order(*other, n)
    assert abs(np.corrcoef(one, two)[0, 1]) < SIGMAS / math.sqrt(n)
    # Of two independent permutations, the number of fixed points is Poisson(1).
    assert (one == two).sum() < 10
    assert abs(sigmas(np.bincount((one - two) % n * 100 // n, minlength=100))) < SIGMAS


def test_memory_does_not_grow_with_the_set() -> None:
    tracemalloc.start()
    samples_at(np.arange(256), seed=0, epoch=0, n=2**40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("n", [-1, 2**62 + 1])
def test_size_out_of_range(n: int) -> None:
    with pytest.raises(UsageError, match=rf"from 0 to 2\*\*62 samples, got {n}"):
        samples_at(np.arange(1), seed=0, epoch=0, n=n)


def test_seed_out_of_range() -> None:
    with pytest.raises(UsageError, match=r"seed must be .* got -1"):
        samples_at(np.arange(1), seed=-1, epoch=0, n=4)
