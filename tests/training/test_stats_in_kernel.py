"""Running statistics that batch norm's kernels update, in a copy that the step owns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.training.flat_state import flatten_state, unflatten_state
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_map
from shufflenet_fn_backends.registry import get_backend
from tests.model.support import TINY, assert_trees_close, assert_trees_equal, examples, tiny_variables


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


def test_functional_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match="grads_by_engine"):
        make_train_step(TINY, sgd(constant(0.1)), stats_in_kernel=True)


def test_backend_without_the_kernel_is_refused() -> None:
    optimizer = sgd(constant(0.1))
    step = make_train_step(
        TINY, optimizer, backend=get_backend("routed"), gradients=grads_by_engine, stats_in_kernel=True
    )
    state = flatten_state(create_train_state(tiny_variables(), optimizer))
    with pytest.raises(ValueError, match="backend routed cannot update running statistics"):
        step(state, Examples(*examples(4)), no_flags())
