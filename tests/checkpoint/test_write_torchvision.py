"""A checkpoint's weights are torchvision's: loaded strictly, and computing the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from shufflenet_fn.checkpoint.format import EMA, WEIGHTS
from shufflenet_fn.checkpoint.torchvision import from_torchvision
from shufflenet_fn.checkpoint.write import save_checkpoint
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training import schedules
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.state import create_train_state
from tests.model.support import examples

pytest.importorskip("torchvision")

from tests.model.peers import peer


def test_weights_load_strictly_into_torchvision(tmp_path: Path) -> None:
    config = get_config("x0_5", num_classes=10)
    variables = from_torchvision(peer("x0_5", seed=1).state_dict(), config)
    averaged = from_torchvision(peer("x0_5", seed=2).state_dict(), config)
    state = create_train_state(variables, sgd(schedules.constant(0.1)), ema=True)
    checkpoint = save_checkpoint(tmp_path, config, state._replace(ema=averaged), {})

    images, _ = examples(2, 64)
    stored: dict[str, Variables] = {WEIGHTS: variables, EMA: averaged}
    for name, expected in stored.items():
        module = peer("x0_5", seed=3).eval()
        module.load_state_dict(safetensors.torch.load_file(checkpoint / name), strict=True)
        with torch.no_grad():
            assert torch.equal(module(images), apply(config, expected, images)[0])
