"""Brightness, contrast and saturation as torchvision's ``ColorJitter`` has them, in place on uint8.

Each blends the image with another one, ``factor * image + (1 - factor) * other``, clipped to
0..255: black (brightness), the mean of the grey image (contrast) or the grey image (saturation).
Grey is ITU-R 601 luma. Results are rounded where Pillow truncates, so they differ by at most one
level.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.decode import RgbImage

JITTER_DRAWS = 4
_ORDERS = ("bcs", "bsc", "cbs", "csb", "sbc", "scb")


def color_jitter(image: RgbImage, strength: float, draws: npt.NDArray[np.float64]) -> None:
    """Apply the three in random order, in place.

    Args:
      image: C-contiguous uint8 (H, W, 3).
      strength: factors are uniform in [max(0, 1 - strength), 1 + strength].
      draws: JITTER_DRAWS uniform numbers in [0, 1): the order, then the three factors.
    """
    low = max(0.0, 1.0 - strength)
    brightness, contrast, saturation = (low + draws[1:] * (1.0 + strength - low)).tolist()
    for name in _ORDERS[int(draws[0] * len(_ORDERS))]:
        if name == "b":
            adjust_brightness(image, brightness)
        elif name == "c":
            adjust_contrast(image, contrast)
        else:
            adjust_saturation(image, saturation)


def adjust_brightness(image: RgbImage, factor: float) -> None:
    """Blend with black, in place."""
    import cv2

    cv2.addWeighted(image, factor, image, 0.0, 0.0, dst=image)


def adjust_contrast(image: RgbImage, factor: float) -> None:
    """Blend with the rounded mean of the grey image, in place."""
    import cv2

    grey_mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    cv2.addWeighted(image, factor, image, 0.0, (1.0 - factor) * grey_mean, dst=image)


def adjust_saturation(image: RgbImage, factor: float) -> None:
    """Blend with the grey image, in place."""
    import cv2

    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    cv2.addWeighted(image, factor, grey, 1.0 - factor, 0.0, dst=image)
