"""Counter-based randomness: every draw is a pure function of (seed, epoch, sample index).

Philox4x64 maps a 128-bit key and a 256-bit counter to 256 random bits. Layout, in 64-bit words:

    key     = (seed, 0)
    counter = (block, index, epoch, domain)

``block`` is the word that the generator itself advances, one per four 64-bit draws; ``domain`` is
0 for a sample's augmentation and 1 for an epoch's permutation. Two different (seed, epoch, index)
differ in the key or in a counter word that the generator never reaches, so their streams share no
block. Nothing has to be saved for a resume, and nothing depends on the number of threads or ranks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shufflenet_fn_backends.errors import UsageError

SEED_LIMIT = 2**64
_SAMPLE = 0
_PERMUTATION = 1


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator for the augmentation of sample ``index`` in ``epoch``.

    Raises:
      UsageError: ``seed`` is negative or not below 2**64.
    """
    return np.random.Generator(_philox(seed, epoch, index, _SAMPLE))


def epoch_permutation(seed: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """The order in which ``epoch`` visits ``n`` samples: an int64 permutation of shape (n,).

    Made by sorting raw 64-bit draws: numpy guarantees those for all versions, which it does not for
    ``Generator.permutation``, and a resumed run must see the same order.

    Raises:
      UsageError: ``seed`` is negative or not below 2**64.
    """
    draws = _philox(seed, epoch, 0, _PERMUTATION).random_raw(n)
    return np.argsort(draws, kind="stable").astype(np.int64, copy=False)


def _philox(seed: int, epoch: int, index: int, domain: int) -> np.random.Philox:
    if not 0 <= seed < SEED_LIMIT:
        raise UsageError(f"seed must be an integer from 0 to 2**64 - 1, got {seed}.")
    key = np.array([seed, 0], dtype=np.uint64)
    counter = np.array([0, index, epoch, domain], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter)
