"""From settings to the augmentation that follows crop, jitter and flip."""

from __future__ import annotations

from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.augment.erasing import RandomErasing
from shufflenet_fn.data.augment.mixing import Mixing
from shufflenet_fn.data.augment.policies import Policy, RandAugment, TrivialAugmentWide
from shufflenet_fn.data.augment.sample import SampleAugmentation


def build_augmentation(settings: TrainSettings) -> SampleAugmentation:
    """Policy and erasing as the settings say."""
    policies: dict[str, Policy] = {
        "trivial": TrivialAugmentWide(),
        "rand": RandAugment(settings.rand_ops, settings.rand_magnitude),
    }
    return SampleAugmentation(
        policy=policies.get(settings.auto_augment),
        erasing=RandomErasing(settings.erase) if settings.erase > 0 else None,
    )


def build_mixing(settings: TrainSettings) -> Mixing | None:
    """mixup and cutmix as the settings say, ``None`` without either."""
    if settings.mixup == settings.cutmix == 0:
        return None
    return Mixing(mixup=settings.mixup, cutmix=settings.cutmix)
