"""Transforms: shapes, ranges, determinism and validation. See also test_torchvision_parity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shufflenet_fn.data.geometry import CROP_DRAWS, crop, random_resized_crop_box, resize
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn_backends.support.errors import UsageError

from .conftest import Array

Picture = Callable[..., Array]
SIDES = st.integers(1, 700)


@given(SIDES, SIDES, st.integers(0, 2**32))
def test_crop_box_lies_inside(height: int, width: int, seed: int) -> None:
    draws = np.random.default_rng(seed).random(CROP_DRAWS)
    box = random_resized_crop_box(height, width, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), draws=draws)
    assert box.height > 0
    assert box.width > 0
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width


def test_crop_is_a_view_and_resize_a_copy(picture: Picture) -> None:
    image = picture(30, 40)
    box = random_resized_crop_box(30, 40, scale=(0.3, 0.5), ratio=(1.0, 1.0), draws=np.full(CROP_DRAWS, 0.5))
    assert np.shares_memory(crop(image, box), image)
    same = resize(image, 30, 40)
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


@pytest.mark.parametrize("transform", [TrainTransform(28), EvalTransform(32, 28)])
@pytest.mark.parametrize("shape", [(20, 20), (32, 32), (20, 61), (300, 200), (50, 90), (1, 1)])
def test_transform_fills_out(
    picture: Picture, transform: TrainTransform | EvalTransform, shape: tuple[int, int]
) -> None:
    image = picture(*shape)
    before = image.copy()
    buffer = np.zeros((3, 28, 28, 3), dtype=np.uint8)

    def result(out: Array | None) -> Array:
        if isinstance(transform, TrainTransform):
            return transform(image, sample_rng(0, 0, 1), out=out)
        return transform(image, out=out)

    assert np.shares_memory(result(buffer[1]), buffer)
    np.testing.assert_array_equal(buffer[1], result(None))
    assert buffer[1].any() and not buffer[0].any() and not buffer[2].any()
    np.testing.assert_array_equal(image, before)


def test_everything_off_is_the_identity(picture: Picture) -> None:
    image = picture(32, 32)
    off = TrainTransform(32, scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=0.0, flip=0.0)
    np.testing.assert_array_equal(off(image, sample_rng(0, 0, 0)), image)
    np.testing.assert_array_equal(EvalTransform(32, 32)(image), image)


def test_flip_mirrors_with_its_probability(picture: Picture) -> None:
    image = picture(32, 32)
    always = TrainTransform(32, scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=0.0, flip=1.0)
    np.testing.assert_array_equal(always(image, sample_rng(0, 0, 0)), image[:, ::-1])
    some = replace(always, flip=0.3)
    flipped = sum(not np.array_equal(some(image, sample_rng(0, 0, i)), image) for i in range(1000))
    assert abs(flipped - 300) < 60


def test_one_operation_off_leaves_the_others(picture: Picture) -> None:
    image = picture(60, 80)
    flipped, plain = (TrainTransform(32, flip=flip)(image, sample_rng(0, 0, 9)) for flip in (1.0, 0.0))
    np.testing.assert_array_equal(flipped, plain[:, ::-1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size is 0, but must be an integer of at least 1"),
        ({"scale": (0.0, 1.0)}, r"scale is \(0.0, 1.0\), but must be \(low, high\) with 0 < low"),
        ({"scale": (0.5, 0.2)}, "scale is"),
        ({"scale": (0.5, 1.2)}, "scale is"),
        ({"ratio": (2.0, 1.0)}, "ratio is"),
        ({"ratio": (0.0, 1.0)}, "ratio is"),
        ({"jitter": -0.1}, r"jitter is -0.1, but must be a number of at least 0 \(0 is off\)"),
        ({"jitter": math.nan}, "jitter is nan"),
        ({"flip": 1.5}, "flip is 1.5, but must be a probability from 0"),
        ({"resize": 100, "size": 224}, "resize is 100, but must be at least size, 224"),
        ({"resize": 0, "size": 0}, "size is 0"),
    ],
)
def test_transforms_validate(fields: dict[str, Any], message: str) -> None:
    transform = EvalTransform if "resize" in fields else TrainTransform
    with pytest.raises(UsageError, match=message):
        transform(**{"size": 32, **fields})


@pytest.mark.parametrize("transform", [EvalTransform(8, 8), TrainTransform(8)])
@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((9, 9, 3)), r"float64 \(9, 9, 3\)"),
        (np.zeros((9, 9), dtype=np.uint8), r"uint8 \(9, 9\)"),
        (np.zeros((3, 9, 9), dtype=np.uint8), r"uint8 \(3, 9, 9\)"),
        (torch.zeros((9, 9, 3), dtype=torch.uint8), r"torch\.uint8 \(9, 9, 3\)"),
        ([[0]], "list"),
    ],
)
def test_images_that_are_none_are_refused(transform: Any, image: Any, got: str) -> None:
    options = {"rng": sample_rng(0, 0, 0)} if isinstance(transform, TrainTransform) else {}
    with pytest.raises(UsageError, match=rf"array of uint8, \(height, width, 3\), but is {got}\. S"):
        transform(image, **options)


def test_out_of_another_kind_is_refused(picture: Picture) -> None:
    for out in (np.zeros((8, 8, 3)), np.zeros((3, 8, 8), dtype=np.uint8)):
        with pytest.raises(UsageError, match=r"out must be C-contiguous uint8 \(8, 8, 3\), but is"):
            EvalTransform(8, 8)(picture(9, 9), out=out)
