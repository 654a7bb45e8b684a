"""Transforms of a decoded image: crop, jitter and flip for training, resize and crop for evaluation.

Both are pure functions of a uint8 (H, W, 3) image and, for training, of the generator's draws. All draws are
made at once, and each operation has its own, so switching one off does not change the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data import geometry
from shufflenet_fn.data.decode import LazyImage, RgbImage, Scratch, as_lazy_image
from shufflenet_fn_backends.support.errors import UsageError

JITTER_DRAWS = 4
_ORDERS = ("bcs", "bsc", "cbs", "csb", "sbc", "scb")


def color_jitter(image: RgbImage, strength: float, draws: npt.NDArray[np.float64]) -> None:
    """Apply brightness, contrast and saturation jitter in random order, in place.

    Args:
      image: C-contiguous uint8 (H, W, 3).
      strength: factors are uniform in [max(0, 1 - strength), 1 + strength].
      draws: JITTER_DRAWS uniform numbers in [0, 1): the order, then the three factors.
    """
    low = max(0.0, 1.0 - strength)
    factors = dict(zip("bcs", (low + draws[1:] * (1.0 + strength - low)).tolist(), strict=True))
    for operation in _ORDERS[int(draws[0] * len(_ORDERS))]:
        adjust(image, operation, factors[operation])


def adjust(image: RgbImage, operation: str, factor: float) -> None:
    """Blend with black (``b``), the mean grey level (``c``) or the grey image (``s``), in place."""
    import cv2

    if operation == "b":
        cv2.addWeighted(image, factor, image, 0.0, 0.0, dst=image)
        return
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if operation == "c":
        mean = int(cv2.mean(grey)[0] + 0.5)
        cv2.addWeighted(image, factor, image, 0.0, (1.0 - factor) * mean, dst=image)
    else:
        greys = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        cv2.addWeighted(image, factor, greys, 1.0 - factor, 0.0, dst=image)


TRAIN_DRAWS = geometry.CROP_DRAWS + JITTER_DRAWS + 1
"""Number of uniform draws per training sample: for the crop, the jitter and the flip."""


@dataclass(frozen=True)
class TrainTransform:
    """Random-resized crop, colour jitter and horizontal flip.

    Attributes:
      size: side of the square result.
      scale: range of the crop's share of the image's area.
      ratio: range of the crop's width / height.
      jitter: strength of brightness, contrast and saturation jitter; 0 is off.
      flip: probability of a horizontal flip; 0 is off.

    Raises:
      UsageError: on construction, naming the field, its value and what is allowed.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 0.2
    flip: float = 0.5

    def __post_init__(self) -> None:
        _check(self.size >= 1, "size", self.size, "an integer of at least 1 pixel")
        low, high = self.scale
        _check(0 < low <= high <= 1, "scale", self.scale, "(low, high) with 0 < low <= high <= 1")
        low, high = self.ratio
        _check(0 < low <= high < math.inf, "ratio", self.ratio, "(low, high) with 0 < low <= high")
        _check(0 <= self.jitter < math.inf, "jitter", self.jitter, "a number of at least 0 (0 is off)")
        _check(0 <= self.flip <= 1, "flip", self.flip, "a probability from 0 (off) to 1")

    def __call__(
        self,
        image: RgbImage | LazyImage,
        rng: np.random.Generator,
        *,
        out: RgbImage | None = None,
        scratch: Scratch | None = None,
    ) -> RgbImage:
        """Return the augmented image, uint8 (size, size, 3).

        Args:
          image: uint8 (H, W, 3), not modified, or a lazy image that is decoded as far as is needed.
          rng: generator for this sample; exactly TRAIN_DRAWS uniform numbers are taken from it.
          out: C-contiguous uint8 (size, size, 3) to fill, or None for a new array.
          scratch: this thread's memory, to use again.
        """
        import cv2

        draws = rng.random(TRAIN_DRAWS)
        picture = as_lazy_image(image)
        box = geometry.random_resized_crop_box(
            picture.height,
            picture.width,
            scale=self.scale,
            ratio=self.ratio,
            draws=draws[: geometry.CROP_DRAWS],
        )
        pixels, extent = picture.region(box, self.size, self.size)
        result = geometry.resize(pixels, self.size, self.size, extent=extent, out=out, scratch=scratch)
        self.colours(result, draws)
        if draws[-1] < self.flip:
            cv2.flip(result, 1, dst=result)
        return result

    def colours(self, image: RgbImage, draws: npt.NDArray[np.float64]) -> None:
        """Apply the jitter alone to a C-contiguous image, in place; ``draws`` are all of the sample's."""
        if self.jitter > 0:
            color_jitter(image, self.jitter, draws[geometry.CROP_DRAWS : -1])


@dataclass(frozen=True)
class EvalTransform:
    """Resizes the short side to ``resize`` and takes the central square of ``size``.

    The whole image is resized, not only the crop, because the crop's edges may lie between source pixels.

    Attributes:
      resize: length of the short side after resizing.
      size: side of the square result, at most ``resize``.

    Raises:
      UsageError: on construction, naming the field, its value and what is allowed.
    """

    resize: int = 256
    size: int = 224

    def __post_init__(self) -> None:
        _check(self.size >= 1, "size", self.size, "an integer of at least 1 pixel")
        _check(self.resize >= self.size, "resize", self.resize, f"at least size, {self.size}")

    def __call__(
        self, image: RgbImage | LazyImage, *, out: RgbImage | None = None, scratch: Scratch | None = None
    ) -> RgbImage:
        """Return the resized and cropped image. Args and result as ``TrainTransform``."""
        picture = as_lazy_image(image)
        part = geometry.middle(picture.height, picture.width)
        height, width = geometry.resized_shape(part.height, part.width, self.resize)
        pixels, extent = picture.region(part, height, width)
        if pixels.shape[:2] != (height, width):
            resized = (scratch or Scratch()).array("resized", (height, width, 3))
            pixels = geometry.resize(pixels, height, width, extent=extent, out=resized, scratch=scratch)
        box = geometry.centre_box(height, width, self.size)
        return geometry.resize(geometry.crop(pixels, box), self.size, self.size, out=out)


def _check(valid: bool, field: str, value: object, allowed: str) -> None:
    if not valid:
        raise UsageError(f"transform: {field} is {value}, but must be {allowed}.")
