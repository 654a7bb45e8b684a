"""Reads a damaged image file as the loader does: the result must be a named error, or the correct pixels.

The correct pixels are those that libjpeg-turbo decodes from the whole file without a warning (for other
formats: Pillow without an error), cropped and resized as in the loader. They are decoded separately here,
into fresh memory and at full size, so that neither reused memory nor reduced decoding can hide damage.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.dataset import Encoded
from shufflenet_fn.data.decode import LazyImage, RgbImage, Scratch, open_image
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform

ERROR, PIXELS = "named error", "right pixels"

TRAIN = TrainTransform(48, jitter=0.0)
EVAL = EvalTransform(56, 48)


class Wrong(Exception):
    """The outcome is not one of the allowed ones."""


def outcome_of(data: bytes, number: int, scratch: Scratch) -> str:
    """Return ``ERROR`` or ``PIXELS``. ``number`` seeds the crop. Raises ``Wrong``."""
    name = f"mutation {number}"
    try:
        ours = views_of(open_image(Encoded(data), name=name, scratch=scratch), number, scratch)
    except BadImage as error:
        if error.name != name or not error.reason:
            raise Wrong(f"the error does not name the file: {error}") from error
        return ERROR
    except Exception as error:
        raise Wrong(f"{type(error).__name__}: {error}") from error
    try:
        expected = views_of(_oracle(data), number, None)
    except Exception as error:
        raise Wrong(f"pixels, but the reference has none: {error}") from error
    if not np.array_equal(ours, expected):
        raise Wrong(f"other pixels, by up to {np.abs(ours.astype(int) - expected).max()}")
    return PIXELS


def views_of(picture: LazyImage, number: int, scratch: Scratch | None) -> RgbImage:
    """Return both views of an image, (2, 48, 48, 3): a training crop and the evaluation crop."""
    views = np.zeros((2, 48, 48, 3), dtype=np.uint8)
    TRAIN(picture, sample_rng(0, 0, number), out=views[0], scratch=scratch)
    EVAL(picture, out=views[1], scratch=scratch)
    return views


def _oracle(data: bytes) -> LazyImage:
    if data[:3] != b"\xff\xd8\xff":
        return _from_pillow(data)
    import simplejpeg

    if simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK"):
        simplejpeg.decode_jpeg(data, colorspace="CMYK", strict=True)
        return _from_pillow(data)
    return whole_jpeg(data, strict=True)


def whole_jpeg(data: bytes, *, strict: bool) -> LazyImage:
    """Return a JPEG as libjpeg-turbo decodes it completely. ``strict``: a warning raises ``ValueError``."""
    import simplejpeg

    height, width = simplejpeg.decode_jpeg_header(data)[:2]
    whole = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=strict)

    def decode(reduction: int) -> RgbImage:
        if reduction == 1:
            return np.array(whole)
        least: dict[str, Any] = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
        smaller = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=strict, **least)
        return np.array(smaller)

    return LazyImage(height, width, decode, (1, 2, 4, 8))


def _from_pillow(data: bytes) -> LazyImage:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as image:
            # A palette may have transparency: convert to RGBA first, as the loader does.
            through = image.convert("RGBA") if image.mode == "P" else image
            pixels = np.array(through.convert("RGB"))
    return LazyImage(pixels.shape[0], pixels.shape[1], lambda reduction: pixels)
