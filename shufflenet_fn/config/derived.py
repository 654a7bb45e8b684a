"""Values derived from the settings that several modules use."""

from __future__ import annotations

import math

from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.schedule import rank_batch_size
from shufflenet_fn.model.architecture import REDUCTION, fewest_values
from shufflenet_fn.model.config import PARTS, frozen_parts
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.support.errors import UsageError


def eval_resize(image_size: int, given: int | None) -> int:
    """Return the short side before the evaluation crop: as given, or 256/224 of the crop."""
    return given or math.ceil(image_size * 256 / 224)


def num_classes_of(settings: TrainSettings, train: Dataset) -> int:
    """Return the width of the classifier: as asked for, else the number of classes in the data."""
    found = len(train.classes)
    if settings.num_classes is None:
        return found
    if settings.num_classes < found:
        raise UsageError(
            f"--num-classes {settings.num_classes} is less than the {found} classes in "
            f"{train.root}. Leave it out, or give at least {found}."
        )
    return settings.num_classes


def passes(settings: TrainSettings, world_size: int) -> int:
    """Return the number of ``--batch-size`` steps per update at a first start.

    ``--benchmark 1`` accumulates up to 2048 images per device and update, as in the original.
    """
    if settings.benchmark == 0:
        return settings.accumulate
    return max(1, 2048 // rank_batch_size(settings.batch_size, world_size))


def global_batch(settings: TrainSettings, world_size: int) -> int:
    """Return the images per update, over all devices."""
    return settings.batch_size * passes(settings, world_size)


def microbatches_of(settings: TrainSettings, world_size: int) -> int:
    """Return the number of microbatches of a global batch, over all devices.

    Each is normalised with its own statistics. So the result of an update depends on this number but, up to
    the order of sums, not on the number of devices. A resume keeps it.

    Raises:
        UsageError: it does not divide the global batch, or the number of devices does not divide it.
    """
    if settings.microbatches is None:
        rank_batch_size(settings.batch_size, world_size)
        return world_size * passes(settings, world_size)
    microbatches, batch = settings.microbatches, global_batch(settings, world_size)
    if batch % microbatches:
        sizes = [str(n) for n in _divisors(batch) if n % world_size == 0]
        raise UsageError(
            f"a global batch of {batch} images does not divide into {microbatches} microbatches. "
            f"Give --microbatches {' or '.join(sizes[:8])}, or another --batch-size."
        )
    if microbatches % world_size:
        allowed = ", ".join(map(str, _divisors(microbatches)))
        raise UsageError(
            f"{microbatches} microbatches cannot be shared equally by {world_size} devices. A global batch "
            f"of this run is computed in {microbatches} parts, each with its own batch-norm statistics, as "
            f"at its first start. The number of devices over all machines may be one of: {allowed}. Or "
            f"change what is computed with --microbatches {-(-microbatches // world_size) * world_size}."
        )
    return microbatches


def microbatches_per_device(settings: TrainSettings, world_size: int) -> int:
    """Return how many microbatches each device computes in turn. Raises as ``microbatches_of``."""
    return microbatches_of(settings, world_size) // world_size


def check_values(images: int, settings: TrainSettings) -> None:
    """Check that trained batch norms see more than one value per channel. ``images``: of a microbatch.

    Raises:
        UsageError: they do not, so that no output depends on its image.
    """
    size, batch = settings.image_size, settings.batch_size
    all_frozen = set(PARTS.values()) <= set(frozen_parts(settings.freeze))
    if all_frozen or fewest_values(images, size, size) > 1:
        return
    raise UsageError(
        f"--batch-size {batch} is {images} image per microbatch, which at --image-size {size} leaves one "
        "value per channel to the last batch norms. They need more in training: otherwise nothing depends "
        f"on the image. Give --batch-size {2 * batch}, fewer --microbatches or --devices, or --image-size "
        f"{REDUCTION + 1} or more, or --freeze {','.join(PARTS)}."
    )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def max_bad_steps(settings: TrainSettings, scaling: LossScaling) -> int:
    """Return the number of consecutive updates with a non-finite loss or gradient that ends a run.

    It is ``--max-bad-steps``; if not given, 100 with a loss scale, which such updates adjust, else 1.
    """
    if settings.max_bad_steps is not None:
        return settings.max_bad_steps
    return 1 if scaling.kind == "none" else 100


def stats_in_kernel(settings: TrainSettings, runtime: Runtime) -> bool:
    """Return whether batch norm's kernels update the running statistics (``--running-stats``).

    Raises:
        UsageError: they cannot on this device, or not in a compiled step.
    """
    able = runtime.flat_state and not settings.compile
    if settings.running_stats == "kernel" and not able:
        raise UsageError(
            "--running-stats kernel is for device npu without --compile: it writes into flat buffers, in "
            f"place. This is device {runtime.name}{' with --compile' if settings.compile else ''}. Leave the "
            "option out, or use --running-stats step."
        )
    return able and settings.running_stats != "step"


def precision_name(settings: TrainSettings) -> str:
    """Return the precision in effect: ``--precision``, or ``--opt-level`` with ``--amp``, or O0."""
    if settings.precision:
        return settings.precision
    return settings.opt_level if settings.amp else "O0"
