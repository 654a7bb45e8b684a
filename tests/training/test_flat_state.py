"""A step computes the same on flat and on plain states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.training.decay import DecayFilter, decay_all, decay_weights
from shufflenet_fn.training.flat import ALIGNMENT, Flat, flat_spec, flatten, unflatten
from shufflenet_fn.training.flat_state import flatten_state, unflatten_state
from shufflenet_fn.training.gradients import Gradients, grads_by_engine, grads_by_func
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import chain, clip_by_global_norm, sgd
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, Flags, Metrics, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_map
from shufflenet_fn_backends.registry import get_backend
from tests.model.support import (
    TINY,
    assert_trees_close,
    assert_trees_equal,
    examples,
    one_thread,
    tiny_variables,
)

__all__ = ["one_thread"]

BATCH = Examples(*examples(6))


def states(
    scaling: LossScaling,
    clip: float | None,
    gradients: Gradients,
    microbatches: int = 1,
    decay: DecayFilter = decay_all,
    **options: Any,
) -> list[tuple[TrainState, Metrics, Flags]]:
    """Three steps on a plain state and on a flat one."""
    optimizer = sgd(constant(0.1), momentum=0.9, weight_decay=1e-2, decay=decay)
    if clip is not None:
        optimizer = chain(clip_by_global_norm(clip), optimizer)
    step = make_train_step(
        TINY,
        optimizer,
        loss_scaling=scaling,
        ema_decay=0.9,
        gradients=gradients,
        microbatches=microbatches,
        label_smoothing=0.1,
        **options,
    )
    plain = create_train_state(tiny_variables(), optimizer, loss_scaling=scaling, ema=True)
    outcomes = []
    for state in (plain, flatten_state(plain)):
        for _ in range(3):
            state, metrics, flags = step(state, BATCH, no_flags())
        # A sum, in another order.
        finite = flags._replace(gradient=flags.gradient.isfinite())
        outcomes.append((state, metrics, finite))
    return outcomes


@pytest.mark.parametrize("gradients", [grads_by_engine, grads_by_func])
@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "O2"])
def test_a_step_computes_the_same_bits(precision: str, microbatches: int, gradients: Gradients) -> None:
    scaling = LossScaling("static", initial=64.0) if precision == "O2" else LossScaling()
    (plain, metrics, flags), (flat, metrics2, flags2) = states(
        scaling, None, gradients, microbatches, policy=get_policy(precision)
    )
    assert isinstance(flat.params, Flat)
    assert all(isinstance(buffer, Tensor) and buffer.ndim == 1 for buffer in flat.params.buffers)
    assert len(tree_leaves(flat.params)) == 2
    assert len(tree_leaves(flat.opt_state)) == 2
    assert_trees_equal(unflatten_state(flat), plain)
    assert_trees_equal((metrics2, flags2), (metrics, flags))


def test_clipping_agrees_up_to_summation_order() -> None:
    (plain, *_), (flat, *_) = states(LossScaling(), 0.5, grads_by_engine)
    assert_trees_close(unflatten_state(flat), plain, rtol=1e-5, atol=1e-6)


def test_reduce_receives_flat_buffers() -> None:
    seen = []
    optimizer = sgd(constant(0.1))
    step = make_train_step(TINY, optimizer, reduce=lambda tree: seen.append(tree) or tree)
    step(flatten_state(create_train_state(tiny_variables(), optimizer)), BATCH, no_flags())
    assert len(tree_leaves(seen[0])) == 2 + 2 + len(Metrics._fields) + len(Flags._fields)


def test_round_trip_and_alignment() -> None:
    tree = {"a": torch.randn(3, 5), "b": {"c": torch.randn(16), "d": torch.randn(())}}
    spec = flat_spec(tree, lambda path, leaf: "one" if path.startswith("b") else "other")
    flat = flatten(tree, spec)
    assert [buffer.numel() for buffer in flat.buffers] == [16, 32]
    assert all(slot.start % ALIGNMENT == 0 for slot in spec.slots)
    assert_trees_equal(unflatten(flat), tree)
    assert unflatten(flat)["a"].data_ptr() == flat.buffers[0].data_ptr(), "a copy"
    assert flatten(flat, spec) is flat
    doubled = tree_map(lambda buffer: 2 * buffer, flat)
    assert_trees_equal(unflatten(doubled), tree_map(lambda leaf: 2 * leaf, tree))


def test_what_cannot_be_flattened_together() -> None:
    tree = {"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.float64)}
    spec = flat_spec(tree, lambda path, leaf: "all")
    with pytest.raises(ValueError, match=r"'all' cannot hold \['torch.float32', 'torch.float64'\]"):
        flatten(tree, spec)
    with pytest.raises(ValueError, match="other leaves"):
        flatten({"a": torch.zeros(3), "b": torch.zeros(2)}, spec)


@pytest.mark.parametrize(
    "decay", [decay_weights, lambda path, leaf: "stage2" in path, lambda path, leaf: False]
)
def test_decay_of_some_parameters(decay: DecayFilter) -> None:
    (plain, *_), (flat, *_) = states(LossScaling(), None, grads_by_engine, decay=decay)
    assert_trees_close(unflatten_state(flat), plain, rtol=1e-6, atol=1e-7)


# ---- running statistics that batch norm's kernels update, in a copy that the step owns ----


def two_steps(backend: str, *, size: int = 8, microbatches: int = 1, in_kernel: bool) -> Any:
    optimizer = sgd(constant(0.05), momentum=0.9)
    state, computing = in_order_of(
        TINY, create_train_state(tiny_variables(dtype=torch.float64), optimizer), get_backend(backend)
    )
    step = make_train_step(
        TINY,
        optimizer,
        backend=computing,
        gradients=grads_by_engine,
        microbatches=microbatches,
        stats_in_kernel=in_kernel,
    )
    state = flatten_state(state)
    batch = Examples(*examples(size, dtype=torch.float64))
    before = tree_map(torch.clone, state.batch_stats)
    new, _, _ = step(state, batch, no_flags())
    assert_trees_equal(state.batch_stats, before)
    return unflatten_state(step(new, batch, no_flags())[0]).variables


@pytest.mark.parametrize("backend", ["reference", "native", "gather", "routed"])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_kernels_and_moments_give_the_same_statistics(backend: str, microbatches: int) -> None:
    ours, wanted = (two_steps(backend, microbatches=microbatches, in_kernel=flag) for flag in (True, False))
    assert_trees_close(ours, wanted, rtol=1e-12, atol=1e-12)


def test_statistics_in_kernels_need_engine_and_backend() -> None:
    optimizer = sgd(constant(0.1))
    with pytest.raises(ValueError, match="grads_by_engine"):
        make_train_step(TINY, optimizer, stats_in_kernel=True)
    step = make_train_step(
        TINY, optimizer, backend=get_backend("routed"), gradients=grads_by_engine, stats_in_kernel=True
    )
    state = flatten_state(create_train_state(tiny_variables(), optimizer))
    with pytest.raises(ValueError, match="backend routed cannot update running statistics"):
        step(state, Examples(*examples(4)), no_flags())
