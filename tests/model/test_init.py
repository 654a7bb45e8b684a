"""Initial variables: their source and distribution."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from shufflenet_fn.errors import UsageError
from shufflenet_fn.model.architecture import conv_layers
from shufflenet_fn.model.config import ARCHITECTURES, ShuffleNetConfig, canonical_name, get_config
from shufflenet_fn.model.count import count_macs, count_params
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
    # Parameters and statistics have the same paths.
    places = [
        {path.split(".", 1)[1].rpartition(".")[0] for path, _ in norms if path.startswith(tree)}
        for tree in ("params", "batch_stats")
    ]
    assert places[0] == places[1]


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


# ---- the published sizes of the four architectures ----


PUBLISHED = {
    "x0_5": (1_366_792, 40.5),
    "x1_0": (2_278_604, 144.9),
    "x1_5": (3_503_624, 295.8),
    "x2_0": (7_393_996, 583.3),
}


@pytest.mark.parametrize("width", PUBLISHED)
def test_sizes_are_the_published_ones(width: str) -> None:
    config, (parameters, megamacs) = get_config(width), PUBLISHED[width]
    assert count_params(config) == parameters
    assert round(count_macs(config) / 1e6, 1) == megamacs
    assert len(list(conv_layers(config))) == 56


def test_multiply_accumulates_grow_with_the_image() -> None:
    """The convolutions' share goes with the area, the classifier's does not change."""
    classifier = TINY.stage_channels[-1] * TINY.num_classes
    small = count_macs(TINY, height=64, width=32) - classifier
    assert count_macs(TINY, height=128, width=64) - classifier == 4 * small


# ---- names and limits of an architecture ----


def test_short_and_long_names_are_one_architecture() -> None:
    for name in ARCHITECTURES:
        short = name.removeprefix("shufflenet_v2_")
        assert canonical_name(short) == canonical_name(name) == name
        assert get_config(short, num_classes=7) == get_config(name, num_classes=7)
    assert len({get_config(name) for name in ARCHITECTURES}) == 4


def test_unknown_names_are_errors() -> None:
    with pytest.raises(UsageError) as error:
        get_config("x1.0")
    for part in ("'x1.0'", "did you mean 'shufflenet_v2_x1_0'?", *ARCHITECTURES):
        assert part in str(error.value)
    with pytest.raises(TypeError, match="num_class"):
        get_config("x1_0", num_class=10)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stage_repeats", (4, 8)),
        ("stage_repeats", (4, 0, 4)),
        ("stage_channels", (24, 48, 96, 192)),
        ("stage_channels", (24, 48, 97, 192, 1024)),
        ("stage_channels", (0, 48, 96, 192, 1024)),
        ("num_classes", 0),
        ("bn_momentum", 1.5),
        ("bn_momentum", float("nan")),
        ("bn_eps", 0.0),
        ("bn_eps", float("nan")),
    ],
)
def test_invalid_field_is_named_with_its_value(field: str, value: Any) -> None:
    shown = str(97 if value == (24, 48, 97, 192, 1024) else value)
    with pytest.raises(ValueError, match=field) as error:
        ShuffleNetConfig(**{field: value})
    assert shown in str(error.value)
