"""What the tests of checkpoints share: small train states, and damage to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shufflenet_fn.checkpoint.format import STATE, WEIGHTS, state_from
from shufflenet_fn.checkpoint.read import read_checkpoint
from shufflenet_fn.checkpoint.write import write_checkpoint
from shufflenet_fn.io import DISK, Disk
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.training import schedules
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import GradientTransformation, chain, clip_by_global_norm, sgd
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from tests.model.support import TINY, examples, tiny_variables

DYNAMIC = LossScaling("dynamic", initial=128.0, growth_interval=2)
NOTE = {"arch": "tiny", "settings": {"lr": 0.1}, "scores": None, "text": 'ü"\\'}
Names = set[str]


def optimizer(*, momentum: float = 0.9, clip: bool = True) -> GradientTransformation:
    rule = sgd(schedules.constant(0.01), momentum=momentum)
    return chain(clip_by_global_norm(1.0), rule) if clip else rule


def fresh(
    *,
    seed: int = 0,
    momentum: float = 0.9,
    clip: bool = True,
    scaling: LossScaling | None = DYNAMIC,
    ema: bool = True,
    dtype: torch.dtype = torch.float32,
) -> TrainState:
    return create_train_state(
        tiny_variables(seed, dtype=dtype),
        optimizer(momentum=momentum, clip=clip),
        loss_scaling=scaling,
        ema=ema,
    )


def trained(steps: int = 3, **options: Any) -> TrainState:
    """A state in which no two parts are equal."""
    state = fresh(**options)
    step = make_train_step(TINY, optimizer(), loss_scaling=DYNAMIC, ema_decay=0.9)
    for seed in range(steps):
        state, _, _ = step(state, Examples(*examples(4, seed=seed)), no_flags())
    return state


def at_step(state: TrainState, step: int) -> TrainState:
    return state._replace(step=torch.tensor(step))


def load_state(checkpoint: Path, config: ShuffleNetConfig, like: TrainState) -> TrainState:
    return state_from(read_checkpoint(checkpoint).files, config, like, checkpoint)


def names(folder: Path) -> Names:
    return {path.name for path in folder.iterdir()}


def copy_of(checkpoint: Path, target: Path) -> Path:
    target.mkdir()
    for file in checkpoint.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def small(folder: Path, step: int, *, disk: Disk = DISK, **about: Any) -> Path:
    """A checkpoint of two numbers, which no model takes but everything else does."""
    files = {WEIGHTS: {"value": torch.full((3,), float(step))}, STATE: {"step": torch.tensor(step)}}
    return write_checkpoint(folder, step, files, about, disk=disk)
