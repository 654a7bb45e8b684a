"""Backend ``routed`` and its permuted twin against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, grad_and_value

from shufflenet_fn.model.architecture import conv_layers
from shufflenet_fn.model.channel_order import in_order_of, to_canonical
from shufflenet_fn.model.config import ARCHITECTURES, ShuffleNetConfig, get_config
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training.losses import cross_entropy
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.reference import BACKEND as REFERENCE
from shufflenet_fn_backends.routed import BACKEND as ROUTED
from shufflenet_fn_backends.routed_map import Routed
from tests.model.support import (
    TINY,
    assert_close_to_scale,
    assert_trees_close,
    assert_trees_equal,
    examples,
    one_thread,
    tiny_variables,
    unchanged,
)

__all__ = ["one_thread"]

# torch's own use, at the first forward-mode derivative in a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")

DOUBLE = torch.float64
PERMUTED = ROUTED.permuted
assert PERMUTED is not None

orders = pytest.mark.parametrize("backend", [ROUTED, PERMUTED], ids=["canonical", "permuted"])
modes = pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])


def in_order(config: ShuffleNetConfig, tree: Any, backend: Backend[Any]) -> Any:
    """``tree`` (canonical) as ``backend`` takes it."""
    return in_order_of(config, tree, ROUTED)[0] if backend is PERMUTED else tree


def in_canonical(config: ShuffleNetConfig, tree: Any, backend: Backend[Any]) -> Any:
    return to_canonical(config, tree) if backend is PERMUTED else tree


def loss_of(
    config: ShuffleNetConfig,
    backend: Backend[Any],
    stats: Any,
    images: Tensor,
    labels: Tensor,
    *,
    train: bool,
) -> Callable[[Any], tuple[Tensor, Any]]:
    """``params -> (loss, (logits, batch_stats))``."""

    def loss(params: Any) -> tuple[Tensor, Any]:
        logits, new = apply(config, Variables(params, stats), images, train=train, backend=backend)
        return cross_entropy(logits, labels), (logits, new)

    return loss


# ---- the network ----


# tests/parity has training in canonical order.
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(
    ("backend", "train"),
    [(ROUTED, False), (PERMUTED, False), (PERMUTED, True)],
    ids=["canonical-eval", "permuted-eval", "permuted-train"],
)
def test_logits_gradients_and_statistics_are_the_references(
    name: str, backend: Backend[Any], train: bool
) -> None:
    config = get_config(name, num_classes=10)
    variables = tiny_variables(dtype=DOUBLE, config=config)
    batch = examples(3, 64, dtype=DOUBLE, num_classes=10)

    def outcome(backend: Backend[Any]) -> Any:
        params, stats = in_order(config, variables, backend)
        loss = loss_of(config, backend, stats, *batch, train=train)
        grads, (logits, new_stats) = grad(loss, has_aux=True)(params)
        return (in_canonical(config, grads, backend), logits, in_canonical(config, new_stats, backend))

    with unchanged(variables, *batch):
        grads, logits, stats = outcome(backend)
    expected_grads, expected_logits, expected_stats = outcome(REFERENCE)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-11, atol=1e-12)
    assert_close_to_scale(grads, expected_grads, 1e-11)
    assert_trees_close(stats, expected_stats, rtol=1e-11, atol=1e-12)


@modes
def test_both_channel_orders_compute_the_same_bits(train: bool) -> None:
    config = get_config("x0_5", num_classes=10)
    variables = tiny_variables(config=config)
    batch = examples(2, 64, num_classes=10)
    results = []
    for backend in (ROUTED, PERMUTED):
        params, stats = in_order(config, variables, backend)
        loss = loss_of(config, backend, stats, *batch, train=train)
        grads, (logits, new_stats) = grad(loss, has_aux=True)(params)
        results.append((in_canonical(config, (grads, new_stats), backend), logits))
    assert_trees_equal(*results)


@orders
def test_channels_last_stays_and_gives_the_same(backend: Backend[Any]) -> None:
    """Wherever a convolution reads, so that none has to convert."""
    seen = []

    def watching(x: Routed | Tensor, weight: Tensor, **options: Any) -> Any:
        y = backend.conv2d(x, weight, **options)
        seen.append(y.parts[0])
        return y

    variables = in_order(TINY, tiny_variables(dtype=DOUBLE), backend)
    images, _ = examples(2, 64, dtype=DOUBLE)
    last = images.contiguous(memory_format=torch.channels_last)
    watched = replace(backend, conv2d=watching)
    logits, _ = apply(TINY, variables, last, train=True, backend=watched)
    assert len(seen) == len(list(conv_layers(TINY)))
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in seen)
    expected, _ = apply(TINY, variables, images, train=True, backend=backend)
    torch.testing.assert_close(logits, expected, rtol=1e-11, atol=1e-12)


def test_compile_a_gradient_without_a_graph_break() -> None:
    """In permuted order; tests/parity has a stage in canonical order."""
    backend = PERMUTED
    params, stats = in_order(TINY, tiny_variables(), backend)
    images, labels = examples(4)

    def gradient(params: Any, x: Tensor) -> Any:
        loss = loss_of(TINY, backend, stats, x, labels, train=True)
        return grad_and_value(lambda p: loss(p)[0])(params)

    torch.compiler.reset()
    compiled = torch.compile(gradient, fullgraph=True, backend="eager")
    grads, loss = compiled(params, images)
    expected, expected_loss = gradient(params, images)
    torch.testing.assert_close(loss, expected_loss)
    assert_close_to_scale(grads, expected, 1e-5)
