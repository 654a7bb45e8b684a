"""Learning-rate schedules: pure functions from the step number to the rate, both 0-dim tensors.

They are evaluated inside the step, on the device of the step number, so nothing is copied from the host and
``torch.compile`` uses one graph for all steps. Rates are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Schedule = Callable[[Tensor], Tensor]


def constant(base: float) -> Schedule:
    """Return ``base`` at every step."""
    return lambda step: torch.full_like(step, base, dtype=torch.float32)


def epoch_cosine(base: float, *, steps_per_epoch: int, epochs: int, warmup_epochs: int) -> Schedule:
    """Build the original's schedule: warm-up, then half a cosine, constant within each epoch e.

    The rate is ``base * (e + 1) / (W + 1)`` for e < W, then ``base / 2 * (1 + cos(pi * (e - W) / (E - W)))``.
    It never reaches zero. Source: ``adjust_learning_rate`` of the Ascend ModelZoo's ShuffleNetV2 recipe.
    """

    def schedule(step: Tensor) -> Tensor:
        epoch = torch.div(step, steps_per_epoch, rounding_mode="floor").float()
        warmup = base * (epoch + 1) / (warmup_epochs + 1)
        progress = (epoch - warmup_epochs) / max(1, epochs - warmup_epochs)
        decay = 0.5 * base * (1 + torch.cos(math.pi * progress))
        return torch.where(epoch < warmup_epochs, warmup, decay)

    return schedule


def cosine(base: float, *, total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Build a per-step schedule: linear warm-up, then half a cosine from ``base`` to ``final``.

    Reference: Loshchilov and Hutter, arXiv:1608.03983.
    """

    def decay(progress: Tensor) -> Tensor:
        return final + 0.5 * (base - final) * (1 + torch.cos(math.pi * progress))

    return _with_warmup(decay, base, total_steps, warmup_steps)


def linear(base: float, *, total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Build a per-step schedule: linear warm-up, then linear decay from ``base`` to ``final``.

    Without warm-up and with ``final`` 0 this is megvii's ``base * (1 - step / total_steps)``.
    """
    return _with_warmup(lambda p: base + (final - base) * p, base, total_steps, warmup_steps)


def _with_warmup(
    decay: Callable[[Tensor], Tensor], base: float, total_steps: int, warmup_steps: int
) -> Schedule:
    def schedule(step: Tensor) -> Tensor:
        at = step.float()
        progress = ((at - warmup_steps) / max(1, total_steps - warmup_steps)).clamp(0.0, 1.0)
        warmup = base * (at + 1) / (warmup_steps + 1)
        return torch.where(at < warmup_steps, warmup, decay(progress))

    return schedule
