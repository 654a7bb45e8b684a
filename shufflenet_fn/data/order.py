"""The order in which an epoch visits its samples, computed for the positions asked for.

A keyed permutation of {0, ..., n-1} as a formula: nothing is stored or sorted, whatever ``n`` is. It is the
generalised Feistel cipher of Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002),
section 5: a number below a·b, with a = ⌈√n⌉ and b = ⌈n / a⌉, is written as a pair of digits of Z_a and Z_b,
and each round adds to one digit a keyed function of the other, which is a bijection of the pairs whatever the
function. Luby and Rackoff (1988) showed that with large digits four rounds of random functions look like a
random permutation; tiny ones mix less, so there are 16, with which even the orders of 5 samples are equally
likely. What falls on n or above goes through again until it does not ("cycle walking", section 4 there): that
is again a permutation, and rare, since a·b - n < a.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.randomness import order_keys
from shufflenet_fn_backends.support.errors import UsageError

Words = npt.NDArray[np.uint64]

ROUNDS = 16
LARGEST = 2**62


def samples_at(
    positions: npt.NDArray[np.int64], *, seed: int, epoch: int, n: int
) -> npt.NDArray[np.int64]:
    """The samples at ``positions`` of the order of ``epoch``.

    Args:
      positions: int64, any shape, each in [0, n).
      seed: 0 <= seed < 2**64.
      epoch: its number, from 0.
      n: number of samples, at most 2**62.

    Returns:
      int64 of the shape of ``positions``; over all positions a permutation of 0 to n-1.

    Raises:
      UsageError: ``seed`` or ``n`` is out of range.
    """
    if not 0 <= n <= LARGEST:
        raise UsageError(f"a data set must have from 0 to 2**62 samples, got {n}.")
    keys = order_keys(seed, epoch, 2 * ROUNDS).reshape(ROUNDS, 2)
    left, right = _digits(n)
    found = _feistel(positions.astype(np.uint64).reshape(-1), left, right, keys)
    outside = np.flatnonzero(found >= np.uint64(n))
    while outside.size:
        found[outside] = _feistel(found[outside], left, right, keys)
        outside = outside[found[outside] >= np.uint64(n)]
    return found.astype(np.int64).reshape(positions.shape)


def _digits(n: int) -> tuple[int, int]:
    """a and b with a·b >= n, as near each other and to n as they can be."""
    left = max(1, math.isqrt(max(0, n - 1)) + 1)
    return left, max(1, -(-n // left))


def _feistel(numbers: Words, left: int, right: int, keys: Words) -> Words:
    """A bijection of [0, left * right)."""
    a, b = np.uint64(left), np.uint64(right)
    low, high = numbers % a, numbers // a
    for key in keys:
        # In turn the one digit and the other: after an even number of rounds each is in its place again.
        low, high = high, (low + _mixed(high, key) % a) % a
        a, b = b, a
    return low + high * np.uint64(left)


def _mixed(digits: Words, key: Words) -> Words:
    """64 bits that depend on each bit of ``digits`` and of the two words of ``key``."""
    return _finalised(_finalised(digits ^ key[0]) + key[1])


def _finalised(words: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, variant 13 of Stafford's)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
