"""Values that follow from the settings and are used in more than one place."""

from __future__ import annotations

import math

from shufflenet_fn.data.samples import Samples
from shufflenet_fn.data.schedule import rank_batch_size
from shufflenet_fn.run.settings import TrainSettings
from shufflenet_fn_backends.errors import UsageError


def eval_resize(image_size: int, given: int | None) -> int:
    """Short side before the evaluation crop: as given, or in the paper's proportion of 256 to 224."""
    return given or math.ceil(image_size * 256 / 224)


def num_classes_of(settings: TrainSettings, train: Samples) -> int:
    """Width of the classifier: as asked for, else the number of classes in the data."""
    found = len(train.classes)
    if settings.num_classes is None:
        return found
    if settings.num_classes < found:
        raise UsageError(
            f"--num-classes {settings.num_classes} is less than the {found} classes in "
            f"{train.root}. Leave it out, or give at least {found}."
        )
    return settings.num_classes


def accumulation(settings: TrainSettings, world_size: int) -> int:
    """Lanes per device. ``--benchmark 1`` is the original's: up to 2048 images per device and update."""
    if settings.benchmark == 0:
        return settings.accumulate
    return max(1, 2048 // rank_batch_size(settings.batch_size, world_size))


def global_batch(settings: TrainSettings, world_size: int) -> int:
    """Images per update, over all devices."""
    return settings.batch_size * accumulation(settings, world_size)


def precision_name(settings: TrainSettings) -> str:
    """The precision in effect: ``--precision``, or ``--opt-level`` with ``--amp``, or O0."""
    if settings.precision:
        return settings.precision
    return settings.opt_level if settings.amp else "O0"
