"""The image operations of TrivialAugment and RandAugment, by the names that torchvision gives them.

Done by Pillow as torchvision does them to PIL images, so pixels are the same (nearest neighbour,
black where nothing is left). torchvision itself is only the oracle of the tests: it cannot be
imported beside a CPU build of torch on x86-64, which is what torch_npu needs there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shufflenet_fn.data.decode import RgbImage

if TYPE_CHECKING:
    from PIL import Image


class Operation(NamedTuple):
    """An operation with its magnitude, drawn from a space of ``shufflenet_fn.data.augment.policies``."""

    name: str
    magnitude: float


def apply_operations(image: RgbImage, operations: Sequence[Operation]) -> None:
    """Apply ``operations`` one after the other, in place.

    Args:
      image: uint8 (H, W, 3).
      operations: what to apply; with none but Identity the image is not touched.
    """
    from PIL import Image

    effective = [operation for operation in operations if operation.name != "Identity"]
    if not effective:
        return
    picture = Image.fromarray(image)
    for name, magnitude in effective:
        picture = OPERATIONS[name](picture, magnitude)
    np.copyto(image, np.asarray(picture))


def _shear_x(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, magnitude, 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, magnitude, 1.0, 0.0))


def _translate_x(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, -int(magnitude), 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, magnitude: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, -int(magnitude)))


def _affine(image: Image.Image, matrix: Sequence[float]) -> Image.Image:
    """Transform by ``matrix``, which maps (x, y) of the result to (x, y) of ``image``, row by row."""
    from PIL import Image

    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=(0, 0, 0)
    )


def _rotate(image: Image.Image, magnitude: float) -> Image.Image:
    """Rotate by ``magnitude`` degrees, counter-clockwise about the centre."""
    return image.rotate(magnitude, fillcolor=(0, 0, 0))


def _brightness(image: Image.Image, magnitude: float) -> Image.Image:
    from PIL import ImageEnhance

    return ImageEnhance.Brightness(image).enhance(1.0 + magnitude)


def _color(image: Image.Image, magnitude: float) -> Image.Image:
    from PIL import ImageEnhance

    return ImageEnhance.Color(image).enhance(1.0 + magnitude)


def _contrast(image: Image.Image, magnitude: float) -> Image.Image:
    from PIL import ImageEnhance

    return ImageEnhance.Contrast(image).enhance(1.0 + magnitude)


def _sharpness(image: Image.Image, magnitude: float) -> Image.Image:
    from PIL import ImageEnhance

    return ImageEnhance.Sharpness(image).enhance(1.0 + magnitude)


def _posterize(image: Image.Image, magnitude: float) -> Image.Image:
    """Reduce to ``magnitude`` bits."""
    from PIL import ImageOps

    return ImageOps.posterize(image, int(magnitude))


def _solarize(image: Image.Image, magnitude: float) -> Image.Image:
    """Invert levels at or above ``magnitude`` of full scale."""
    from PIL import ImageOps

    # Levels are compared with it, so the fraction counts although Pillow's annotation says int.
    threshold: float = 255.0 * magnitude
    return ImageOps.solarize(image, threshold)  # type: ignore[arg-type]


def _autocontrast(image: Image.Image, magnitude: float) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, magnitude: float) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.equalize(image)


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
}
