"""Losses and counts of correct predictions, compared with torch and with counts by hand."""

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
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.losses import Mix, correct_counts, cross_entropy, mixed_cross_entropy
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_map
from tests.model.support import TINY, assert_close_to_scale, examples, generator, tiny_variables


def batch(count: int, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    rng = generator(3)
    logits = torch.randn(count, classes, generator=rng, dtype=torch.float64).to(dtype)
    return logits, torch.randint(0, classes, (count,), generator=rng)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_torchs_and_megviis(smoothing: float) -> None:
    logits, labels = batch(7, 10, torch.float64)
    loss = cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(
        loss, nnf.cross_entropy(logits, labels, label_smoothing=smoothing), rtol=1e-14, atol=0.0
    )
    target = (1 - smoothing) * nnf.one_hot(labels, 10).double() + smoothing / 10
    torch.testing.assert_close(loss, -(target * logits.log_softmax(1)).sum(1).mean(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_widened_first(dtype: torch.dtype) -> None:
    logits, labels = batch(64, 1000, dtype)
    loss = cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, nnf.cross_entropy(logits.float(), labels))
    assert cross_entropy(logits.double(), labels).dtype == torch.float64


@pytest.mark.parametrize("own_weight", [0.3, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_loss_equals_soft_target_loss(smoothing: float, own_weight: float) -> None:
    logits, labels = batch(8, 10, torch.float64)
    partners, weight = labels.flip(0), torch.tensor(own_weight, dtype=torch.float64)
    target = weight * nnf.one_hot(labels, 10) + (1 - weight) * nnf.one_hot(partners, 10)

    def ours(logits: Tensor) -> Tensor:
        return mixed_cross_entropy(logits, labels, Mix(partners, weight), label_smoothing=smoothing)

    def expected(logits: Tensor) -> Tensor:
        return nnf.cross_entropy(logits, target, label_smoothing=smoothing)

    torch.testing.assert_close(ours(logits), expected(logits), rtol=1e-13, atol=0.0)
    torch.testing.assert_close(
        torch.func.grad(ours)(logits), torch.func.grad(expected)(logits), rtol=1e-12, atol=1e-15
    )
    plain = mixed_cross_entropy(logits, labels, (), label_smoothing=smoothing)
    assert torch.equal(plain, cross_entropy(logits, labels, label_smoothing=smoothing))


@pytest.mark.parametrize("classes", [1, 2, 5, 6, 100])
def test_topk_counts_equal_sorted_ranks(classes: int) -> None:
    logits, labels = batch(200, classes)
    ranks = [
        row.argsort(descending=True).tolist().index(label)
        for row, label in zip(logits, labels.tolist(), strict=True)
    ]
    top1, top5 = correct_counts(logits, labels)
    assert top1.item() == sum(rank < 1 for rank in ranks)
    assert top5.item() == sum(rank < 5 for rank in ranks)
    assert top1.dtype == top5.dtype == torch.int64 and top1.shape == ()
    if classes <= 5:
        assert top5.item() == 200


def test_other_ks_and_infinities() -> None:
    logits, labels = batch(200, 10)
    one, three, five, ten = correct_counts(logits, labels, (1, 3, 5, 10))
    assert 0 < one < three < five < ten == 200
    logits = torch.tensor([[1.0, float("inf"), -float("inf")]])
    assert correct_counts(logits, torch.tensor([1]))[0].item() == 1
    assert correct_counts(logits, torch.tensor([2]), (2,))[0].item() == 0


@pytest.mark.parametrize("classes", [3, 10])
def test_a_row_with_a_nan_is_wrong(classes: int) -> None:
    logits = torch.zeros(4, classes)
    logits[:, 1] = 9.0
    labels = torch.ones(4, dtype=torch.int64)
    assert [count.item() for count in correct_counts(logits, labels)] == [4, 4]
    logits[2, 1] = float("nan")
    logits[3, 0] = float("nan")
    assert [count.item() for count in correct_counts(logits, labels)] == [2, 2]
    assert [c.item() for c in correct_counts(torch.full_like(logits, torch.nan), labels)] == [0, 0]


# ---- training steps with images that mixup or cutmix mixed ----


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
