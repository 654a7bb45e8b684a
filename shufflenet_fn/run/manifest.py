"""What a checkpoint's manifest says of the run that it is from. ``resumption`` reads it."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NamedTuple

import torch

from shufflenet_fn.config.derived import lanes_of
from shufflenet_fn.run.json_text import finite
from shufflenet_fn.run.meters import EpochSums
from shufflenet_fn.run.training import Training


class Progress(NamedTuple):
    """How far the run is at a checkpoint, beside what the state itself holds.

    ``epoch``: of the last step, from 0. ``unfinished``: what that epoch has come to, ``None`` at its end.
    ``evaluated``: whether ``Training.last`` are scores of these weights.
    """

    epoch: int
    unfinished: EpochSums | None
    evaluated: bool


def fixed_part(run: Training) -> dict[str, Any]:
    """What is the same in every checkpoint of this start of the run.

    All that decides the last bit of a result is in it, so that a resume can name what is different.
    """
    settings, resolved = run.job.settings, run.job.resolved
    return {
        "arch": settings.arch,
        "num_classes": run.config.num_classes,
        "classes": list(run.train_set.classes),
        "steps_per_epoch": run.steps_per_epoch,
        "global_batch": run.global_batch,
        "device": run.job.device,
        "backend": run.backend,
        "lanes": lanes_of(settings, run.world.size),
        "threads": torch.get_num_threads(),
        "identity": run.identity,
        "settings": dataclasses.asdict(settings),
        "origin": resolved.origin,
        "preset": resolved.preset,
    }


def changing_part(run: Training, progress: Progress) -> dict[str, Any]:
    """What is of this checkpoint. Cheap: the training loop waits for it."""
    unfinished = progress.unfinished
    return {
        "epoch": progress.epoch,
        "unfinished": None if unfinished is None else unfinished._asdict(),
        "skipped_in_a_row": run.skipped_in_a_row,
        "best": run.best._asdict() if run.best else None,
        "scores": finite(run.last._asdict()) if run.last and progress.evaluated else None,
        "saved_at": time.time(),
    }
