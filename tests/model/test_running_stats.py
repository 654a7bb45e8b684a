"""Running statistics compared with their definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn.model.architecture import conv_layers
from shufflenet_fn.model.network import apply, forward
from shufflenet_fn.model.running_stats import update_running_stats, update_running_stats_foreach
from shufflenet_fn.model.variables import get_path
from shufflenet_fn.tree import tree_leaves
from shufflenet_fn_backends.primitives import Moments
from shufflenet_fn_backends.reference import BACKEND as REFERENCE
from tests.model.support import TINY, assert_trees_close, examples, tiny_variables, unchanged


@pytest.mark.parametrize("momentum", [0.1, 0.37, 1.0])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 1e-5)], ids=str)
def test_the_unbiased_variance_enters_with_torchs_momentum(
    momentum: float, dtype: torch.dtype, rtol: float
) -> None:
    """``(1 - momentum) * running + momentum * batch`` of what each batch norm was given."""
    config = replace(TINY, bn_momentum=momentum)
    variables = tiny_variables(dtype=dtype)
    images, _ = examples(6, dtype=dtype)
    seen: list[Tensor] = []

    def recording(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Moments]:
        seen.append(x.double())
        return REFERENCE.batch_norm_train(x, *args, **kwargs)

    backend = replace(REFERENCE, batch_norm_train=recording)
    _, batch_stats = apply(config, variables, images, train=True, backend=backend)

    for layer, x in zip(conv_layers(config), seen, strict=True):
        old = get_path(variables.batch_stats, layer.path)["bn"]
        new = get_path(batch_stats, layer.path)["bn"]
        mean = (1 - momentum) * old["mean"] + momentum * x.mean((0, 2, 3))
        var = (1 - momentum) * old["var"] + momentum * x.var((0, 2, 3), unbiased=True)
        torch.testing.assert_close(new["mean"].double(), mean.double(), rtol=rtol, atol=rtol)
        torch.testing.assert_close(new["var"].double(), var.double(), rtol=rtol, atol=0.0)


def test_moments_are_the_batchs_own_and_detached() -> None:
    variables = tiny_variables(dtype=torch.float64)
    for leaf in tree_leaves(variables.params):
        leaf.requires_grad_()
    images, _ = examples(3, dtype=torch.float64)
    logits, moments = forward(TINY, variables, images, train=True, backend=REFERENCE, policy=None)
    assert logits.requires_grad
    first = moments["conv1"]
    x = REFERENCE.conv2d(images, variables.params["conv1"]["conv"]["weight"], stride=2, padding=1, groups=1)
    assert first.count == 3 * 16 * 16
    torch.testing.assert_close(first.mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(first.saved, (x.var((0, 2, 3), correction=0) + 1e-5).rsqrt())
    assert not first.mean.requires_grad and not first.saved.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fast_and_the_composable_update_agree(dtype: torch.dtype) -> None:
    variables = tiny_variables(dtype=dtype)
    images, _ = examples(4, dtype=dtype)
    _, moments = forward(TINY, variables, images, train=True, backend=REFERENCE, policy=None)
    # As a device returns them whose kernel saves the variance.
    eps = TINY.bn_eps
    variances = mapped(moments, lambda m: Moments(m.mean, m.saved.pow(-2) - eps, m.count, "var"))
    half = mapped(moments, lambda m: Moments(m.mean.half(), m.saved.half(), m.count))

    with unchanged(variables.batch_stats, moments):
        fast = update_running_stats_foreach(TINY, variables.batch_stats, moments)
        composable = update_running_stats(TINY, variables.batch_stats, moments)

    assert_trees_close(fast, composable, rtol=4 * torch.finfo(dtype).eps, atol=0.0)
    assert not torch.equal(fast["conv5"]["bn"]["var"], variables.batch_stats["conv5"]["bn"]["var"])
    for update in (update_running_stats, update_running_stats_foreach):
        same = update(TINY, variables.batch_stats, variances)
        assert_trees_close(same, composable, rtol=4 * torch.finfo(dtype).eps, atol=0.0)
        assert_trees_close(update(TINY, variables.batch_stats, half), composable, rtol=1e-3, atol=1e-3)


def mapped(moments: Any, change: Callable[[Moments], Moments]) -> Any:
    if isinstance(moments, Moments):
        return change(moments)
    return {key: mapped(value, change) for key, value in moments.items()}


@pytest.mark.parametrize("update", [update_running_stats, update_running_stats_foreach])
def test_one_value_per_channel_keeps_the_statistics_finite(update: Any) -> None:
    """There is no unbiased variance of one value; the biased one, 0, is taken and not 0/0."""
    stats = {"bn": {"mean": torch.tensor([1.0, 2.0]), "var": torch.tensor([4.0, 8.0])}}
    moments = Moments(torch.tensor([3.0, -2.0]), torch.full((2,), TINY.bn_eps).rsqrt(), count=1)
    new = update(TINY, {"conv1": stats}, {"conv1": moments})["conv1"]["bn"]
    torch.testing.assert_close(new["mean"], torch.tensor([1.2, 1.6]))
    torch.testing.assert_close(new["var"], torch.tensor([3.6, 7.2]), rtol=1e-6, atol=0.0)


def test_a_constant_channel_has_no_negative_variance() -> None:
    variables = tiny_variables()
    assert apply(TINY, variables, examples(2)[0])[1] is variables.batch_stats
    logits, batch_stats = apply(TINY, variables, torch.zeros(2, 3, 32, 32), train=True)
    new, old = batch_stats["conv1"]["bn"], variables.batch_stats["conv1"]["bn"]
    torch.testing.assert_close(new["var"], 0.9 * old["var"], rtol=1e-6, atol=0.0)
    assert logits.isfinite().all()
