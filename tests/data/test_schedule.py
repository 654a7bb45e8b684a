"""Which samples a step reads, as arithmetic, and the counter-based randomness behind it."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
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
from shufflenet_fn.data.schedule import StepSchedule, eval_share, rank_batch_size, samples_at, steps_per_epoch
from shufflenet_fn_backends.support.errors import UsageError

from .conftest import Array


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 4), st.integers(0, 500))
def test_ranks_cut_one_sequence(extra: int, per_rank: int, world_size: int, step: int) -> None:
    batch = per_rank * world_size
    n = batch + extra
    parts = [
        StepSchedule(seed=3, n=n, global_batch=batch, rank=rank, world_size=world_size)(step)
        for rank in range(world_size)
    ]
    epoch, position = divmod(step, n // batch)
    assert {part.epoch for part in parts} == {epoch}
    places = np.arange(position * batch, (position + 1) * batch)
    expected = samples_at(places, seed=3, epoch=epoch, n=n)
    np.testing.assert_array_equal(np.concatenate([part.indices for part in parts]), expected)


def read_epoch(step: int, *, world_size: int, repeats: int) -> list[tuple[int, int]]:
    """(sample, repeat) at every position of a global batch of 12 from 50 samples."""
    parts = [
        StepSchedule(seed=4, n=50, global_batch=12, rank=rank, world_size=world_size, repeats=repeats)(step)
        for rank in range(world_size)
    ]
    return [pair for part in parts for pair in zip(part.indices.tolist(), part.repeats.tolist(), strict=True)]


@pytest.mark.parametrize("repeats", [1, 2, 3, 5])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_repeats_are_one_sequence_cut_by_ranks(world_size: int, repeats: int) -> None:
    for step in range(9):
        epoch, number = divmod(step, 4)
        shown = read_epoch(step, world_size=world_size, repeats=repeats)
        places = np.arange(12 * number, 12 * (number + 1))
        samples = samples_at(places // repeats, seed=4, epoch=epoch, n=50).tolist()
        assert sorted(shown) == sorted(zip(samples, (places % repeats).tolist(), strict=True))
        assert shown == read_epoch(step, world_size=1, repeats=repeats)


@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_neighbours_are_different_samples(repeats: int) -> None:
    for step in range(8):
        shown = [sample for sample, _ in read_epoch(step, world_size=1, repeats=repeats)]
        assert all(one != other for one, other in itertools.pairwise(shown))


def test_repeats_show_fewer_samples_without_duplicates() -> None:
    shown = [pair for step in range(4) for pair in read_epoch(step, world_size=1, repeats=3)]
    assert len(set(shown)) == 48
    assert len({sample for sample, _ in shown}) == 16


@given(st.integers(0, 400), st.integers(1, 40))
def test_eval_shares_cover_every_sample_once(n: int, world_size: int) -> None:
    shares = [eval_share(n, rank, world_size) for rank in range(world_size)]
    assert [index for share in shares for index in share] == list(range(n))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_steps_per_epoch() -> None:
    assert steps_per_epoch(10, 3) == 3
    assert steps_per_epoch(3, 3) == 1


def schedule(**options: int) -> StepSchedule:
    return StepSchedule(**{"seed": 0, "n": 8, "global_batch": 4, "rank": 0, "world_size": 2, **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedule(repeats=0), "repeats must be at least 1, got 0"),
        (lambda: schedule(rank=-1), "rank -1 is not among the 2 ranks 0 to 1"),
        (lambda: schedule(rank=2), "rank 2 is not among the 2 ranks 0 to 1"),
        (lambda: eval_share(10, -1, 2), "rank -1 is not among the 2 ranks 0 to 1"),
        (lambda: schedule(seed=-1), r"seed must be .* 0 to 2\*\*64 - 1, got -1"),
        (lambda: sample_rng(2**64, 0, 0), r"seed must be .* 0 to 2\*\*64 - 1, got 18446744073709551616"),
        (lambda: steps_per_epoch(10, 16), r"has 10 images, fewer than .* of 16\. .*at most 10"),
        (lambda: steps_per_epoch(10, 0), "batch size must be at least 1, got 0"),
        (
            lambda: rank_batch_size(10, 4),
            "^a global batch of 10 does not divide by 4 devices. Pass --batch-size 8 or 12, or another",
        ),
        (lambda: rank_batch_size(3, 8), "Pass --batch-size 8, or another"),
    ],
)
def test_values_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


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
    for n in range(1, 401):
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


def test_partial_order_equals_slice_of_whole() -> None:
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
def test_orders_of_tiny_sets_are_equally_likely(n: int) -> None:
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


# ---- counter-based randomness ----

KEYS = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(0, 2**40))
FROZEN_KEYS = [7439742537924227365, 7649825982119630819]
FROZEN_DRAWS = [0.015694984907741794, 0.9248726817494252]


@given(KEYS, KEYS)
def test_a_stream_depends_on_its_key_alone(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    first, second = (sample_rng(*key).random(4).tolist() for key in (one, other))
    assert (first == second) == (one == other)
    assert first == sample_rng(*one).random(4).tolist()


def test_operations_and_repeats_share_no_block() -> None:
    """Nor do the long streams of neighbouring seeds, epochs and samples."""
    streams = [
        sample_rng(seed, epoch, index, domain=domain, repeat=repeat).bit_generator.random_raw(1024)
        for seed in (0, 1, 2**64 - 1)
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
