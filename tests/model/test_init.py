"""Initial variables: their source and distribution."""

from __future__ import annotations

import math

import pytest
import torch

from shufflenet_fn.model.architecture import conv_layers
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.variables import get_path, init
from shufflenet_fn.tree import tree_leaves, tree_paths
from tests.model.support import TINY, assert_trees_equal, generator


def test_the_generator_is_the_only_source_of_randomness() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = init(TINY, generator(5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_trees_equal(init(TINY, generator(5)), first)
    assert not torch.equal(init(TINY, generator(6)).params["fc"]["weight"], first.params["fc"]["weight"])


def test_weights_are_uniform_in_torchs_default_range() -> None:
    config = get_config("x1_0", num_classes=100)
    variables = init(config, generator())
    for layer in conv_layers(config):
        weight = get_path(variables.params, layer.path)["conv"]["weight"]
        assert tuple(weight.shape) == layer.weight_shape
        bound = 1 / math.sqrt(weight[0].numel())
        assert weight.abs().max() <= bound
        if weight.numel() > 5000:
            assert weight.abs().max() > 0.99 * bound
            assert abs(weight.std().item() / (bound / math.sqrt(3)) - 1) < 0.05
            assert abs(weight.mean().item()) < 0.05 * bound
    head = variables.params["fc"]
    assert head["weight"].abs().max() <= 1 / 32 and head["bias"].abs().max() <= 1 / 32
    assert head["bias"].unique().numel() == 100


def test_batch_norms_start_as_the_identity() -> None:
    variables = init(TINY, generator())
    start = {"weight": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}
    norms = [item for item in tree_paths(variables) if ".bn." in item[0]]
    assert len(norms) == 4 * len(list(conv_layers(TINY)))
    for path, leaf in norms:
        assert torch.equal(leaf, torch.full_like(leaf, start[path.rpartition(".")[2]]))


def test_params_and_batch_stats_are_twins() -> None:
    variables = init(TINY, generator())
    norms = {path.rpartition(".")[0] for path, _ in tree_paths(variables.params) if ".bn." in path}
    stats = {path.rpartition(".")[0] for path, _ in tree_paths(variables.batch_stats)}
    assert norms == stats


@pytest.mark.parametrize(
    ("dtype", "stats"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_running_statistics_are_never_narrower_than_float32(dtype: torch.dtype, stats: torch.dtype) -> None:
    variables = init(TINY, generator(), dtype=dtype)
    assert {leaf.dtype for leaf in tree_leaves(variables.params)} == {dtype}
    assert {leaf.dtype for leaf in tree_leaves(variables.batch_stats)} == {stats}
