"""Backend ``cpu`` in the whole network, and under transforms.

Its sums are taken in another order than torch's, so it is held against the reference in float64, and may be
as far from it as the reference in the same precision is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp

from shufflenet_fn.model.channel_order import in_order_of, to_canonical
from shufflenet_fn.model.config import ARCHITECTURES, ShuffleNetConfig, get_config
from shufflenet_fn.model.inference import make_predictor
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training.gradients import grads_by_engine, grads_by_func
from shufflenet_fn.training.losses import cross_entropy
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.tree import tree_cast, tree_leaves, tree_map
from shufflenet_fn_backends.cpu import BACKEND as CPU
from shufflenet_fn_backends.fused.operators import Pointwise
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.reference import BACKEND as REFERENCE
from tests.model.support import (
    TINY,
    assert_close_to_scale,
    assert_trees_equal,
    examples,
    one_thread,
    tiny_variables,
    unchanged,
)

__all__ = ["one_thread"]

orders = pytest.mark.parametrize("permuted", [False, True], ids=["canonical", "permuted"])


def outcome(
    config: ShuffleNetConfig,
    backend: Backend[Any],
    variables: Variables,
    images: Tensor,
    labels: Tensor,
    *,
    train: bool,
    permuted: bool = False,
    precision: str | None = None,
    gradients: Any = grads_by_engine,
) -> tuple[Tensor, Any, Any]:
    """Logits, gradients and new batch statistics, in canonical order."""
    policy = None if precision is None else get_policy(precision)
    if permuted:
        variables, backend = in_order_of(config, variables, backend)

    def loss(params: Any) -> tuple[Tensor, Any]:
        logits, stats = apply(
            config,
            Variables(params, variables.batch_stats),
            images,
            train=train,
            backend=backend,
            policy=policy,
        )
        return cross_entropy(logits, labels), (logits, stats)

    grads, (logits, stats) = gradients(loss, variables.params)
    if permuted:
        grads, stats = to_canonical(config, grads), to_canonical(config, stats)
    return logits, grads, stats


def distance(tree: Any, exact: Any) -> float:
    """The largest difference, each tensor's relative to its largest value or to the tree's thousandth."""
    pairs = list(zip(tree_leaves(tree), tree_leaves(exact), strict=True))
    least = max(b.abs().max().item() for _, b in pairs) / 1000
    return max(
        (a.double() - b.double()).abs().max().item() / max(b.abs().max().item(), least) for a, b in pairs
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
@orders
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_error_is_no_larger_than_the_references(
    name: str, permuted: bool, train: bool, precision: str
) -> None:
    # A value that rounding carries over a ReLU's zero moves a whole gradient, in either backend. It is rare,
    # and a mistake would show with all weights.
    found: list[float] = []
    for seed in range(3):
        found.append(shortfall(name, seed, permuted, train, precision))
        if found[-1] <= 0:
            return
    pytest.fail(f"further from float64 than the reference by {found}")


def shortfall(name: str, seed: int, permuted: bool, train: bool, precision: str) -> float:
    """By how much ours is further from the truth than twice the reference's distance; 0 or less is good."""
    config = get_config(name, num_classes=10)
    variables = tiny_variables(seed, config=config)
    images, labels = examples(4, 64, num_classes=10, seed=seed + 10)
    images = images.contiguous(memory_format=torch.channels_last)
    exact = outcome(
        config, REFERENCE, tree_cast(variables, torch.float64), images.double(), labels, train=train
    )
    reference = outcome(config, REFERENCE, variables, images, labels, train=train, precision=precision)
    with unchanged(variables, images):
        found = outcome(
            config, CPU, variables, images, labels, train=train, permuted=permuted, precision=precision
        )
    return max(
        distance(ours, truth) - 2 * distance(theirs, truth) - 1e-6
        for ours, theirs, truth in zip(found, reference, exact, strict=True)
    )


def test_both_kinds_of_gradient_are_the_same_bits() -> None:
    variables, batch = tiny_variables(), examples(4, 32)
    for permuted in (False, True):
        results = [
            outcome(TINY, CPU, variables, *batch, train=True, permuted=permuted, gradients=kind)
            for kind in (grads_by_engine, grads_by_func)
        ]
        assert_trees_equal(*results)


def loss_over(variables: Variables, backend: Backend[Any] = CPU) -> Callable[..., Tensor]:
    def loss(params: Any, images: Tensor, labels: Tensor) -> Tensor:
        stats = variables.batch_stats
        logits, _ = apply(TINY, Variables(params, stats), images, train=True, backend=backend)
        return cross_entropy(logits, labels)

    return loss


@pytest.mark.parametrize("train", [False, True])
def test_the_gradient_of_the_images(train: bool) -> None:
    variables = tiny_variables()
    images, _ = examples(2, 32)

    def score(images: Tensor, backend: Backend[Any]) -> Tensor:
        return apply(TINY, variables, images, train=train, backend=backend)[0][:, 0].sum()

    found, expected = grad(score)(images, CPU), grad(score)(images, REFERENCE)
    assert expected.abs().max() > 0
    assert_close_to_scale({"images": found}, {"images": expected}, 1e-3)


