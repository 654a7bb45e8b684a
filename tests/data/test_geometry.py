"""Resizing: Pillow's antialiased bilinear filter, into any slot, from any memory."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from shufflenet_fn.data.geometry import LONGEST, middle, resize
from shufflenet_fn.data.lazy_image import KEPT_BYTES, Scratch

from .conftest import Array

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
    image, out = picture(50, 60), np.empty((24, 24, 3), dtype=np.uint8)
    with mode():
        resize(image, 24, 24, out=out)
    np.testing.assert_array_equal(out, resize(image, 24, 24))


def test_scratch_grows_and_keeps_uses_apart() -> None:
    scratch = Scratch()
    first = scratch.array("a", (4, 4, 3))
    assert np.shares_memory(scratch.array("a", (2, 5, 3)), first)
    assert not np.shares_memory(scratch.array("b", (2, 5, 3)), first)
    larger = scratch.array("a", (5, 5, 3))
    assert not np.shares_memory(larger, first)
    assert np.shares_memory(scratch.array("a", (1, 1, 3)), larger)


def test_scratch_does_not_keep_a_huge_picture() -> None:
    scratch = Scratch()
    small = scratch.array("a", (8, 8, 3))
    huge = scratch.array("a", (KEPT_BYTES + 1,))
    assert not np.shares_memory(huge, small)
    assert np.shares_memory(scratch.array("a", (8, 8, 3)), small)


def test_each_thread_has_its_own_scratch() -> None:
    scratch = Scratch()
    mine = scratch.array("a", (4, 4, 3))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(scratch.array, "a", (4, 4, 3)).result()
    assert not np.shares_memory(mine, theirs)


@pytest.mark.parametrize(("height", "width"), [(1, 4000), (4000, 1), (30, 40), (3, 151)])
def test_only_a_strip_is_cut(height: int, width: int) -> None:
    box = middle(height, width)
    assert max(box.height, box.width) <= LONGEST * min(box.height, box.width)
    assert min(box.height, box.width) == min(height, width)
    assert (box.height, box.width) == (height, width) or max(height, width) > 100
    assert abs((2 * box.top + box.height) - height) <= 1
    assert abs((2 * box.left + box.width) - width) <= 1
