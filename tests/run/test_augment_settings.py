"""From the options of augmentation to what they build, and what is said about wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from shufflenet_fn.config.presets import PRESETS
from shufflenet_fn.config.resolve import resolve
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.augment.mixing import Mixing
from shufflenet_fn.data.augment.policies import RandAugment, TrivialAugmentWide
from shufflenet_fn.data.augment.sample import RandomErasing, SampleAugmentation
from shufflenet_fn.run.build import build_augmentation, build_mixing, build_transforms
from shufflenet_fn_backends.support.errors import UsageError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SampleAugmentation()),
        ({"auto_augment": "trivial"}, SampleAugmentation(TrivialAugmentWide())),
        ({"auto_augment": "rand"}, SampleAugmentation(RandAugment(2, 9))),
        ({"auto_augment": "rand", "rand_ops": 3, "rand_magnitude": 5}, SampleAugmentation(RandAugment(3, 5))),
        ({"erase": 0.25}, SampleAugmentation(erasing=RandomErasing(0.25))),
    ],
)
def test_augmentation(given: dict[str, Any], expected: SampleAugmentation) -> None:
    assert build_augmentation(resolve(given).settings) == expected


def test_mixing() -> None:
    assert build_mixing(resolve({}).settings) is None
    assert build_mixing(resolve({"mixup": 0.2}).settings) == Mixing(mixup=0.2)
    assert build_mixing(resolve({"cutmix": 1.0}).settings) == Mixing(cutmix=1.0)


def test_crops() -> None:
    crop = build_transforms(TrainSettings())[0]
    assert (crop.scale, crop.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    given = {"crop_scale": 0.2, "crop_scale_max": 0.5, "crop_ratio": 2.0}
    crop = build_transforms(resolve(given).settings)[0]
    assert (crop.scale, crop.ratio) == ((0.2, 0.5), (0.5, 2.0))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_no_augmentation(name: str) -> None:
    settings = resolve({}, preset=name).settings
    assert build_augmentation(settings) == SampleAugmentation()
    assert build_mixing(settings) is None
    assert settings.repeats == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"auto_augment": "random"}, "--auto-augment 'random' is not valid"),
        ({"rand_magnitude": 5}, "--rand-magnitude 5 has an effect only with --auto-augment rand"),
        ({"rand_ops": 1, "auto_augment": "trivial"}, "--rand-ops 1 .* it is trivial"),
        ({"auto_augment": "rand", "rand_magnitude": 31}, "--rand-magnitude 31 .* at most 30"),
        ({"auto_augment": "rand", "rand_ops": 0}, "--rand-ops 0 .* at least 1"),
        ({"erase": 1.5}, "--erase 1.5 .* at most 1"),
        ({"mixup": -0.1}, "--mixup -0.1 .* at least 0"),
        ({"cutmix": float("nan")}, "--cutmix nan .* a number"),
        ({"repeats": 0}, "--repeats 0 .* at least 1"),
        ({"crop_ratio": 0.5}, "--crop-ratio 0.5 .* at least 1"),
        ({"crop_scale_max": 0.05}, "--crop-scale 0.08 is larger than --crop-scale-max 0.05"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(given)
