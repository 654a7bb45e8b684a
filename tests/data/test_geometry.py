"""Resizing: Pillow's antialiased bilinear filter, into any slot, from any memory."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from shufflenet_fn.data.dataset import Encoded
from shufflenet_fn.data.decode import (
    KEPT_BYTES,
    Box,
    LazyImage,
    Scratch,
    as_lazy_image,
    decode_rgb,
    open_image,
)
from shufflenet_fn.data.geometry import LONGEST, centre_box, crop, middle, resize, resized_shape
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform

from .conftest import Array, encoded

Picture = Callable[..., Array]


def pillow(image: Array, height: int, width: int) -> Array:
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).astype(int)


@pytest.mark.parametrize("source", [(375, 500), (280, 300), (120, 150), (1200, 900), (300, 90), (60, 500)])
def test_the_filter_is_pillows(picture: Picture, source: tuple[int, int]) -> None:
    image = picture(*source, seed=3)
    gap = abs(resize(image, 224, 224) - pillow(image, 224, 224))
    assert gap.mean() < 0.25  # more where one side shrinks and the other grows
    assert np.percentile(gap, 99) <= 1
    assert gap.max() <= 2


@pytest.mark.parametrize("height", [1, 2, 3, 7, 64, 65])
@pytest.mark.parametrize("width", [1, 2, 5, 63, 64, 300])
def test_tiny_and_odd_sizes(height: int, width: int) -> None:
    image = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = np.full((3, 64, 64, 3), 77, dtype=np.uint8)
    resize(image, 64, 64, out=buffer[1])
    assert abs(buffer[1] - pillow(image, 64, 64)).max() <= 2
    assert (buffer[0] == 77).all()
    assert (buffer[2] == 77).all()


def test_memory_layout_does_not_change_pixels(picture: Picture) -> None:
    image, scratch = picture(90, 110), Scratch()
    cut = image[3:80, 5:98]
    expected = resize(np.ascontiguousarray(cut), 32, 40)
    read_only = cut.copy()
    read_only.setflags(write=False)
    wide = np.zeros((77, 2 * 93, 3), dtype=np.uint8)
    wide[:, ::2] = cut
    for same in (cut, read_only, wide[:, ::2], np.asfortranarray(cut), cut[::-1].copy()[::-1]):
        for reused in (None, scratch):
            np.testing.assert_array_equal(resize(same, 32, 40, scratch=reused), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_the_callers_grad_mode_does_not_matter(picture: Picture, mode: Callable[[], torch.no_grad]) -> None:
    image = picture(50, 60)
    with mode():
        out = resize(image, 24, 24)
    np.testing.assert_array_equal(out, resize(image, 24, 24))


def test_scratch_grows_up_to_a_limit_and_keeps_uses_and_threads_apart() -> None:
    scratch = Scratch()
    first = scratch.array("a", (4, 4, 3))
    assert np.shares_memory(scratch.array("a", (2, 5, 3)), first)
    assert not np.shares_memory(scratch.array("b", (2, 5, 3)), first)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert not np.shares_memory(pool.submit(scratch.array, "a", (4, 4, 3)).result(), first)
    larger = scratch.array("a", (5, 5, 3))
    assert not np.shares_memory(larger, first)
    assert not np.shares_memory(scratch.array("a", (KEPT_BYTES + 1,)), larger)
    assert np.shares_memory(scratch.array("a", (1, 1, 3)), larger)


@pytest.mark.parametrize(("height", "width"), [(1, 4000), (4000, 1), (30, 40), (3, 151)])
def test_only_a_strip_is_cut(height: int, width: int) -> None:
    box = middle(height, width)
    assert max(box.height, box.width) <= LONGEST * min(box.height, box.width)
    assert min(box.height, box.width) == min(height, width)
    assert (box.height, box.width) == (height, width) or max(height, width) > 100
    assert abs((2 * box.top + box.height) - height) <= 1
    assert abs((2 * box.left + box.width) - width) <= 1


# ---- decoding only as much as the crop needs: which reduction, which pixels, and how far from Pillow's ----

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


def test_an_image_that_is_there_is_not_copied(picture: Picture) -> None:
    image = picture(300, 400)
    region = as_lazy_image(image).region(Box(5, 6, 280, 290), SIZE, SIZE)
    assert np.shares_memory(region.pixels, image)
    assert region.extent is None


@pytest.mark.parametrize("shape", [(300, 420), (413, 391)])
def test_a_reduced_crop_is_close_to_pillows(picture: Picture, shape: tuple[int, int]) -> None:
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
def test_evaluation_of_large_jpegs_is_close_to_pillow(picture: Picture, shape: tuple[int, int]) -> None:
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
def test_without_reduction_transforms_equal_those_of_pixels(picture: Picture, shape: tuple[int, int]) -> None:
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
