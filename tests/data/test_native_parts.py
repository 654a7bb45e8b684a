"""The pieces of the native reader against what they have to equal."""

from __future__ import annotations

import ctypes
import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shufflenet_fn.data.geometry import CROP_DRAWS, random_resized_crop_box
from shufflenet_fn.data.native.library import Functions, functions
from shufflenet_fn.data.native.reader import Crop, crop_rule
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import TRAIN_DRAWS, TrainTransform


@pytest.fixture(scope="module")
def library() -> Functions:
    return functions()


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    seed=st.integers(0, 2**32),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    ratio=st.floats(1, 3),
)
def test_boxes(height: int, width: int, seed: int, scale: list[float], ratio: float) -> None:
    low, high = scale
    transform = TrainTransform(8, scale=(low, high), ratio=(1 / ratio, ratio))
    rule, box = crop_rule(transform), np.zeros(4, dtype=np.int64)
    for draws in np.random.default_rng(seed).random((10, CROP_DRAWS)):
        functions().crop_box(height, width, _address(rule), draws.ctypes.data, box.ctypes.data)
        wanted = random_resized_crop_box(
            height, width, scale=transform.scale, ratio=transform.ratio, draws=draws
        )
        assert tuple(box.tolist()) == wanted


def _address(rule: Crop) -> int:
    return ctypes.addressof(rule)


@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**40),
    index=st.integers(0, 2**40),
    repeat=st.integers(0, 2**20),
)
def test_draws_are_those_of_numpy(seed: int, epoch: int, index: int, repeat: int) -> None:
    draws = np.zeros(TRAIN_DRAWS)
    functions().draws(seed, epoch, index, repeat, len(draws), draws.ctypes.data)
    wanted = sample_rng(seed, epoch, index, repeat=repeat).random(TRAIN_DRAWS)
    np.testing.assert_array_equal(draws, wanted)


@pytest.mark.parametrize("size", [*range(0, 300, 7), 1023, 4096, 100_003])
def test_checksums_are_those_of_zlib(library: Functions, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    for start in (0, 1, 0xFFFFFFFF, 123456789):
        assert library.crc32(start, data, size) == zlib.crc32(data, start)


def test_rule_holds_logarithms() -> None:
    rule = crop_rule(TrainTransform(8, ratio=(0.5, 2.0)))
    assert (rule.log_low, rule.log_high) == (math.log(0.5), math.log(2.0))
