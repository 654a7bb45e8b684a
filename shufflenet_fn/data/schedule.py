"""Which samples a step reads: a pure function of (seed, step), cut by rank.

The global order is one sequence over all epochs. It does not depend on how many ranks or threads
read it, so the state of the training loader is the number of the next step and nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.order import samples_at
from shufflenet_fn_backends.support.errors import UsageError


class StepSamples(NamedTuple):
    """The samples one rank reads in one step.

    ``epoch``: theirs. ``indices``: int64 (N,). ``repeats``: int64 (N,), which of a sample's showings in this
    epoch each is, from 0.
    """

    epoch: int
    indices: npt.NDArray[np.int64]
    repeats: npt.NDArray[np.int64]


class StepSchedule:
    """The samples of any step for one rank. Has no state: call it from any number of threads.

    With repeated augmentation (Hoffer et al. 2020), position q of an epoch shows sample q // repeats of its
    order for the (q % repeats)-th time, so that an epoch has as many steps and fewer different samples.
    """

    def __init__(
        self,
        *,
        seed: int,
        n: int,
        global_batch: int,
        rank: int,
        world_size: int,
        repeats: int = 1,
    ) -> None:
        """Args and ``UsageError`` as ``train_loader``; ``n`` is the number of samples."""
        check_rank(rank, world_size)
        if repeats < 1:
            raise UsageError(f"repeats must be at least 1, got {repeats}; 1 shows a sample once.")
        self.steps_per_epoch = steps_per_epoch(n, global_batch)
        self.batch_size = rank_batch_size(global_batch, world_size)
        self._seed, self._n, self._repeats = seed, n, repeats
        self._global_batch, self._rank = global_batch, rank
        self(0)  # a bad seed is the caller's error, not a thread's

    def __call__(self, step: int) -> StepSamples:
        """The samples of ``step``, counted from 0 over all epochs."""
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
    """Full batches in ``n`` samples; the rest is left out of the epoch.

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
    """Samples per rank and step. Raises ``UsageError`` if the batch does not divide evenly."""
    per_rank, rest = divmod(global_batch, world_size)
    if rest == 0 and per_rank > 0:
        return per_rank
    nearest = [size for size in (per_rank * world_size, (per_rank + 1) * world_size) if size > 0]
    raise UsageError(
        f"a global batch of {global_batch} does not divide by {world_size} devices. Pass "
        f"--batch-size {' or '.join(map(str, nearest))}, or another number of devices."
    )


def eval_share(n: int, rank: int, world_size: int) -> range:
    """The contiguous share of ``n`` samples that ``rank`` evaluates.

    Shares of all ranks are disjoint, cover every sample and differ in length by at most one; with
    ``n < world_size`` some are empty.

    Raises:
      UsageError: ``rank`` is not in [0, world_size).
    """
    check_rank(rank, world_size)
    return range(rank * n // world_size, (rank + 1) * n // world_size)


def check_rank(rank: int, world_size: int) -> None:
    """Raise ``UsageError`` unless ``0 <= rank < world_size``."""
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} is not among the {world_size} ranks 0 to {world_size - 1}.")
