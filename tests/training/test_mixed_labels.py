"""Training steps with images that mixup or cutmix mixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training import schedules
from shufflenet_fn.training.flat_state import flatten_state, unflatten_state
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.losses import Mix, correct_counts
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_map
from tests.model.support import TINY, assert_close_to_scale, assert_trees_equal, examples, tiny_variables

DOUBLE = torch.float64
# Plain SGD with rate 1 makes the gradients readable: params - new params.
BARE = sgd(schedules.constant(1.0))


def mixed(count: int, *, weight: float = 0.7, dtype: torch.dtype = DOUBLE) -> Examples:
    images, labels = examples(count, dtype=dtype)
    partners = labels.reshape(-1, 2).flip(1).reshape(-1)
    return Examples(images, labels, Mix(partners, torch.tensor(weight)))


def test_gradients_are_those_of_soft_labels() -> None:
    variables, batch = tiny_variables(dtype=DOUBLE), mixed(4)
    assert isinstance(batch.mix, Mix)
    weight, classes = batch.mix.weight.double(), TINY.num_classes
    own, other = nnf.one_hot(batch.labels, classes), nnf.one_hot(batch.mix.partners, classes)
    target = weight * own + (1 - weight) * other

    def loss_fn(params: Any) -> tuple[Tensor, Tensor]:
        logits, _ = apply(TINY, Variables(params, variables.batch_stats), batch.images, train=True)
        return nnf.cross_entropy(logits, target, label_smoothing=0.1), logits

    step = make_train_step(TINY, BARE, label_smoothing=0.1)
    new, metrics, _ = step(create_train_state(variables, BARE), batch, no_flags())
    grads, (loss, logits) = torch.func.grad_and_value(loss_fn, has_aux=True)(variables.params)
    assert_close_to_scale(tree_map(torch.sub, variables.params, new.params), grads, 1e-11)
    torch.testing.assert_close(metrics.loss, loss.float())
    assert metrics.accuracy1.item() == correct_counts(logits, batch.labels)[0].item() / 4


def test_full_weight_on_own_label_is_unmixed() -> None:
    batch, state = mixed(4, weight=1.0), create_train_state(tiny_variables(dtype=DOUBLE), BARE)
    step = make_train_step(TINY, BARE)
    new, metrics, _ = step(state, batch, no_flags())
    plain, expected, _ = step(state, batch._replace(mix=()), no_flags())
    assert_close_to_scale(new.params, plain.params, 1e-13)
    torch.testing.assert_close(metrics, expected)


def test_microbatch_step_averages_over_parts() -> None:
    batch, state = mixed(8), create_train_state(tiny_variables(dtype=DOUBLE), BARE)
    assert isinstance(batch.mix, Mix)
    new, _, _ = make_train_step(TINY, BARE, microbatches=2)(state, batch, no_flags())
    parts = zip(batch.images.chunk(2), batch.labels.chunk(2), batch.mix.partners.chunk(2), strict=True)
    single = make_train_step(TINY, BARE)
    halves = [
        single(state, Examples(images, labels, Mix(partners, batch.mix.weight)), no_flags())[0]
        for images, labels, partners in parts
    ]
    mean = tree_map(lambda one, other: (one + other) / 2, halves[0].params, halves[1].params)
    assert_close_to_scale(new.params, mean, 1e-12)


@pytest.mark.parametrize("precision", ["bf16", "O2"])
def test_flat_states_in_half_precision(precision: str) -> None:
    scaling = LossScaling("static", initial=64.0)
    state = create_train_state(tiny_variables(), BARE, loss_scaling=scaling)
    step = make_train_step(
        TINY, BARE, policy=get_policy(precision), loss_scaling=scaling, gradients=grads_by_engine
    )
    batch = mixed(4, dtype=torch.float32)
    plain, metrics, _ = step(state, batch, no_flags())
    flat, same, _ = step(flatten_state(state), batch, no_flags())
    assert metrics.loss.dtype == torch.float32
    assert_trees_equal(unflatten_state(flat), plain)
    assert_trees_equal(same, metrics)


def test_another_weight_compiles_nothing_again() -> None:
    counter = CompileCounter()
    step = make_train_step(
        TINY,
        BARE,
        gradients=grads_by_engine,
        compiler=lambda function: torch.compile(function, backend=counter),
    )
    state = create_train_state(tiny_variables(), BARE)
    for weight in (0.7, 0.2, 1.0):
        step(state, mixed(4, weight=weight, dtype=torch.float32), no_flags())
    assert counter.frame_count == 1
