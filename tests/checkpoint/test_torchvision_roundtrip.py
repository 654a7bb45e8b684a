"""Conversion against torchvision's own modules, strictly."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from shufflenet_fn.checkpoint.format import EMA, WEIGHTS
from shufflenet_fn.checkpoint.torchvision import from_torchvision, to_torchvision
from shufflenet_fn.checkpoint.write import save_checkpoint
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.count import count_params
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables, init
from shufflenet_fn.training import schedules
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.tree import tree_leaves
from tests.model.support import assert_nothing_shared, assert_trees_equal, examples, generator, unchanged

pytest.importorskip("torchvision")

from tests.model.peers import WIDTHS, peer


@pytest.mark.parametrize("width", WIDTHS)
def test_a_state_dict_comes_back_as_it_was(width: str) -> None:
    config = get_config(width, num_classes=11)
    module = peer(width, num_classes=11)
    given = module.state_dict()
    with unchanged(given):
        variables = from_torchvision(given, config)
        back = to_torchvision(variables, config)
    assert set(back) == set(given)
    for key, value in given.items():
        assert back[key].dtype == value.dtype, key
        assert torch.equal(back[key], value), key
    assert_nothing_shared(variables, given)


@pytest.mark.parametrize("width", WIDTHS)
def test_fresh_variables_load_strictly_into_torchvision(width: str) -> None:
    config = get_config(width, num_classes=11)
    variables = init(config, generator(4))
    module = peer(width, num_classes=11)
    module.load_state_dict(to_torchvision(variables, config), strict=True)
    assert_trees_equal(from_torchvision(module.state_dict(), config), variables)
    total = sum(parameter.numel() for parameter in module.parameters())
    assert total == count_params(config) == sum(p.numel() for p in tree_leaves(variables.params))


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
