"""Counter-based randomness: every draw is a pure function of (seed, epoch, sample index).

Philox4x64 maps a 128-bit key and a 256-bit counter to 256 random bits. Layout, in 64-bit words:

    key     = (seed, repeat)
    counter = (block, index, epoch, domain)

``block`` is the word that the generator itself advances, one per four 64-bit draws; ``repeat``
numbers the showings of a sample within an epoch; ``domain`` says what the draws are for:

    SAMPLE       0  crop, jitter and flip of a sample
    ORDER        1  the order of an epoch
    POLICY       2  TrivialAugment or RandAugment of a sample
    ERASING      3  random erasing of a sample
    MIXING       4  mixup and cutmix of a step, whose number stands in ``index``
    REPLACEMENT  5  which sample takes the place of a bad one

Two streams that differ in any of these differ in the key or in a counter word that the generator
never reaches, so they share no block. Nothing has to be saved for a resume, and nothing depends on
the number of threads or ranks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shufflenet_fn_backends.support.errors import UsageError

SAMPLE, ORDER, POLICY, ERASING, MIXING, REPLACEMENT = range(6)


def sample_rng(
    seed: int, epoch: int, index: int, *, domain: int = SAMPLE, repeat: int = 0
) -> np.random.Generator:
    """Return the generator of sample ``index`` in ``epoch`` for the draws that ``domain`` names.

    Args:
      seed: of the run, 0 <= seed < 2**64.
      epoch, index: which sample in which epoch.
      domain: what the draws are for, so that each operation has its own draws, independent of which others
        are on.
      repeat: number of this repetition of the sample within the epoch, from 0.

    Raises:
      UsageError: ``seed`` is out of range.
    """
    return np.random.Generator(_philox(seed, epoch, index, domain, repeat))


def order_keys(seed: int, epoch: int, count: int) -> npt.NDArray[np.uint64]:
    """Return the keys of the order of ``epoch``: uint64 (count,). Raises as ``sample_rng``.

    Raw draws, which numpy guarantees for all versions: a resumed run must see the same order.
    """
    keys: npt.NDArray[np.uint64] = _philox(seed, epoch, 0, ORDER).random_raw(count)
    return keys


def _philox(seed: int, epoch: int, index: int, domain: int, repeat: int = 0) -> np.random.Philox:
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed must be an integer from 0 to 2**64 - 1, got {seed}.")
    key = np.array([seed, repeat], dtype=np.uint64)
    counter = np.array([0, index, epoch, domain], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter)
