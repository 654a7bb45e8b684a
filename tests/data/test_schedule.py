"""Which samples a step reads, as arithmetic."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shufflenet_fn.data.schedule import (
    StepSchedule,
    eval_share,
    rank_batch_size,
    samples_at,
    steps_per_epoch,
)
from shufflenet_fn_backends.support.errors import UsageError


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


def test_an_epoch_visits_no_sample_twice() -> None:
    steps = StepSchedule(seed=0, n=23, global_batch=4, rank=0, world_size=1)
    assert steps.steps_per_epoch == 5
    for epoch in range(3):
        seen = np.concatenate([steps(5 * epoch + k).indices for k in range(5)])
        assert len(set(seen.tolist())) == 20


def read_epoch(step: int, *, world_size: int, repeats: int) -> list[tuple[int, int]]:
    """(sample, repeat) at every position of a global batch of 12 from 50 samples."""
    parts = [
        StepSchedule(
            seed=4, n=50, global_batch=12, rank=rank, world_size=world_size, repeats=repeats
        )(step)
        for rank in range(world_size)
    ]
    return [
        pair
        for part in parts
        for pair in zip(part.indices.tolist(), part.repeats.tolist(), strict=True)
    ]


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


def test_an_epoch_of_repeats_has_fewer_samples_and_no_showing_twice() -> None:
    shown = [pair for step in range(4) for pair in read_epoch(step, world_size=1, repeats=3)]
    assert len(set(shown)) == 48
    assert len({sample for sample, _ in shown}) == 16


def test_repeats_out_of_range() -> None:
    with pytest.raises(UsageError, match="repeats must be at least 1, got 0"):
        StepSchedule(seed=0, n=8, global_batch=4, rank=0, world_size=1, repeats=0)


@given(st.integers(0, 400), st.integers(1, 40))
def test_eval_shares_cover_every_sample_once(n: int, world_size: int) -> None:
    shares = [eval_share(n, rank, world_size) for rank in range(world_size)]
    assert [index for share in shares for index in share] == list(range(n))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_steps_per_epoch() -> None:
    assert steps_per_epoch(10, 3) == 3
    assert steps_per_epoch(3, 3) == 1


def test_batch_larger_than_the_set() -> None:
    with pytest.raises(UsageError, match=r"has 10 images, fewer than .* of 16\. .*at most 10"):
        steps_per_epoch(10, 16)


def test_batch_not_positive() -> None:
    with pytest.raises(UsageError, match="batch size must be at least 1, got 0"):
        steps_per_epoch(10, 0)


@pytest.mark.parametrize(
    ("batch", "world_size", "nearest"), [(10, 4, "8 or 12"), (3, 8, "8"), (257, 8, "256 or 264")]
)
def test_batch_that_does_not_divide(batch: int, world_size: int, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        rank_batch_size(batch, world_size)
    assert str(caught.value) == (
        f"a global batch of {batch} does not divide by {world_size} devices. Pass --batch-size "
        f"{nearest}, or another number of devices."
    )


@pytest.mark.parametrize("rank", [-1, 2])
def test_rank_out_of_range(rank: int) -> None:
    with pytest.raises(UsageError, match=f"rank {rank} is not among the 2 ranks 0 to 1"):
        eval_share(10, rank, 2)
    with pytest.raises(UsageError, match=f"rank {rank} is not among"):
        StepSchedule(seed=0, n=8, global_batch=4, rank=rank, world_size=2)
