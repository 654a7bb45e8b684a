"""Pure updates of batch norm's running statistics from the batch's moments.

They follow torch: ``running = (1 - momentum) * running + momentum * batch`` with momentum 0.1. The running
variance uses the *unbiased* batch variance n/(n-1), although the biased one normalises the batch.
``update_running_stats`` works under transforms; ``update_running_stats_foreach`` is faster outside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.variables import BatchStats
from shufflenet_fn_backends.primitives import Moments, ThirdResult

MomentsTree = dict[str, Any]
"""A tree with ``Moments`` at the paths where ``batch_stats`` has ``{"bn": {"mean", "var"}}``."""


def update_running_stats(
    config: ShuffleNetConfig, batch_stats: BatchStats, moments: MomentsTree
) -> BatchStats:
    """Return the new running statistics, tensor by tensor. Works under every ``torch.func`` transform."""
    new = []
    for stats, batch in _pairs(batch_stats, moments):
        biased = batch.saved if batch.kind == "var" else batch.saved.pow(-2) - config.bn_eps
        unbiased, mean, var = biased * bessel(batch.count), stats["mean"], stats["var"]
        new_mean = torch.lerp(mean, batch.mean.to(mean.dtype), config.bn_momentum)
        new.append((new_mean, torch.lerp(var, unbiased.to(var.dtype), config.bn_momentum)))
    return _rebuild(batch_stats, iter(new))


def update_running_stats_foreach(
    config: ShuffleNetConfig, batch_stats: BatchStats, moments: MomentsTree
) -> BatchStats:
    """Return the new running statistics of all layers in a few launches, for use outside transforms.

    ``torch._foreach_*`` has no batching rule, so this cannot run under ``vmap``.
    """
    layers = _pairs(batch_stats, moments)
    means = [stats["mean"] for stats, _ in layers]
    variances = [stats["var"] for stats, _ in layers]
    saved = [batch.saved for _, batch in layers]
    factors = [bessel(batch.count) for _, batch in layers]
    if kind_of([batch for _, batch in layers]) == "var":
        batch_variances = torch._foreach_mul(saved, factors)
    else:
        batch_variances = torch._foreach_pow(saved, -2.0)
        torch._foreach_sub_(batch_variances, config.bn_eps)
        torch._foreach_mul_(batch_variances, factors)
    batch_means = [batch.mean for _, batch in layers]
    new_means = torch._foreach_lerp(means, _like(batch_means, means), config.bn_momentum)
    new_variances = torch._foreach_lerp(variances, _like(batch_variances, variances), config.bn_momentum)
    new = iter(zip(new_means, new_variances, strict=True))
    return _rebuild(batch_stats, new)


def _pairs(stats: dict[str, Any], moments: Any) -> list[tuple[dict[str, Tensor], Moments]]:
    if isinstance(moments, Moments):
        return [(stats["bn"], moments)]
    return [pair for key in stats for pair in _pairs(stats[key], moments[key])]


def _rebuild(stats: dict[str, Any], new: Any) -> dict[str, Any]:
    if "bn" in stats:
        mean, var = next(new)
        return {"bn": {"mean": mean, "var": var}}
    return {key: _rebuild(stats[key], new) for key in stats}


def _like(tensors: list[Tensor] | tuple[Tensor, ...], others: list[Tensor]) -> list[Tensor]:
    return [a.to(b.dtype) for a, b in zip(tensors, others, strict=True)]


def kind_of(moments: Iterable[Moments]) -> ThirdResult:
    """Return the kind of ``saved``, which must be the same in all ``moments``.

    Raises:
        ValueError: the kinds differ, which happens if layers ran on different devices.
    """
    kinds = {batch.kind for batch in moments}
    if len(kinds) != 1:
        raise ValueError("the layers' moments are of different kinds: compute all on one device")
    (kind,) = kinds
    return kind


def bessel(count: int) -> float:
    """Return n/(n-1), the factor from the biased to the unbiased variance of ``count`` values."""
    # One value per channel has no unbiased variance. torch multiplies the biased one by 1/0 = inf, which
    # would make the running statistics NaN for the rest of the run.
    return count / (count - 1) if count > 1 else 1.0
