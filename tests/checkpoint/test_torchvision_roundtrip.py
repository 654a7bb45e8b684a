"""Conversion against torchvision's own modules, strictly."""

from __future__ import annotations

import pytest
import torch

from shufflenet_fn.checkpoint.torchvision import from_torchvision, to_torchvision
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.count import count_params
from shufflenet_fn.model.variables import init
from shufflenet_fn.tree import tree_leaves
from tests.model.support import assert_nothing_shared, assert_trees_equal, generator, unchanged

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


@pytest.mark.parametrize("width", WIDTHS)
def test_a_ddp_state_dict_of_the_original_loads(width: str) -> None:
    module = peer(width, num_classes=11)
    config = get_config(width, num_classes=11)
    wrapped = {f"module.{key}": value for key, value in module.state_dict().items()}
    half = config.stage_channels[1]
    wrapped["module.stage2.0.channel_shuffle.fp_index1"] = torch.arange(half)
    wrapped["module.stage3.1.channel_shuffle.bp_index2"] = torch.arange(half)
    assert_trees_equal(from_torchvision(wrapped, config), from_torchvision(module.state_dict(), config))
