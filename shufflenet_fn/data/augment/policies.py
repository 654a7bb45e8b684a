"""Which operations an image gets: TrivialAugment-wide and RandAugment, as torchvision draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shufflenet_fn.data.augment.operations import Operation
from shufflenet_fn.data.augment.spaces import BINS, Space, rand_space, trivial_wide_space
from shufflenet_fn_backends.support.errors import UsageError


class Policy(Protocol):
    """From a sample's generator to the operations on an image of this size."""

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> list[Operation]: ...


@dataclass(frozen=True)
class TrivialAugmentWide:
    """One operation of the wide space at a magnitude, both uniformly drawn (arXiv:2103.10158)."""

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> list[Operation]:
        """One operation; exactly 3 uniform numbers are taken from ``rng``."""
        which, strength, sign = rng.random(3).tolist()
        level = int(strength * BINS)
        return [_operation(trivial_wide_space(), which, level, sign, height, width)]


@dataclass(frozen=True)
class RandAugment:
    """Operations one after the other, all at one level of magnitude (arXiv:1909.13719).

    Attributes:
      num_ops: how many, at least 1. An operation may be drawn twice.
      magnitude: their level, 0 to 30.

    Raises:
      UsageError: on construction, naming the field, its value and what is allowed.
    """

    num_ops: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.num_ops < 1:
            raise UsageError(f"RandAugment: num_ops is {self.num_ops}, but must be at least 1.")
        if not 0 <= self.magnitude < BINS:
            raise UsageError(
                f"RandAugment: magnitude is {self.magnitude}, but must be a level from 0 to {BINS - 1}."
            )

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> list[Operation]:
        """``num_ops`` operations; exactly ``2 * num_ops`` uniform numbers are taken from ``rng``."""
        space = rand_space()
        return [
            _operation(space, which, self.magnitude, sign, height, width)
            for which, sign in rng.random((self.num_ops, 2)).tolist()
        ]


def _operation(
    space: Space, which: float, level: int, sign: float, height: int, width: int
) -> Operation:
    """The operation that two uniform numbers choose.

    Args:
      which: picks one of ``space``.
      level: of the magnitude, 0 to BINS - 1.
      sign: negates a signed magnitude if it is below 0.5.
      height, width: of the image.
    """
    name = list(space)[int(which * len(space))]
    magnitudes = space[name]
    if magnitudes is None:
        return Operation(name, 0.0)
    magnitude = magnitudes.table(height, width)[level]
    return Operation(name, -magnitude if magnitudes.signed and sign < 0.5 else magnitude)
