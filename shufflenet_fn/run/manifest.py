"""What a checkpoint's manifest says of the run that it is from. ``resumption`` reads it."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from typing import Any, NamedTuple

import numpy as np
import torch

from shufflenet_fn.data.samples import Samples
from shufflenet_fn.run.derived import accumulation, precision_name
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
    lanes = accumulation(settings, run.world.size)
    return {
        "arch": settings.arch,
        "num_classes": run.config.num_classes,
        "classes": list(run.train_set.classes),
        "steps_per_epoch": run.steps_per_epoch,
        "global_batch": run.global_batch,
        "torch": torch.__version__,
        "device": run.job.device,
        "chip": run.runtime.chip(),
        "backend": run.backend,
        "world_size": run.world.size,
        "lanes": lanes * run.world.size,
        "threads": torch.get_num_threads(),
        "numerics": numerics(run),
        "data": data_identity(run.train_set),
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
        "scores": run.last._asdict() if run.last and progress.evaluated else None,
        "saved_at": time.time(),
    }


def numerics(run: Training) -> dict[str, Any]:
    """Choices that change the last bits of results and are neither settings nor counts."""
    return {
        "precision": precision_name(run.job.settings),
        "physical_order": run.physical,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "float32_matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def data_identity(samples: Samples) -> dict[str, Any]:
    """How many samples there are, and a hash of their labels in order and of the names of the classes."""
    labels = np.ascontiguousarray(samples.labels[np.arange(len(samples))], dtype=np.int64)
    return {
        "samples": len(samples),
        "labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
        "classes_sha256": hashlib.sha256("\0".join(samples.classes).encode()).hexdigest(),
    }
