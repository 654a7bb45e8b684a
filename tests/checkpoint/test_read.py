"""Checkpoints are never trusted unseen: damage is detected, and other settings are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.checkpoint.format import EMA, MANIFEST, STATE, WEIGHTS
from shufflenet_fn.checkpoint.read import read_checkpoint, verify
from shufflenet_fn.checkpoint.torchvision import from_torchvision
from shufflenet_fn.checkpoint.weights import read_weights
from shufflenet_fn.checkpoint.write import save_checkpoint
from shufflenet_fn.errors import UsageError, UserError
from shufflenet_fn.training import schedules
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.state import create_train_state
from tests.checkpoint.support import DYNAMIC, NOTE, copy_of, flip, fresh, load_state, optimizer
from tests.model.support import TINY, assert_trees_equal, tiny_variables


@pytest.mark.parametrize("name", [WEIGHTS, EMA, STATE, MANIFEST])
def test_damaged_checkpoint_is_named(kept: Path, tmp_path: Path, name: str) -> None:
    checkpoint = copy_of(kept, tmp_path / "copy")
    verify(checkpoint)
    flip(checkpoint / name)
    for read in (verify, read_checkpoint):
        with pytest.raises(UserError, match=f"{checkpoint} is damaged"):
            read(checkpoint)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"momentum": 0.0}, "momentum"),
        ({"clip": False}, "momentum"),
        ({"scaling": None}, "loss_scale"),
        ({"dtype": torch.float16}, "momentum"),
    ],
    ids=str,
)
def test_other_settings_are_named(kept: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match="was written with other settings") as error:
        load_state(kept, TINY, fresh(**options))
    assert named in str(error.value) and str(kept) in str(error.value)


def test_a_checkpoint_without_an_average_cannot_give_one(folder: Path) -> None:
    checkpoint = save_checkpoint(folder, TINY, fresh(ema=False), NOTE)
    with pytest.raises(UserError, match="was written with other settings") as error:
        load_state(checkpoint, TINY, fresh(ema=True))
    assert EMA in str(error.value)


def test_another_architecture_is_named(kept: Path) -> None:
    for other in (replace(TINY, num_classes=6), replace(TINY, stage_repeats=(2, 3, 2))):
        like = create_train_state(tiny_variables(config=other), optimizer(), loss_scaling=DYNAMIC, ema=True)
        with pytest.raises(UserError):
            load_state(kept, other, like)
        # Without velocities, whose shapes differ as well, it is the weights that do not fit.
        bare = sgd(schedules.constant(0.01))
        like = create_train_state(tiny_variables(config=other), bare)
        plain = save_checkpoint(kept.parent / "plain", TINY, create_train_state(tiny_variables(), bare), NOTE)
        with pytest.raises(UsageError, match="do not fit the architecture"):
            load_state(plain, other, like)


def test_checkpoint_folder_prefers_weight_average(tmp_path: Path) -> None:
    optimizer = sgd(schedules.constant(0.1))
    state = create_train_state(tiny_variables(0), optimizer, ema=True)
    averaged = save_checkpoint(tmp_path, TINY, state._replace(ema=tiny_variables(1)), {"arch": "tiny"})
    assert_trees_equal(from_torchvision(read_weights(averaged).tensors, TINY), tiny_variables(1))
    plain = save_checkpoint(tmp_path / "plain", TINY, state._replace(ema=()), {})
    assert_trees_equal(from_torchvision(read_weights(plain).tensors, TINY), tiny_variables(0))
    (averaged / EMA).unlink()
    with pytest.raises(UserError, match=EMA):
        read_weights(averaged)
    (averaged / MANIFEST).unlink()  # weights that somebody copied out of one
    assert_trees_equal(from_torchvision(read_weights(averaged).tensors, TINY), tiny_variables(0))


def test_run_without_pointers_gives_newest_good_checkpoint(tmp_path: Path) -> None:
    state = create_train_state(tiny_variables(0), sgd(schedules.constant(0.1)))
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, TINY, state, {})
    newer = save_checkpoint(folder, TINY, state._replace(step=torch.tensor(1)), {})
    flip(newer / WEIGHTS)
    assert_trees_equal(from_torchvision(read_weights(tmp_path).tensors, TINY), tiny_variables(0))
