"""Conversion of whole trees between torchvision's and the routed channel order."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shufflenet_fn.model.channel_order import in_order_of, to_canonical, to_permuted
from shufflenet_fn.model.config import ARCHITECTURES, ShuffleNetConfig, get_config
from shufflenet_fn.model.inference import fold
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables, get_path, init
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import chain, clip_by_global_norm, sgd
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_map, tree_paths
from shufflenet_fn_backends.reference import BACKEND as REFERENCE
from shufflenet_fn_backends.routed import BACKEND as ROUTED
from tests.model.support import (
    TINY,
    assert_close_to_scale,
    assert_trees_equal,
    examples,
    generator,
    random_like,
    tiny_variables,
    unchanged,
)

DOUBLE = torch.float64
STEP = torch.tensor(0)


def state_of(config: ShuffleNetConfig, *, dtype: torch.dtype = torch.float32) -> TrainState:
    """A state in which no two channels are equal, in velocities and averages either."""
    optimizer = chain(clip_by_global_norm(1.0), sgd(constant(0.1), momentum=0.9))
    state = create_train_state(
        tiny_variables(config=config, dtype=dtype), optimizer, loss_scaling=LossScaling("dynamic"), ema=True
    )
    return state._replace(opt_state=random_like(state.opt_state, 3), ema=random_like(state.ema, 4))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_round_trips_are_bit_exact(name: str) -> None:
    config = get_config(name, num_classes=3)
    state = state_of(config)
    with unchanged(state):
        permuted = to_permuted(config, state)
        assert_trees_equal(to_canonical(config, permuted), state)
        assert_trees_equal(to_permuted(config, to_canonical(config, state)), state)
    assert type(permuted) is TrainState and type(permuted.ema) is Variables
    for tree in (state.params, state.batch_stats, state.variables):
        assert_trees_equal(to_canonical(config, to_permuted(config, tree)), tree)
    # One conversion of the whole is the conversion of its parts.
    for part in ("params", "batch_stats", "opt_state", "ema"):
        converted = to_permuted(config, getattr(state, part))
        assert_trees_equal(getattr(permuted, part), converted)


def test_what_moves_is_what_reads_a_routed_map() -> None:
    """A branch's input convolution, and what a downsampling unit and conv5 do to the stage before."""
    variables = tiny_variables()
    before = dict(tree_paths(variables))
    moved = {
        path.partition(".")[2]
        for path, leaf in tree_paths(to_permuted(TINY, variables))
        if not torch.equal(leaf, before[path])
    }
    down = {
        f"{stage}.0.{layer}"
        for stage in ("stage3", "stage4")
        for layer in (
            "branch1.dw.conv.weight",
            *(f"branch1.dw.bn.{name}" for name in ("weight", "bias", "mean", "var")),
            "branch2.pw1.conv.weight",
        )
    }
    basic = {f"stage{stage}.1.branch2.pw1.conv.weight" for stage in (2, 3, 4)}
    # The depthwise convolution keeps the order, so the pointwise one behind it moves as well.
    pointwise = {f"stage{stage}.0.branch1.pw.conv.weight" for stage in (3, 4)}
    assert moved == down | basic | pointwise | {"conv5.conv.weight"}


def test_what_does_not_move_is_shared() -> None:
    variables = tiny_variables()
    permuted = to_permuted(TINY, variables)
    for path in (("conv1",), ("fc",), ("stage2", "0")):
        kept, new = (get_path(tree.params, path) for tree in (variables, permuted))
        assert all(a is b for a, b in zip(tree_leaves(kept), tree_leaves(new), strict=True))


def test_training_in_permuted_order_is_training() -> None:
    """Three steps with everything on, against the reference in canonical order."""
    optimizer = chain(clip_by_global_norm(0.5), sgd(constant(0.01), momentum=0.9, weight_decay=1e-3))
    start = create_train_state(tiny_variables(dtype=DOUBLE), optimizer, ema=True)
    results = []
    for backend in (REFERENCE, ROUTED):
        state, computing = in_order_of(TINY, start, backend)
        step = make_train_step(
            TINY, optimizer, backend=computing, ema_decay=0.9, microbatches=2, label_smoothing=0.1
        )
        for seed in range(3):
            batch = Examples(*examples(8, seed=seed, dtype=DOUBLE))
            state, _, _ = step(state, batch, no_flags())
        results.append(to_canonical(TINY, state) if backend is ROUTED else state)
    expected, found = results
    assert int(found.step) == 3
    assert_close_to_scale(found._replace(step=STEP), expected._replace(step=STEP), 1e-9)


def test_a_stacked_ensemble() -> None:
    members = [tiny_variables(seed) for seed in range(3)]
    stacked = tree_map(lambda *a: torch.stack(a), *members)
    expected = tree_map(lambda *a: torch.stack(a), *(to_permuted(TINY, m) for m in members))
    assert_trees_equal(to_permuted(TINY, stacked), expected)
    assert_trees_equal(to_canonical(TINY, expected), stacked)


def test_conversion_is_differentiable() -> None:
    variables = tiny_variables(dtype=DOUBLE)
    images, _ = examples(2, dtype=DOUBLE)
    twin = ROUTED.permuted
    assert twin is not None

    def through(params: Any) -> torch.Tensor:
        permuted = to_permuted(TINY, variables._replace(params=params))
        return apply(TINY, permuted, images, backend=twin)[0].square().sum()

    def directly(params: Any) -> torch.Tensor:
        return apply(TINY, variables._replace(params=params), images)[0].square().sum()

    found = torch.func.grad(through)(variables.params)
    assert_close_to_scale(found, torch.func.grad(directly)(variables.params), 1e-11)


def test_in_order_of_keeps_trees_without_a_twin() -> None:
    variables = tiny_variables()
    same, backend = in_order_of(TINY, variables, REFERENCE)
    assert same is variables and backend is REFERENCE
    permuted, twin = in_order_of(TINY, variables, ROUTED)
    assert twin is ROUTED.permuted
    assert_trees_equal(permuted, to_permuted(TINY, variables))


@pytest.mark.parametrize("convert", [to_permuted, to_canonical])
def test_other_trees_are_refused(convert: Any) -> None:
    with pytest.raises(ValueError, match=r"stage2\.1\.branch2\.pw1\.conv\.weight.*58 channels"):
        convert(get_config("x1_0"), init(get_config("x0_5"), generator()))
    with pytest.raises(ValueError, match="whole trees"):
        convert(TINY, tiny_variables().params["stage3"])
    with pytest.raises(ValueError, match=r"folded parameter.*Permute the Variables, then fold"):
        convert(TINY, fold(TINY, tiny_variables(), backend=ROUTED))
