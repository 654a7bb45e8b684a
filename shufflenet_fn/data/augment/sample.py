"""What happens to a sample after crop, jitter and flip: a policy's operations, then random erasing.

Random erasing (Zhong et al. 2017, arXiv:1708.04896) has torchvision's parameters, and works on uint8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.augment.policies import Policy, apply_operations
from shufflenet_fn.data.decode import RgbImage
from shufflenet_fn.data.device_ops import IMAGENET_MEAN
from shufflenet_fn.data.lazy_image import Box
from shufflenet_fn.data.randomness import ERASING, POLICY, sample_rng
from shufflenet_fn_backends.support.errors import UsageError

ERASING_TRIES = 10
ERASING_DRAWS = 2 * ERASING_TRIES + 3

_SCALE = (0.02, 0.33)
_RATIO = (0.3, 3.3)


@dataclass(frozen=True)
class RandomErasing:
    """Fills a rectangle with the mean pixel.

    torchvision erases after normalisation, with 0. The mean pixel rounded to uint8 is within 0.01
    of that once it is normalised.

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
        """Erase in place with the given probability. Takes exactly ERASING_DRAWS uniform numbers.

        Args:
          image: uint8 (H, W, 3).
          rng: the sample's generator for this operation.
        """
        draws = rng.random(ERASING_DRAWS)
        if draws[0] >= self.probability:
            return
        box = erasing_box(image.shape[0], image.shape[1], draws[1:])
        if box is not None:
            rows = slice(box.top, box.top + box.height)
            image[rows, box.left : box.left + box.width] = mean_pixel()


def mean_pixel() -> npt.NDArray[np.uint8]:
    """Return the mean pixel, which normalisation takes to 0: uint8 (3,)."""
    return np.array([round(255 * mean) for mean in IMAGENET_MEAN], dtype=np.uint8)


def erasing_box(height: int, width: int, draws: npt.NDArray[np.float64]) -> Box | None:
    """Draw a box of 2 % to 33 % of the area with a height / width of 0.3 to 3.3; None if no try fits.

    Args:
      height, width: of the image.
      draws: uniform numbers in [0, 1): (area, aspect) of each try, then top and left.
    """
    log_low, log_high = math.log(_RATIO[0]), math.log(_RATIO[1])
    for attempt in range(ERASING_TRIES):
        share, aspect_draw = draws[2 * attempt], draws[2 * attempt + 1]
        area = height * width * (_SCALE[0] + share * (_SCALE[1] - _SCALE[0]))
        aspect = math.exp(log_low + aspect_draw * (log_high - log_low))
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
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
        """Augment in place.

        Args:
          image: uint8 (H, W, 3).
          seed, epoch, index, repeat: of the draws, as ``sample_rng``.
        """
        if self.policy is not None:
            rng = sample_rng(seed, epoch, index, domain=POLICY, repeat=repeat)
            apply_operations(image, self.policy(rng, image.shape[0], image.shape[1]))
        if self.erasing is not None:
            self.erasing(image, sample_rng(seed, epoch, index, domain=ERASING, repeat=repeat))