def test_images_of_any_layout_give_the_same() -> None:
    variables = tiny_variables()
    images, _ = examples(2, 33)
    strided = torch.empty(2, 3, 33, 66)[..., ::2].copy_(images)
    results = [
        apply(TINY, variables, x, train=True, backend=CPU)[0]
        for x in (images, images.contiguous(memory_format=torch.channels_last), strided)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_pending_convolution_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, forward = [], Pointwise.forward
    monkeypatch.setattr(Pointwise, "forward", lambda self, tensors: calls.append(1) or forward(self, tensors))
    pending = CPU.conv2d(torch.ones(2, 8, 5, 5), torch.ones(8, 8, 1, 1), stride=1, padding=0, groups=1)
    CPU.to_tensor(CPU.conv2d(pending, torch.ones(6, 8, 5, 5), stride=1, padding=2, groups=1))
    assert len(calls) == 1


def test_running_statistics_in_bfloat16() -> None:
    variables, (images, _) = tiny_variables(), examples(2, 33)
    half = variables._replace(batch_stats=tree_cast(variables.batch_stats, torch.bfloat16))
    found, expected = (apply(TINY, v, images, backend=CPU)[0] for v in (half, variables))
    assert_close_to_scale(found, expected, 0.02)


def test_second_derivatives_are_refused_with_the_way_out() -> None:
    variables, (images, labels) = tiny_variables(), examples(2, 32)
    loss = loss_over(variables)

    def squared_norm(params: Any) -> Tensor:
        return sum(leaf.square().sum() for leaf in tree_leaves(grad(loss)(params, images, labels)))

    with pytest.raises(NotImplementedError, match="first derivatives only; take backend routed"):
        grad(squared_norm)(variables.params)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")
def test_forward_mode_is_refused() -> None:
    variables, (images, labels) = tiny_variables(), examples(2, 32)
    loss = loss_over(variables)
    tangent = tree_map(torch.ones_like, variables.params)
    with pytest.raises(RuntimeError, match="jvp"):
        jvp(lambda p: loss(p, images, labels), (variables.params,), (tangent,))


def test_it_is_not_for_torch_compile() -> None:
    variables, (images, _) = tiny_variables(), examples(2, 32)

    def forward(images: Tensor) -> Tensor:
        return apply(TINY, variables, images, train=True, backend=CPU)[0]

    compiled = torch.compile(forward, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="take backend routed"):
        compiled(images)


def test_saved_tensors_that_come_back_in_another_layout() -> None:
    """As hooks that keep them elsewhere may return them."""
    variables, batch = tiny_variables(), examples(4, 32)
    expected = outcome(TINY, CPU, variables, *batch, train=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t)
    with hooks:
        found = outcome(TINY, CPU, variables, *batch, train=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert distance(ours, theirs) <= 1e-5


def test_engine_batched_gradients_are_refused() -> None:
    variables, (images, _) = tiny_variables(), examples(2, 32)

    def head(images: Tensor) -> Tensor:
        return apply(TINY, variables, images, backend=CPU)[0].sum(0)

    with pytest.raises(ValueError, match="neither traced nor batched; take backend routed"):
        torch.autograd.functional.jacobian(head, images, vectorize=True)


def test_an_empty_batch() -> None:
    variables, images = tiny_variables(), torch.zeros(0, 3, 32, 32)
    assert apply(TINY, variables, images, backend=CPU)[0].shape == (0, 5)
    assert make_predictor(TINY, variables, backend=CPU)(images).shape == (0, 5)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        apply(TINY, variables, images, train=True, backend=CPU)


def test_autocast_error_matches_the_reference() -> None:
    variables, batch = tiny_variables(), examples(4, 32)
    found = outcome(TINY, CPU, variables, *batch, train=True, precision="O1")
    expected = outcome(TINY, REFERENCE, variables, *batch, train=True, precision="O1")
    exact = outcome(
        TINY, REFERENCE, tree_cast(variables, torch.float64), batch[0].double(), batch[1], train=True
    )
    for ours, theirs, truth in zip(found, expected, exact, strict=True):
        error, usual = distance(ours, truth), distance(theirs, truth)
        assert usual / 3 <= error <= usual * 3


def test_an_unused_parameter_has_gradient_zero() -> None:
    params = {"used": torch.ones(2), "unused": torch.ones(3)}
    for gradients in (grads_by_engine, grads_by_func):
        grads, _ = gradients(lambda p: (p["used"].sum(), ()), params)
        assert_trees_equal(grads, {"used": torch.ones(2), "unused": torch.zeros(3)})


def test_bias_of_another_length_is_refused() -> None:
    x, weight = torch.ones(2, 8, 5, 5), torch.ones(6, 8, 1, 1)
    with torch.no_grad(), pytest.raises(RuntimeError):
        CPU.conv2d_bias(x, weight, torch.ones(3), stride=1, padding=0, groups=1, relu=False)
