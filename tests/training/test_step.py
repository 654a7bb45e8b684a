"""The training step and the evaluation step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training import schedules
from shufflenet_fn.training.decay import decay_weights
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.losses import Mix, cross_entropy
from shufflenet_fn.training.optim import GradientTransformation, chain, clip_by_global_norm, sgd
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import (
    Examples,
    Metrics,
    Reducible,
    make_eval_step,
    make_train_step,
    no_flags,
)
from shufflenet_fn.tree import tree_leaves, tree_map
from tests.model.support import (
    TINY,
    assert_close_to_scale,
    assert_nothing_shared,
    assert_trees_close,
    assert_trees_equal,
    examples,
    tiny_variables,
    unchanged,
)

DOUBLE = torch.float64
# Plain SGD with rate 1 makes the gradients readable: params - new params.
BARE = sgd(schedules.constant(1.0))


def full_optimizer() -> GradientTransformation:
    return chain(
        clip_by_global_norm(5.0),
        sgd(
            schedules.cosine(0.125, total_steps=50, warmup_steps=2),
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-3,
            decay=decay_weights,
        ),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_is_gradient_update_and_statistics(smoothing: float) -> None:
    variables = tiny_variables(dtype=DOUBLE)
    batch = Examples(*examples(4, dtype=DOUBLE))
    step = make_train_step(TINY, BARE, label_smoothing=smoothing)
    new, metrics, flags = step(create_train_state(variables, BARE), batch, no_flags())

    def loss_fn(params: Any) -> tuple[Tensor, Any]:
        logits, batch_stats = apply(TINY, Variables(params, variables.batch_stats), batch.images, train=True)
        return cross_entropy(logits, batch.labels, label_smoothing=smoothing), batch_stats

    grads, (loss, batch_stats) = torch.func.grad_and_value(loss_fn, has_aux=True)(variables.params)
    gone = tree_map(torch.sub, variables.params, new.params)
    assert_close_to_scale(gone, grads, 1e-11)
    assert_trees_close(new.batch_stats, batch_stats, rtol=1e-13, atol=0.0)
    torch.testing.assert_close(metrics.loss, loss.float())
    assert new.step.item() == 1 and new.step.dtype == torch.int64
    assert (flags.stop.item(), flags.skipped.item()) == (0.0, 0.0)
    assert new.ema == ()


@pytest.mark.parametrize(("microbatches", "mixed"), [(2, False), (4, False), (2, True)])
def test_microbatch_step_averages_over_parts(microbatches: int, mixed: bool) -> None:
    images, labels = examples(8, dtype=DOUBLE)
    partners, weight = labels.flip(0), torch.tensor(0.7)
    state = create_train_state(tiny_variables(dtype=DOUBLE), BARE)

    def batch(images: Tensor, labels: Tensor, partners: Tensor) -> Examples:
        return Examples(images, labels, Mix(partners, weight) if mixed else ())

    step = make_train_step(TINY, BARE, microbatches=microbatches)
    new, metrics, _ = step(state, batch(images, labels, partners), no_flags())
    single = make_train_step(TINY, BARE)
    cuts = zip(*(tensor.chunk(microbatches) for tensor in (images, labels, partners)), strict=True)
    parts = [single(state, batch(*cut), no_flags()) for cut in cuts]

    def mean(*leaves: Tensor) -> Tensor:
        return torch.stack(leaves).mean(0)

    assert_close_to_scale(new.params, tree_map(mean, *(part[0].params for part in parts)), 1e-12)
    expected = tree_map(mean, *(part[0].batch_stats for part in parts))
    assert_trees_close(new.batch_stats, expected, rtol=1e-12, atol=1e-14)
    assert_trees_close(metrics, tree_map(mean, *(p[1] for p in parts)), rtol=1e-6, atol=0.0)
    # Each microbatch normalises on its own, so this is not what the whole batch gives.
    whole, _, _ = single(state, batch(images, labels, partners), no_flags())
    assert not torch.allclose(whole.params["fc"]["weight"], new.params["fc"]["weight"])
    assert new.step.item() == 1


def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    step = make_train_step(TINY, BARE, microbatches=3)
    state = create_train_state(tiny_variables(), BARE)
    with pytest.raises(ValueError, match="8 samples cannot be cut in 3 equal microbatches"):
        step(state, Examples(*examples(8)), no_flags())


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("kind", ["none", "static", "dynamic"])
def test_a_step_changes_nothing_that_it_is_given(microbatches: int, kind: str) -> None:
    scaling = LossScaling(kind)
    optimizer = full_optimizer()
    step = make_train_step(
        TINY, optimizer, microbatches=microbatches, loss_scaling=scaling, ema_decay=0.9, label_smoothing=0.1
    )
    state = create_train_state(tiny_variables(), optimizer, loss_scaling=scaling, ema=True)
    state, _, _ = step(state, Examples(*examples(4)), no_flags())
    batch, flags = Examples(*examples(4, seed=2)), no_flags()
    with unchanged(state, batch, flags):
        new, _, _ = step(state, batch, flags)
        again, _, _ = step(state, batch, flags)
    assert_trees_equal(again, new)
    assert torch.utils._pytree.tree_structure(new) == torch.utils._pytree.tree_structure(state)
    assert_nothing_shared(new._replace(loss_scale=()), state._replace(loss_scale=()))


def test_metrics_are_means_over_the_batch() -> None:
    """The classifier is made to answer class 2 whatever it sees."""
    variables = tiny_variables()
    bias = torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0])
    head = {"weight": torch.zeros_like(variables.params["fc"]["weight"]), "bias": bias}
    variables = variables._replace(params={**variables.params, "fc": head})
    images, _ = examples(8)
    labels = torch.tensor([2, 2, 2, 0, 1, 3, 4, 0])
    step = make_train_step(TINY, BARE)
    _, metrics, _ = step(create_train_state(variables, BARE), Examples(images, labels), no_flags())
    assert metrics.accuracy1.item() == 3 / 8
    assert metrics.accuracy5.item() == 1.0
    expected = (-bias.log_softmax(0))[labels].mean()
    torch.testing.assert_close(metrics.loss, expected)
    assert {leaf.dtype for leaf in metrics} == {torch.float32}
    assert {leaf.shape for leaf in metrics} == {torch.Size()}


def test_what_is_reduced_is_what_is_used() -> None:
    """``reduce`` sees gradients, statistics, metrics and flags; its answer is what the step goes on with."""
    seen: list[Reducible] = []

    def reduce(tree: Reducible) -> Reducible:
        seen.append(tree)
        return Reducible(
            tree_map(torch.zeros_like, tree.grads),
            tree_map(lambda leaf: torch.full_like(leaf, 7.0), tree.batch_stats),
            Metrics(*(torch.tensor(float(i)) for i in range(3))),
            no_flags()._replace(stop=torch.tensor(0.25)),
        )

    state = create_train_state(tiny_variables(), BARE)
    given = no_flags()._replace(stop=torch.tensor(1.0))
    step = make_train_step(TINY, BARE, reduce=reduce)
    new, metrics, flags = step(state, Examples(*examples(4)), given)
    (tree,) = seen
    assert (tree.flags.stop, tree.flags.skipped) == (given.stop, given.skipped)
    assert_trees_equal(new.params, state.params)
    assert all((leaf == 7.0).all() for leaf in tree_leaves(new.batch_stats))
    assert [value.item() for value in metrics] == [0.0, 1.0, 2.0]
    assert flags.stop.item() == 0.25


def test_prepare_is_called_with_each_microbatch() -> None:
    seen: list[tuple[torch.dtype, int]] = []

    def prepare(images: Tensor) -> Tensor:
        seen.append((images.dtype, images.shape[0]))
        return images.float() / 255 - 0.5

    images = (torch.rand(4, 3, 32, 32) * 255).to(torch.uint8)
    labels = torch.tensor([0, 1, 2, 3])
    state = create_train_state(tiny_variables(), BARE)
    raw, _, _ = make_train_step(TINY, BARE, microbatches=2, prepare=prepare)(
        state, Examples(images, labels), no_flags()
    )
    assert seen == [(torch.uint8, 2), (torch.uint8, 2)]
    ready, _, _ = make_train_step(TINY, BARE, microbatches=2)(
        state, Examples(prepare(images), labels), no_flags()
    )
    assert_trees_equal(raw, ready)


def test_the_average_follows_its_formula() -> None:
    optimizer = full_optimizer()
    step = make_train_step(TINY, optimizer, ema_decay=0.75)
    state = create_train_state(tiny_variables(dtype=DOUBLE), optimizer, ema=True)
    expected = state.variables
    assert_trees_equal(state.ema, expected)
    assert_nothing_shared(state.ema, state.variables)
    for seed in range(3):
        state, _, _ = step(state, Examples(*examples(4, seed=seed, dtype=DOUBLE)), no_flags())
        expected = tree_map(lambda a, v: 0.75 * a + 0.25 * v, expected, state.variables)
        assert_trees_close(state.ema, expected, rtol=1e-13, atol=1e-15)


def test_evaluation_gives_sums_that_add_up() -> None:
    variables = tiny_variables(dtype=DOUBLE)
    images, labels = examples(9, dtype=DOUBLE)
    step = make_eval_step(TINY)
    with unchanged(variables, images, labels):
        whole = step(variables, Examples(images, labels))
    parts = [step(variables, Examples(*part)) for part in zip(images.split(4), labels.split(4), strict=True)]
    total = tree_map(lambda *sums: torch.stack(sums).sum(0), *parts)
    torch.testing.assert_close(total.loss, whole.loss, rtol=1e-6, atol=0.0)
    assert (total.correct1.item(), total.correct5.item()) == (whole.correct1.item(), 9)

    logits, _ = apply(TINY, variables, images)
    assert whole.correct1.item() == (logits.argmax(1) == labels).sum().item()
    torch.testing.assert_close(whole.loss.double(), 9 * cross_entropy(logits, labels), rtol=1e-6, atol=0)
    assert whole.loss.dtype == DOUBLE
    assert whole.correct1.dtype == whole.correct5.dtype == torch.int64


def test_the_state_is_one_pytree_on_one_device() -> None:
    optimizer = full_optimizer()
    state = create_train_state(tiny_variables(), optimizer, loss_scaling=LossScaling("dynamic"), ema=True)
    assert isinstance(state, TrainState)
    assert {leaf.device.type for leaf in tree_leaves(state)} == {"cpu"}
    meta = create_train_state(tree_map(lambda leaf: leaf.to("meta"), tiny_variables()), optimizer)
    assert {leaf.device.type for leaf in tree_leaves(meta)} == {"meta"}
