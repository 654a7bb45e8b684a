"""The operations that a policy draws from, and how strong each may be: torchvision's tables."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

BINS = 31
"""Steps from the weakest to the strongest magnitude."""


class Magnitudes(NamedTuple):
    """What an operation may be given.

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
    """TrivialAugment's "wide" space (Müller and Hutter 2021)."""
    return _space(shear=0.99, rotate=135.0, enhance=0.99, lost_bits=6, shift=lambda side: 32.0)


@functools.cache
def rand_space() -> Space:
    """RandAugment's space (Cubuk et al. 2019) with torchvision's magnitudes."""
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
    """``shift``: the longest translation, in pixels, along a side of that many."""
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
    """From all 8 bits down to ``8 - lost``."""
    return tuple(float(round(8 - number * lost / (BINS - 1))) for number in range(BINS))
