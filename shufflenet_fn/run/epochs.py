"""How a run counts its updates in epochs, also after a resume that changed the updates of an epoch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shufflenet_fn.checkpoint.format import epochs_done
from shufflenet_fn.checkpoint.inventory import checkpoints, checkpoints_of
from shufflenet_fn.checkpoint.read import Content, read_manifest
from shufflenet_fn.config.derived import global_batch
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.schedule import steps_per_epoch
from shufflenet_fn.run.build import build_schedule
from shufflenet_fn_backends.support.errors import UsageError, UserError


class Epochs(NamedTuple):
    """The updates of an epoch, and what to add to the number of an update to get its position.

    Data order and schedule go by position: those of epoch e begin at e × ``length``. After a change of the
    length, ``shift`` makes whole epochs of what was done before.
    """

    length: int
    shift: int = 0

    def place(self, step: int) -> tuple[int, int]:
        """Return the epoch of the update ``step`` and its number in it, both from 0."""
        return divmod(step + self.shift, self.length)

    def start(self, epoch: int) -> int:
        """Return the first update of ``epoch``."""
        return epoch * self.length - self.shift


def epochs_of(manifest: Mapping[str, Any]) -> Epochs:
    """Return how the run that wrote a checked ``manifest`` counted."""
    length, done = manifest["steps_per_epoch"], epochs_done(manifest)
    assert done is not None
    return Epochs(length, round(done * length) - manifest["step"])


def count_epochs(settings: TrainSettings, world_size: int, images: int, resume: Content | None) -> Epochs:
    """Return how a run counts; one that goes on from the end of an epoch may have others from there on.

    ``images``: of the training data. ``resume``: the checkpoint that it goes on from, checked.

    Raises:
        UsageError: an epoch has no update, or the checkpoint lies within one whose rest would be another.
    """
    batch = global_batch(settings, world_size)
    length = steps_per_epoch(images, batch)
    if resume is None:
        return Epochs(length)
    checkpoint, manifest = resume.path, resume.manifest
    before, step = epochs_of(manifest), manifest["step"]
    epoch, number = before.place(step)
    if number == 0:
        return before if length == before.length else Epochs(length, epoch * length - step)
    stored = manifest["global_batch"], manifest["settings"].get("repeats", 1)
    if (length, batch, settings.repeats) == (before.length, *stored):
        return before
    was = manifest["identity"].get("training images", images)
    changes = [
        f"{now} {what} instead of {then}"
        for what, now, then in (
            ("images per update", batch, stored[0]),
            ("showings of an image", settings.repeats, stored[1]),
            ("training images", images, was),
        )
        if now != then
    ]
    end = f"--resume {checkpoint} --max-steps {before.start(epoch + 1)}"
    earlier = _end_before(checkpoint, step)
    raise UsageError(
        f"the checkpoint {checkpoint} is after update {number} of {before.length} of an epoch, whose rest "
        f"cannot be trained with {' and '.join(changes) or f'{length} updates'}: some images would be shown "
        f"twice, and others never. {'End' if images == was else 'Restore the data, end'} the epoch as it was "
        f"begun, with shufflenet-fn train {end}, and change it then"
        + (f"; or go on from the epoch before with --resume {earlier}." if earlier else ".")
    )


def _end_before(checkpoint: Path, step: int) -> Path | None:
    """Return the newest checkpoint of the run before ``step`` that lies at the end of an epoch."""
    for path in checkpoints(checkpoints_of(checkpoint.parent.parent)):
        with contextlib.suppress(UserError):
            manifest = read_manifest(path)
            done = epochs_done(manifest)
            if manifest["step"] < step and done is not None and done.is_integer():
                return path
    return None


def rate_jump(
    manifest: Mapping[str, Any], before: TrainSettings, now: TrainSettings, epochs: Epochs
) -> list[str]:
    """Return a warning if the learning rate jumps at a resume because of other settings.

    Args:
        manifest: of the checkpoint, checked.
        before: the settings it was written with.
        now, epochs: the settings, and how the run counts, from here on.
    """
    step = manifest["step"]
    old, new = (
        build_schedule(settings, *counted)
        for settings, counted in ((before, epochs_of(manifest)), (now, epochs))
    )
    last, planned = (float(old(torch.tensor(at))) for at in (max(0, step - 1), step))
    rate = float(new(torch.tensor(step)))
    if any(math.isclose(rate, other, rel_tol=1e-3) for other in (last, planned)):
        return []
    return [
        f"the learning rate jumps from {last:.4g} to {rate:.4g} at update {step}, as the settings changed at "
        f"the resume; by those before it would be {planned:.4g}"
    ]
