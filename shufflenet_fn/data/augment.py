"""What happens to a sample after crop, jitter and flip: a policy's operations, then random erasing.

The policies are TrivialAugment-wide and RandAugment, drawn as torchvision does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shufflenet_fn.data.decode import Box, RgbImage
from shufflenet_fn.data.device_ops import IMAGENET_MEAN
from shufflenet_fn.data.geometry import BOX_TRIES, crop, random_sides
from shufflenet_fn.data.randomness import ERASING, POLICY, sample_rng
from shufflenet_fn_backends.support.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

BINS = 31
"""Steps from the weakest to the strongest magnitude."""

ERASING_DRAWS = 2 * BOX_TRIES + 3
_ERASED_SCALE = (0.02, 0.33)
_ERASED_RATIO = (0.3, 3.3)


class Magnitudes(NamedTuple):
    """Magnitudes that an operation takes.

    Attributes:
      table: ``table(height, width)`` is the BINS magnitudes for an image of this size.
      signed: the magnitude is negated in half of the draws.
    """

    table: Callable[[int, int], tuple[float, ...]]
    signed: bool


Space = dict[str, Magnitudes | None]
"""Magnitudes by name of the operation; None if it has no magnitude."""


@functools.cache  # it is looked up for every image
def trivial_wide_space() -> Space:
    """Return TrivialAugment's "wide" space (Müller and Hutter 2021)."""
    return _space(shear=0.99, rotate=135.0, enhance=0.99, lost_bits=6, shift=lambda side: 32.0)


@functools.cache
def rand_space() -> Space:
    """Return RandAugment's space (Cubuk et al. 2019) with torchvision's magnitudes."""
    return _space(shear=0.3, rotate=30.0, enhance=0.9, lost_bits=4, shift=lambda side: 150.0 / 331.0 * side)


