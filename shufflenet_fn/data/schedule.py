"""Which samples a step reads: a pure function of (seed, step), cut by rank.

The global order is one sequence over all epochs. It does not depend on how many ranks or threads read it, so
the state of the training loader is the number of the next step and nothing else.

The order of an epoch is a keyed permutation of {0, ..., n-1}, computed for the positions asked for:
nothing is stored or sorted, whatever ``n`` is. It is the generalised Feistel cipher of Black and Rogaway,
"Ciphers with Arbitrary Finite Domains" (CT-RSA 2002), section 5: a number below a·b, with a = ⌈√n⌉ and b
= ⌈n / a⌉, is written as a pair of digits of Z_a and Z_b, and each round adds to one digit a keyed
function of the other, which is a bijection of the pairs whatever the function. Luby and Rackoff (1988)
showed that with large digits four rounds of random functions look like a random permutation; tiny ones
mix less, so there are 16, with which even the orders of 5 samples are equally likely. A result of n or
above goes through again until it is below ("cycle walking", section 4 there): that is again a
permutation, and rare, since a·b - n < a.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.randomness import order_keys
from shufflenet_fn_backends.support.errors import UsageError


class StepSamples(NamedTuple):
    """What one rank reads in one step: samples and which showing of each, from 0; int64 (N,)."""

    epoch: int
    indices: npt.NDArray[np.int64]
    repeats: npt.NDArray[np.int64]


class StepSchedule:
    """Computes the samples of any step for one rank. Has no state: call it from any number of threads.

    With repeated augmentation (Hoffer et al. 2020), position q of an epoch shows sample q // repeats of its
    order for the (q % repeats)-th time, so that an epoch has as many steps and fewer different samples.
    """

    def __init__(
        self, *, seed: int, n: int, global_batch: int, rank: int, world_size: int, repeats: int = 1
    ) -> None:
        """Args and ``UsageError`` as ``train_loader``; ``n`` is the number of samples."""
        check_rank(rank, world_size)
        if repeats < 1:
            raise UsageError(f"repeats must be at least 1, got {repeats}; 1 shows a sample once.")
        self.steps_per_epoch = steps_per_epoch(n, global_batch)
        self.batch_size = rank_batch_size(global_batch, world_size)
        self._seed, self._n, self._repeats = seed, n, repeats
        self._global_batch, self._rank = global_batch, rank
        self(0)  # raise for a bad seed in the caller, not in a thread

    def __call__(self, step: int) -> StepSamples:
        """Return the samples of ``step``, counted from 0 over all epochs."""
        epoch, number = divmod(step, self.steps_per_epoch)
        places = np.arange(number * self._global_batch, (number + 1) * self._global_batch)
        # All first showings of a batch, then all second ones: neighbours are different samples, which
        # mixup needs, and the showings of one go to different ranks, as in torchvision's RASampler.
        places = places[np.argsort(places % self._repeats, kind="stable")]
        start = self._rank * self.batch_size
        order, repeats = np.divmod(places[start : start + self.batch_size], self._repeats)
        indices = samples_at(order, seed=self._seed, epoch=epoch, n=self._n)
        return StepSamples(epoch, indices, repeats)


def steps_per_epoch(n: int, global_batch: int) -> int:
    """Return the number of full batches in ``n`` samples; the epoch omits the rest.

    Raises:
      UsageError: ``global_batch`` is not positive or larger than ``n``.
    """
    if global_batch < 1:
        raise UsageError(f"the global batch size must be at least 1, got {global_batch}.")
    if n < global_batch:
        raise UsageError(
            f"the training set has {n} images, fewer than one global batch of {global_batch}. Pass "
            f"a smaller --batch-size, at most {n}."
        )
    return n // global_batch


def rank_batch_size(global_batch: int, world_size: int) -> int:
    """Return the number of samples per rank and step. Raises ``UsageError`` if it is not an integer."""
    per_rank, rest = divmod(global_batch, world_size)
    if rest == 0 and per_rank > 0:
        return per_rank
    nearest = [size for size in (per_rank * world_size, (per_rank + 1) * world_size) if size > 0]
    raise UsageError(
        f"a global batch of {global_batch} does not divide by {world_size} devices. Pass "
        f"--batch-size {' or '.join(map(str, nearest))}, or another number of devices."
    )


def eval_share(n: int, rank: int, world_size: int) -> range:
    """Return the contiguous share of ``n`` samples that ``rank`` evaluates. Raises as ``check_rank``.

    Shares of all ranks are disjoint, cover every sample and differ in length by at most one.
    """
    check_rank(rank, world_size)
    return range(rank * n // world_size, (rank + 1) * n // world_size)


def check_rank(rank: int, world_size: int) -> None:
    """Raise ``UsageError`` unless ``0 <= rank < world_size``."""
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} is not among the {world_size} ranks 0 to {world_size - 1}.")


Words = npt.NDArray[np.uint64]

ROUNDS = 16


def samples_at(positions: npt.NDArray[np.int64], *, seed: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """Return the samples at ``positions`` of the order of ``epoch``.

    Args:
      positions: int64, any shape, each in [0, n).
      seed: 0 <= seed < 2**64.
      epoch: its number, from 0.
      n: number of samples, from 1 to 2**62.

    Returns:
      int64 of the shape of ``positions``; over all positions a permutation of 0 to n-1.

    Raises:
      UsageError: ``seed`` is out of range.
    """
    keys = order_keys(seed, epoch, 2 * ROUNDS).reshape(ROUNDS, 2)
    # Two digits whose product is close to n and at least that.
    left = math.isqrt(n - 1) + 1
    right = -(-n // left)
    found = _feistel(positions.astype(np.uint64).reshape(-1), left, right, keys)
    outside = np.flatnonzero(found >= np.uint64(n))
    while outside.size:
        found[outside] = _feistel(found[outside], left, right, keys)
        outside = outside[found[outside] >= np.uint64(n)]
    return found.astype(np.int64).reshape(positions.shape)


def _feistel(numbers: Words, left: int, right: int, keys: Words) -> Words:
    """Apply a bijection of [0, left * right)."""
    a, b = np.uint64(left), np.uint64(right)
    low, high = numbers % a, numbers // a
    for key in keys:
        # Each round swaps the digits; after an even number of rounds they are in their original positions.
        low, high = high, (low + _mixed(high, key) % a) % a
        a, b = b, a
    return low + high * np.uint64(left)


def _mixed(digits: Words, key: Words) -> Words:
    """Return 64 bits that depend on each bit of ``digits`` and of the two words of ``key``."""
    return _finalised(_finalised(digits ^ key[0]) + key[1])


def _finalised(words: Words) -> Words:
    """Apply the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, variant 13 of Stafford's)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
