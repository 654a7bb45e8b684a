"""mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of a batch of uint8 images.

Every position of the global batch is mixed with its neighbour, 0 with 1, 2 with 3 and so on. Each
rank holds both of a pair if its batch is even, so the number of ranks changes nothing. Images are
mixed on the host: a batch of cut rectangles is exact, and a mean rounded to uint8, as in timm's
``FastCollateMixup``, is within half a level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.decode import Box
from shufflenet_fn.data.geometry import crop
from shufflenet_fn.data.randomness import MIXING, sample_rng
from shufflenet_fn_backends.support.errors import UsageError


class Blend(NamedTuple):
    """How the images of one step are mixed.

    Attributes:
      weight: weight of an image's own label, in [0, 1]; its partner's label has the rest.
      box: the rectangle to exchange, or None for the weighted mean of the pixels.
    """

    weight: float
    box: Box | None


@dataclass(frozen=True)
class Mixing:
    """mixup, cutmix, or either with equal probability in each step.

    Attributes:
      mixup: alpha of its Beta(alpha, alpha); 0 is off.
      cutmix: alpha of its Beta(alpha, alpha); 0 is off.

    Raises:
      UsageError: on construction, if an alpha is negative or both are 0.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not 0 <= alpha < math.inf:
                raise UsageError(f"mixing: {name} is {alpha}, but must be a number of at least 0 (0 is off).")
        if self.mixup == self.cutmix == 0:
            raise UsageError("mixing: mixup and cutmix are both 0, so there is nothing to mix.")

    def draw(self, *, seed: int, step: int, height: int, width: int) -> Blend:
        """Draw how ``step`` mixes images of this size: one weight for the whole global batch."""
        rng = sample_rng(seed, 0, step, domain=MIXING)
        which, top, left = rng.random(3).tolist()
        cuts = self.cutmix > 0 and (self.mixup == 0 or which < 0.5)
        if not cuts:
            return Blend(float(rng.beta(self.mixup, self.mixup)), None)
        weight = float(rng.beta(self.cutmix, self.cutmix))
        box = cut_box(height, width, weight, (int(top * height), int(left * width)))
        return Blend(1.0 - box.height * box.width / (height * width), box)


def cut_box(height: int, width: int, weight: float, centre: tuple[int, int]) -> Box:
    """Return torchvision's rectangle of a share ``1 - weight`` about ``centre``, (y, x), clipped."""
    half = 0.5 * math.sqrt(1.0 - weight)
    top, bottom = _clipped(centre[0], int(half * height), height)
    left, right = _clipped(centre[1], int(half * width), width)
    return Box(top, left, bottom - top, right - left)


def _clipped(centre: int, half: int, side: int) -> tuple[int, int]:
    return max(0, centre - half), min(side, centre + half)


def mix_images(images: npt.NDArray[np.uint8], blend: Blend) -> None:
    """Mix the neighbours of a batch, C-contiguous uint8 (N, H, W, 3) with N even, in place."""
    import cv2

    for one, other in zip(images[0::2], images[1::2], strict=True):
        if blend.box is not None:
            one, other = crop(one, blend.box), crop(other, blend.box)
            kept = one.copy()
            one[:] = other
            other[:] = kept
        else:
            kept = one.copy()
            cv2.addWeighted(one, blend.weight, other, 1.0 - blend.weight, 0.0, dst=one)
            cv2.addWeighted(other, blend.weight, kept, 1.0 - blend.weight, 0.0, dst=other)


def check_pairs(batch_size: int, world_size: int) -> None:
    """Raise ``UsageError`` unless each of ``world_size`` ranks holds whole pairs of a global batch."""
    if batch_size % (2 * world_size):
        lower = batch_size // (2 * world_size) * 2 * world_size
        sizes = [str(size) for size in (lower, lower + 2 * world_size) if size > 0]
        raise UsageError(
            f"--mixup and --cutmix mix the images of a batch in pairs, and a batch of {batch_size} over "
            f"{world_size} devices leaves one without a partner. Pass --batch-size "
            f"{' or '.join(sizes)}, or switch them off."
        )
