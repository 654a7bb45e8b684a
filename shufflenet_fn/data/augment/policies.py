"""Which operations an image gets: TrivialAugment-wide and RandAugment, as torchvision draws them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
import torch

from shufflenet_fn.data.augment.operations import Operation
from shufflenet_fn_backends.support.errors import UsageError

BINS = 31
"""Steps from the weakest to the strongest magnitude."""


class Magnitudes(NamedTuple):
    """Magnitudes that an operation takes.

    Attributes:
      table: ``table(height, width)`` is the BINS magnitudes for an image of this size.
      signed: the magnitude is negated in half of the draws.
    """

    table: Callable[[int, int], tuple[float, ...]]
    signed: bool


Space = Mapping[str, Magnitudes | None]
"""By the name of an operation; None where it has no magnitude."""


@functools.cache  # it is looked up for every image
def trivial_wide_space() -> Space:
    """Return TrivialAugment's "wide" space (Müller and Hutter 2021)."""
    return _space(shear=0.99, rotate=135.0, enhance=0.99, lost_bits=6, shift=lambda side: 32.0)


@functools.cache
def rand_space() -> Space:
    """Return RandAugment's space (Cubuk et al. 2019) with torchvision's magnitudes."""
    return _space(
        shear=0.3, rotate=30.0, enhance=0.9, lost_bits=4, shift=lambda side: 150.0 / 331.0 * side
    )


def _space(
    *,
    shear: float,
    rotate: float,
    enhance: float,
    lost_bits: int,
    shift: Callable[[int], float],
) -> Space:
    """Return a space; ``shift`` maps the length of a side to the longest translation along it, in pixels."""
    space: Space = {
        "Identity": None,
        "ShearX": _up_to(shear),
        "ShearY": _up_to(shear),
        "TranslateX": Magnitudes(lambda height, width: _linear(0.0, shift(width)), signed=True),
        "TranslateY": Magnitudes(lambda height, width: _linear(0.0, shift(height)), signed=True),
        "Rotate": _up_to(rotate),
        "Brightness": _up_to(enhance),
        "Color": _up_to(enhance),
        "Contrast": _up_to(enhance),
        "Sharpness": _up_to(enhance),
        "Posterize": Magnitudes(lambda height, width: _bits(lost_bits), signed=False),
        "Solarize": Magnitudes(lambda height, width: _linear(1.0, 0.0), signed=False),
        "AutoContrast": None,
        "Equalize": None,
    }
    return MappingProxyType(space)


def _up_to(high: float) -> Magnitudes:
    return Magnitudes(lambda height, width: _linear(0.0, high), signed=True)


@functools.lru_cache(maxsize=64)  # translations depend on the image's size
def _linear(low: float, high: float) -> tuple[float, ...]:
    # By torch's own linspace: where a magnitude is cut to an integer or compared with a level, its
    # last float32 bit decides.
    values: list[float] = torch.linspace(low, high, BINS).tolist()
    return tuple(values)


def _bits(lost: int) -> tuple[float, ...]:
    """Return numbers of bits from 8 down to ``8 - lost``."""
    return tuple(float(round(8 - number * lost / (BINS - 1))) for number in range(BINS))


class Policy(Protocol):
    """Draws the operations on an image of this size from a sample's generator."""

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> list[Operation]: ...


@dataclass(frozen=True)
class TrivialAugmentWide:
    """One operation of the wide space at a magnitude, both uniformly drawn (arXiv:2103.10158)."""

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> list[Operation]:
        """Draw one operation. Takes exactly 3 uniform numbers from ``rng``."""
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
        """Draw ``num_ops`` operations. Takes exactly ``2 * num_ops`` uniform numbers from ``rng``."""
        space = rand_space()
        return [
            _operation(space, which, self.magnitude, sign, height, width)
            for which, sign in rng.random((self.num_ops, 2)).tolist()
        ]


def _operation(
    space: Space, which: float, level: int, sign: float, height: int, width: int
) -> Operation:
    """Return the operation that two uniform numbers choose.

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
