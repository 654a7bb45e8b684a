"""Policies, erasing and mixing: their draws, their geometry, and what they leave alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shufflenet_fn.data.augment import (
    BINS,
    ERASING_DRAWS,
    Policy,
    RandAugment,
    RandomErasing,
    SampleAugmentation,
    Space,
    TrivialAugmentWide,
    erasing_box,
    mean_pixel,
    pillow_operations,
    rand_space,
    trivial_wide_space,
)
from shufflenet_fn.data.decode import Box
from shufflenet_fn.data.device_ops import IMAGENET_STD, normalize
from shufflenet_fn.data.geometry import crop
from shufflenet_fn.data.mixing import Blend, Mixing, check_pairs, mix_images
from shufflenet_fn.data.randomness import POLICY, sample_rng
from shufflenet_fn_backends.support.errors import UsageError

from .conftest import Array

Picture = Callable[..., Array]
POLICIES = [
    pytest.param(TrivialAugmentWide(), trivial_wide_space(), 1, id="trivial"),
    pytest.param(RandAugment(3, 7), rand_space(), 3, id="rand"),
]


@pytest.mark.parametrize(("policy", "space", "count"), POLICIES)
def test_operations_are_drawn_equally_from_the_table(policy: Policy, space: Space, count: int) -> None:
    drawn = [
        operation
        for index in range(3000)
        for operation in policy(sample_rng(0, 0, index, domain=POLICY), 50, 70)
    ]
    assert len(drawn) == 3000 * count
    counts = Counter(operation.name for operation in drawn)
    assert set(counts) == set(space) == {"Identity", *pillow_operations()}
    expected = len(drawn) / len(space)
    assert all(abs(found - expected) < 5 * math.sqrt(expected) for found in counts.values())
    negated = signed = 0
    for name, magnitude in drawn:
        entry = space[name]
        if entry is None:
            assert magnitude == 0
            continue
        table = entry.table(50, 70)
        assert abs(magnitude) in table
        assert entry.signed or magnitude in table
        signed += entry.signed and magnitude != 0
        negated += entry.signed and magnitude < 0
    assert abs(negated - signed / 2) < 5 * math.sqrt(signed / 4)


def test_trivial_augment_draws_every_level() -> None:
    rotations = {
        abs(operation.magnitude)
        for index in range(6000)
        for operation in TrivialAugmentWide()(sample_rng(1, 0, index), 32, 32)
        if operation.name == "Rotate"
    }
    assert len(rotations) == BINS


def test_rand_augment_keeps_to_its_level() -> None:
    drawn = RandAugment(500, 30)(sample_rng(0, 0, 0), 100, 100)
    strongest = {name: entry.table(100, 100)[30] for name, entry in rand_space().items() if entry}
    for name, magnitude in drawn:
        assert abs(magnitude) == strongest.get(name, 0.0)


@pytest.mark.parametrize("policy", [TrivialAugmentWide(), RandAugment()])
def test_augmentation_is_a_function_of_its_key(policy: Policy, picture: Picture) -> None:
    augment = SampleAugmentation(policy, RandomErasing(0.5))
    results = set()
    for index in range(8):
        for repeat in range(2):
            image, again = picture(24, 24), picture(24, 24)
            augment(image, seed=1, epoch=2, index=index, repeat=repeat)
            augment(again, seed=1, epoch=2, index=index, repeat=repeat)
            np.testing.assert_array_equal(image, again)
            results.add(image.tobytes())
    assert len(results) > 12  # of 16; a few may draw Identity


def test_erasing_leaves_a_policys_draws_alone(picture: Picture) -> None:
    """Outside of what is erased, the image is as without erasing."""
    for index in range(20):
        plain, erased = picture(32, 32), picture(32, 32)
        key = {"seed": 3, "epoch": 0, "index": index}
        SampleAugmentation()(plain, **key)
        np.testing.assert_array_equal(plain, picture(32, 32))
        SampleAugmentation(TrivialAugmentWide())(plain, **key)
        SampleAugmentation(TrivialAugmentWide(), RandomErasing(1.0))(erased, **key)
        changed = (plain != erased).any(axis=-1)
        assert (erased[changed] == mean_pixel()).all()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_erased_box_lies_inside(height: int, width: int, seed: int) -> None:
    box = erasing_box(height, width, np.random.default_rng(seed).random(ERASING_DRAWS - 1))
    if box is not None:
        assert 0 <= box.top <= height - box.height
        assert 0 <= box.left <= width - box.width
        # Rounding to whole pixels adds at most half a pixel a side.
        assert (box.height - 0.5) * (box.width - 0.5) <= 0.33 * height * width


def test_erasing_fills_one_rectangle_with_the_mean(picture: Picture) -> None:
    before, erased = picture(60, 80), 0
    for index in range(1000):
        image = before.copy()
        draws = sample_rng(0, 0, index).random(ERASING_DRAWS)
        RandomErasing(0.3)(image, sample_rng(0, 0, index))
        inside = np.zeros((60, 80), dtype=bool)
        if draws[0] < 0.3:
            erased += 1
            box = erasing_box(60, 80, draws[1:])
            assert box is not None
            crop(inside, box)[:] = True
        assert (image[inside] == mean_pixel()).all()
        np.testing.assert_array_equal(image[~inside], before[~inside])
    assert abs(erased - 300) < 75
    pixel = torch.from_numpy(mean_pixel()).view(1, 3, 1, 1)
    assert normalize(pixel).abs().max() <= 0.5 / (255 * min(IMAGENET_STD)) < 0.01


@pytest.mark.parametrize("blend", [Blend(0.5, Box(2, 5, 10, 20)), Blend(0.7, None)])
def test_a_pair_is_mixed(picture: Picture, blend: Blend) -> None:
    """cutmix exchanges a rectangle, mixup takes the weighted mean."""
    source = np.stack([picture(20, 30, seed=number) for number in range(6)])
    images = source.copy()
    mix_images(images, blend)
    for position in range(6):
        own, other = source[position], source[position ^ 1]
        if blend.box is None:
            expected = 0.7 * own + 0.3 * other
        else:
            expected = own.astype(float)
            crop(expected, blend.box)[:] = crop(other, blend.box)
        assert np.abs(images[position] - expected).max() <= (0.5 + 1e-4 if blend.box is None else 0)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_weights_are_beta(alpha: float) -> None:
    mixing = Mixing(mixup=alpha)
    blends = [mixing.draw(seed=0, step=step, height=8, width=8) for step in range(4000)]
    assert all(blend.box is None for blend in blends)
    weights = np.array([blend.weight for blend in blends])
    assert weights.mean() == pytest.approx(0.5, abs=0.04)
    assert weights.var() == pytest.approx(0.25 / (2 * alpha + 1), abs=0.02)


def test_cutmix_weighs_by_the_remaining_area() -> None:
    mixing = Mixing(cutmix=1.0)
    for step in range(500):
        blend = mixing.draw(seed=0, step=step, height=40, width=60)
        assert blend.box is not None
        top, left, height, width = blend.box
        assert 0 <= top <= top + height <= 40
        assert 0 <= left <= left + width <= 60
        assert blend.weight == 1 - height * width / 2400


def test_steps_choose_between_mixup_and_cutmix() -> None:
    mixing = Mixing(mixup=0.2, cutmix=1.0)
    blends = [mixing.draw(seed=0, step=step, height=8, width=8) for step in range(1000)]
    assert abs(sum(blend.box is None for blend in blends) - 500) < 80
    assert blends[7] == mixing.draw(seed=0, step=7, height=8, width=8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandAugment(num_ops=0), "num_ops is 0, but must be at least 1"),
        (lambda: RandAugment(magnitude=31), "magnitude is 31, but must be a level from 0 to 30"),
        (lambda: RandomErasing(0.0), "probability is 0.0, but must be above 0"),
        (lambda: RandomErasing(math.nan), "probability is nan"),
        (lambda: Mixing(mixup=-1), r"mixup is -1, but must be a number of at least 0 \(0 is off\)"),
        (lambda: Mixing(), "nothing to mix"),
        (lambda: check_pairs(6, 2), "a batch of 6 over 2 devices .* --batch-size 4 or 8,"),
        (lambda: check_pairs(1, 1), "--batch-size 2,"),
    ],
)
def test_bad_values(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
