"""Overflow flags of devices that saturate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from shufflenet_fn.training.flat_state import flatten_state
from shufflenet_fn.training.gradients import Gradients, grads_by_func
from shufflenet_fn.training.loss_scale import LossScale, LossScaling
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, TrainStep, make_train_step, no_flags
from shufflenet_fn.tree import finite_if_all_are, tree_leaves, tree_map
from shufflenet_fn_backends.runtimes.base import Overflow
from tests.model.support import TINY, assert_trees_equal, examples, tiny_variables


class Register:
    """A float status register: set by whoever overflows, cleared and read by the step."""

    def __init__(self) -> None:
        self.flag, self.read = 0.0, 0

    def clear(self) -> None:
        self.flag = 0.0

    def raised(self) -> torch.Tensor:
        self.read += 1
        return torch.tensor(self.flag)


def step_with(register: Register, scaling: LossScaling, *, overflows: bool, ranks: int = 1) -> Any:
    """One step whose images overflow on the way if told to; of ``ranks``, only this one sees it."""
    optimizer = sgd(constant(0.1))

    def prepare(images: torch.Tensor) -> torch.Tensor:
        register.flag = 1.0 if overflows else register.flag
        return images

    step = make_train_step(
        TINY,
        optimizer,
        loss_scaling=scaling,
        microbatches=2,
        prepare=prepare,
        reduce=lambda tree: tree._replace(flags=tree_map(lambda leaf: leaf / ranks, tree.flags)),
        overflow=Overflow(register.clear, register.raised),
    )
    state = create_train_state(tiny_variables(), optimizer, loss_scaling=scaling)
    new, _, flags = step(state, Examples(*examples(8)), no_flags())
    return state, new, flags


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("ranks", [1, 8])
def test_a_step_that_raised_the_flag_is_skipped(kind: str, ranks: int) -> None:
    scaling = LossScaling(kind, initial=64.0)
    state, new, flags = step_with(Register(), scaling, overflows=True, ranks=ranks)
    assert flags.skipped == 1
    assert int(new.step) == 1
    assert_trees_equal(new.params, state.params)
    assert isinstance(new.loss_scale, LossScale)
    assert new.loss_scale.scale == (32.0 if kind == "dynamic" else 64.0)


def test_overflow_flag_from_before_the_step_is_ignored() -> None:
    register = Register()
    register.flag = 1.0  # an evaluation that overflowed
    state, new, flags = step_with(register, LossScaling("dynamic", initial=64.0), overflows=False)
    assert flags.skipped == 0
    assert not torch.equal(state.params["fc"]["weight"], new.params["fc"]["weight"])


def test_without_a_scale_the_flag_is_not_read() -> None:
    register = Register()
    state, new, _ = step_with(register, LossScaling(), overflows=True)
    assert register.read == 0
    assert not torch.equal(state.params["fc"]["weight"], new.params["fc"]["weight"])


# ---- steps without a loss scale whose loss or gradient is not finite ----


Flatten = Callable[[TrainState], TrainState]


NAN, INF = float("nan"), float("inf")


def spoil(value: float) -> Gradients:
    """Gradients of which one element is ``value``, while the loss is what it is."""

    def gradients(function: Any, params: Any) -> Any:
        grads, aux = grads_by_func(function, params)
        grads["fc"]["bias"] = grads["fc"]["bias"].index_fill(0, torch.tensor([1]), value)
        return grads, aux

    return gradients


def build(**arguments: Any) -> tuple[TrainStep, TrainState]:
    optimizer = sgd(constant(0.125), momentum=0.9)
    step = make_train_step(TINY, optimizer, ema_decay=0.9, **arguments)
    return step, create_train_state(tiny_variables(), optimizer, ema=True)


@pytest.mark.parametrize("form", [lambda state: state, flatten_state], ids=["plain", "flat"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_bad_gradient_with_finite_loss_is_reported(form: Flatten, value: float) -> None:
    step, state = build(gradients=spoil(value))
    _, metrics, flags = step(form(state), Examples(*examples(4)), no_flags())
    assert metrics.loss.isfinite() and not flags.gradient.isfinite()
    assert flags.skipped == 0
    good, _, flags = build()[0](form(state), Examples(*examples(4)), no_flags())
    assert flags.gradient.isfinite() and all(leaf.isfinite().all() for leaf in tree_leaves(good))


@pytest.mark.parametrize("form", [lambda state: state, flatten_state], ids=["plain", "flat"])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_a_bad_step_changes_nothing_if_asked(form: Flatten, where: str) -> None:
    images, labels = examples(4)
    spoiled = {"gradients": spoil(NAN)} if where == "gradient" else {}
    if where == "loss":
        images[1, 0, 3, 3] = INF
    step, state = build(skip_bad=True, **spoiled)
    new, metrics, flags = step(form(state), Examples(images, labels), no_flags())
    assert flags.skipped == 1 and new.step == 1
    assert bool(metrics.loss.isfinite()) == (where == "gradient")
    assert_trees_equal(new._replace(step=state.step), form(state)._replace(step=state.step))


def test_skipping_changes_no_good_step() -> None:
    for seed in range(2):
        batch = Examples(*examples(4, seed=seed))
        (plain, state), (skipping, _) = build(), build(skip_bad=True)
        new, _, flags = skipping(state, batch, no_flags())
        assert flags.skipped == 0
        assert_trees_equal(new, plain(state, batch, no_flags())[0])


@pytest.mark.parametrize("leaves", [1, 2, 9])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_nonfinite_element_is_detected(leaves: int, dtype: torch.dtype) -> None:
    largest = 65504.0 if dtype is torch.float16 else 1e30
    for values in ((), (NAN,), (INF,), (-INF,), (INF, -INF)):
        tree = [torch.full((3, 5), largest, dtype=dtype) for _ in range(leaves)]
        for place, value in enumerate(values):
            tree[-1][place, 2] = value
        assert bool(finite_if_all_are(tree).isfinite()) == (not values), values


def test_it_composes_with_vmap() -> None:
    values = torch.tensor([[1.0, 2.0], [1.0, NAN], [-INF, INF]])
    told = torch.func.vmap(lambda row: finite_if_all_are({"a": row, "b": row[:1]}))(values)
    assert told.isfinite().tolist() == [True, False, False]
