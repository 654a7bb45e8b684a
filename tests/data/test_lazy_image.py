"""Decoding only as much as the crop needs: which reduction, which pixels, and how far from Pillow's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from shufflenet_fn.data.dataset import Encoded
from shufflenet_fn.data.decode import decode_rgb, open_image
from shufflenet_fn.data.geometry import centre_box, crop, resize, resized_shape
from shufflenet_fn.data.lazy_image import Box, LazyImage, Scratch, as_lazy_image
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform

from .conftest import Array, encoded

Draw = Callable[..., Array]
SIZE = 32


def jpeg(image: Array) -> bytes:
    return encoded(Image.fromarray(image), "JPEG", quality=92)


def asked_for(height: int, width: int, box: Box, size: int) -> int:
    """The reduction at which ``LazyImage.region`` decodes."""
    asked = []

    def decode(reduction: int) -> Array:
        asked.append(reduction)
        return np.zeros((-(-height // reduction), -(-width // reduction), 3), dtype=np.uint8)

    region, extent = LazyImage(height, width, decode, (1, 2, 4, 8)).region(box, size, size)
    assert (extent is None) == (asked == [1])
    assert region.shape[:2] == (-(-box.height // asked[0]), -(-box.width // asked[0]))
    return asked[0]


@pytest.mark.parametrize(
    ("side", "reduction"), [(40, 1), (127, 1), (128, 2), (255, 2), (256, 4), (511, 4), (512, 8), (5000, 8)]
)
def test_reduction_keeps_two_pixels_for_each_result(side: int, reduction: int) -> None:
    assert asked_for(6000, 6000, Box(500, 500, side, side), SIZE) == reduction
    assert asked_for(6000, 6000, Box(500, 500, side, 5500), SIZE) == reduction
    assert asked_for(6000, 6000, Box(500, 500, 40, side), SIZE) == 1


def test_an_image_that_is_there_is_not_copied(picture: Draw) -> None:
    image = picture(300, 400)
    region = as_lazy_image(image).region(Box(5, 6, 280, 290), SIZE, SIZE)
    assert np.shares_memory(region.pixels, image)
    assert region.extent is None


@pytest.mark.parametrize("shape", [(300, 420), (413, 391)])
def test_a_reduced_crop_is_close_to_pillows(picture: Draw, shape: tuple[int, int]) -> None:
    """To Pillow's antialiased resize of the crop that begins at the nearest multiples."""
    data = jpeg(picture(*shape, seed=3))
    whole = decode_rgb(data, path="x")
    opened = open_image(Encoded(data), name="x", scratch=Scratch())
    for box in (Box(0, 0, 280, 290), Box(13, 7, 151, 140), Box(3, 90, 262, 261)):
        reduction = 4 if min(box.height, box.width) >= 8 * SIZE else 2
        top, left = (round(side / reduction) * reduction for side in (box.top, box.left))
        nearest = whole[top : top + box.height, left : left + box.width]
        theirs = Image.fromarray(nearest).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        pixels, extent = opened.region(box, SIZE, SIZE)
        gap = abs(resize(pixels, SIZE, SIZE, extent=extent).astype(int) - np.asarray(theirs))
        assert gap.mean() < 1
        assert np.percentile(gap, 99) <= 4


@pytest.mark.parametrize("shape", [(481, 403), (403, 481), (300, 300), (531, 399), (130, 129)])
def test_evaluation_of_large_jpegs_is_close_to_pillow(picture: Draw, shape: tuple[int, int]) -> None:
    """Sizes that are no multiple of the reduction, too: the last decoded pixel is then half empty."""
    data = jpeg(picture(*shape, seed=5))
    whole = Image.fromarray(decode_rgb(data, path="x"))
    height, width = resized_shape(*shape, SIZE)
    box = centre_box(height, width, SIZE)
    theirs = np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    gap = abs(EvalTransform(SIZE, SIZE)(open_image(Encoded(data), name="x")) - crop(theirs, box))
    assert gap.mean() < 1
    assert np.percentile(gap, 99) <= 6


@pytest.mark.parametrize("shape", [(40, 60), (300, 400)])
def test_without_reduction_transforms_equal_those_of_pixels(picture: Draw, shape: tuple[int, int]) -> None:
    data, scratch, size = jpeg(picture(*shape)), Scratch(), 200
    pixels = decode_rgb(data, path="x")
    for transform in (TrainTransform(size), EvalTransform(size, size)):
        rng = [(sample_rng(0, 0, 3),) if isinstance(transform, TrainTransform) else () for _ in "ab"]
        opened = open_image(Encoded(data), name="x", scratch=scratch)
        ours = transform(opened, *rng[0], scratch=scratch)  # type: ignore[operator]
        np.testing.assert_array_equal(ours, transform(pixels, *rng[1]))  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1)])
def test_a_strip_is_evaluated_without_gigabytes(shape: tuple[int, int]) -> None:
    assert EvalTransform(256, 224)(np.full((*shape, 3), 9, dtype=np.uint8)).mean() == 9