def _space(
    *, shear: float, rotate: float, enhance: float, lost_bits: int, shift: Callable[[int], float]
) -> Space:
    """Return a space; ``shift`` maps the length of a side to the longest translation along it, in pixels."""
    return {
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


def _up_to(high: float) -> Magnitudes:
    return Magnitudes(lambda height, width: _linear(0.0, high), signed=True)


@functools.lru_cache(maxsize=64)  # translations depend on the image's size
def _linear(low: float, high: float) -> tuple[float, ...]:
    # Uses torch's own linspace: if a magnitude is truncated to an integer or compared with a level, its last
    # float32 bit decides.
    values: list[float] = torch.linspace(low, high, BINS).tolist()
    return tuple(values)


def _bits(lost: int) -> tuple[float, ...]:
    """Return numbers of bits from 8 down to ``8 - lost``."""
    return tuple(float(round(8 - number * lost / (BINS - 1))) for number in range(BINS))


class Operation(NamedTuple):
    """An operation, by the name that torchvision gives it, with its magnitude."""

    name: str
    magnitude: float


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
      num_ops: number of operations, at least 1. An operation may be drawn twice.
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


def _operation(space: Space, which: float, level: int, sign: float, height: int, width: int) -> Operation:
    """Return the operation of ``space`` that the uniform numbers ``which`` and ``sign`` choose."""
    name = list(space)[int(which * len(space))]
    magnitudes = space[name]
    if magnitudes is None:
        return Operation(name, 0.0)
    magnitude = magnitudes.table(height, width)[level]
    return Operation(name, -magnitude if magnitudes.signed and sign < 0.5 else magnitude)


Policy = TrivialAugmentWide | RandAugment


def apply_operations(image: RgbImage, operations: Sequence[Operation]) -> None:
    """Apply ``operations`` one after the other to a uint8 (H, W, 3) image, in place.

    Done by Pillow as torchvision does them to PIL images, so pixels are the same (nearest neighbour, black
    where nothing is left). torchvision itself is only the oracle of the tests: it cannot be imported beside a
    CPU build of torch on x86-64, which is what torch_npu needs there.
    """
    from PIL import Image

    effective = [operation for operation in operations if operation.name != "Identity"]
    if not effective:
        return
    picture = Image.fromarray(image)
    for name, magnitude in effective:
        picture = pillow_operations()[name](picture, magnitude)
    np.copyto(image, np.asarray(picture))


@functools.cache
def pillow_operations() -> dict[str, Callable[[Image.Image, float], Image.Image]]:
    """Return the operations by name, without Identity. Each takes an image and a magnitude."""
    from PIL import Image, ImageEnhance, ImageOps

    def affine(image: Image.Image, *matrix: float) -> Image.Image:
        """Transform by ``matrix``, which maps (x, y) of the result to (x, y) of ``image``, row by row."""
        method, nearest = Image.Transform.AFFINE, Image.Resampling.NEAREST
        return image.transform(image.size, method, matrix, nearest, fillcolor=(0, 0, 0))

    return {
        "ShearX": lambda image, m: affine(image, 1.0, m, 0.0, 0.0, 1.0, 0.0),
        "ShearY": lambda image, m: affine(image, 1.0, 0.0, 0.0, m, 1.0, 0.0),
        "TranslateX": lambda image, m: affine(image, 1.0, 0.0, -int(m), 0.0, 1.0, 0.0),
        "TranslateY": lambda image, m: affine(image, 1.0, 0.0, 0.0, 0.0, 1.0, -int(m)),
        # In degrees, counter-clockwise about the centre.
        "Rotate": lambda image, m: image.rotate(m, fillcolor=(0, 0, 0)),
        "Brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(1.0 + m),
        "Color": lambda image, m: ImageEnhance.Color(image).enhance(1.0 + m),
        "Contrast": lambda image, m: ImageEnhance.Contrast(image).enhance(1.0 + m),
        "Sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(1.0 + m),
        "Posterize": lambda image, m: ImageOps.posterize(image, int(m)),
        # Levels are compared with it, so the fraction counts although Pillow's annotation says int.
        "Solarize": lambda image, m: ImageOps.solarize(image, 255.0 * m),
        "AutoContrast": lambda image, m: ImageOps.autocontrast(image),
        "Equalize": lambda image, m: ImageOps.equalize(image),
    }


@dataclass(frozen=True)
class RandomErasing:
    """Fills a rectangle with the mean pixel (Zhong et al. 2017, arXiv:1708.04896).

    The rectangle has torchvision's distribution. torchvision erases after normalisation, with 0. The mean
    pixel rounded to uint8 is within 0.01 of that once it is normalised.

    Attributes:
      probability: share of the images that are erased, in (0, 1].

    Raises:
      UsageError: on construction, naming the field, its value and what is allowed.
    """

    probability: float

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise UsageError(
                f"random erasing: probability is {self.probability}, but must be above 0 and at most 1."
            )

    def __call__(self, image: RgbImage, rng: np.random.Generator) -> None:
        """Erase part of a uint8 (H, W, 3) image in place. Takes exactly ERASING_DRAWS uniform numbers."""
        draws = rng.random(ERASING_DRAWS)
        if draws[0] >= self.probability:
            return
        box = erasing_box(image.shape[0], image.shape[1], draws[1:])
        if box is not None:
            crop(image, box)[:] = mean_pixel()


def mean_pixel() -> npt.NDArray[np.uint8]:
    """Return the mean pixel, which normalisation takes to 0: uint8 (3,)."""
    return np.array([round(255 * mean) for mean in IMAGENET_MEAN], dtype=np.uint8)


def erasing_box(height: int, width: int, draws: npt.NDArray[np.float64]) -> Box | None:
    """Draw a box of 2 % to 33 % of the area with a height / width of 0.3 to 3.3; None if no try fits.

    ``draws`` are uniform in [0, 1): (area, aspect) of each try, then top and left.
    """
    for box_height, box_width in random_sides(height * width, _ERASED_SCALE, _ERASED_RATIO, draws[:-2]):
        if box_height < height and box_width < width:
            top = int(draws[-2] * (height - box_height + 1))
            left = int(draws[-1] * (width - box_width + 1))
            return Box(top, left, box_height, box_width)
    return None


@dataclass(frozen=True)
class SampleAugmentation:
    """Applies a policy's operations, then random erasing. Each is off if None."""

    policy: Policy | None = None
    erasing: RandomErasing | None = None

    def __call__(self, image: RgbImage, *, seed: int, epoch: int, index: int, repeat: int = 0) -> None:
        """Augment a uint8 (H, W, 3) image in place, with the draws of ``sample_rng``."""
        if self.policy is not None:
            rng = sample_rng(seed, epoch, index, domain=POLICY, repeat=repeat)
            apply_operations(image, self.policy(rng, image.shape[0], image.shape[1]))
        if self.erasing is not None:
            self.erasing(image, sample_rng(seed, epoch, index, domain=ERASING, repeat=repeat))
