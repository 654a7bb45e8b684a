"""Backend ``routed``: split and shuffle move no channels. A feature map is a list of parts and their order.

``channel_split`` cuts parts and ``channel_shuffle`` lists them. Both only update integers (``routing``). The
next 1x1 convolution does the remaining work: it concatenates the parts that it reads, which are half of the
channels, and permutes the input axis of its weight to their order. Depthwise convolutions and batch norms
work in the order of their input, with their parameters in that order.

``BACKEND`` takes and returns parameters, moments and gradients in canonical order, and permutes them in each
call. Its twin ``BACKEND.permuted`` takes and returns them in permuted order and permutes nothing.
``shufflenet_fn.model.channel_order`` converts whole trees between the two orders.

The backend uses plain torch operations only. It is differentiable any number of times in both modes, and
works under every ``torch.func`` transform and ``torch.compile(fullgraph=True)``, on every device and in every
dtype.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import Tensor

from shufflenet_fn_backends import reference
from shufflenet_fn_backends.primitives import Backend, Moments
from shufflenet_fn_backends.routed_map import (
    Routed,
    channel_shuffle,
    channel_split,
    concatenated,
    inverse_order,
    natural_order,
    one_part,
    reordered,
    routed,
    to_tensor,
)


def shared(x: Routed) -> Routed:
    """Return ``x`` in one part, so that several readers need not each concatenate it."""
    if len(x.parts) == 1:
        return x
    return one_part(concatenated(x), x.layout.order)


def max_pool2d(x: Routed | Tensor, *, kernel: int, stride: int, padding: int) -> Routed:
    x = routed(x)
    pooled = (reference.max_pool2d(part, kernel=kernel, stride=stride, padding=padding) for part in x.parts)
    return Routed(tuple(pooled), x.layout)


def _permuted_conv2d(x: Routed | Tensor, weight: Tensor, *, stride: int, padding: int, groups: int) -> Routed:
    tensor, order = _conv_operands(x, weight, groups)
    y = reference.conv2d(tensor, weight, stride=stride, padding=padding, groups=groups)
    return one_part(y, order)


def _permuted_conv2d_bias(
    x: Routed | Tensor, weight: Tensor, bias: Tensor, *, stride: int, padding: int, groups: int, relu: bool
) -> Routed:
    tensor, order = _conv_operands(x, weight, groups)
    y = reference.conv2d_bias(tensor, weight, bias, stride=stride, padding=padding, groups=groups, relu=relu)
    return one_part(y, order)


def _permuted_batch_norm_train(
    x: Routed | Tensor, weight: Tensor, bias: Tensor, *, eps: float, relu: bool
) -> tuple[Routed, Moments]:
    x = routed(x)
    y, moments = reference.batch_norm_train(concatenated(x), weight, bias, eps=eps, relu=relu)
    return one_part(y, x.layout.order), moments


def _permuted_batch_norm_update_(
    x: Routed | Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float,
    eps: float,
    relu: bool,
) -> Routed:
    x = routed(x)
    y = reference.batch_norm_update_(
        concatenated(x), weight, bias, running_mean, running_var, momentum=momentum, eps=eps, relu=relu
    )
    return one_part(y, x.layout.order)


def _permuted_batch_norm_eval(
    x: Routed | Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float, relu: bool
) -> Routed:
    x = routed(x)
    y = reference.batch_norm_eval(concatenated(x), weight, bias, mean, var, eps=eps, relu=relu)
    return one_part(y, x.layout.order)


def _canonical_conv2d(
    x: Routed | Tensor, weight: Tensor, *, stride: int, padding: int, groups: int
) -> Routed:
    x = routed(x)
    weight = _permuted_weight(x, weight, groups)
    return _permuted_conv2d(x, weight, stride=stride, padding=padding, groups=groups)


def _canonical_conv2d_bias(
    x: Routed | Tensor, weight: Tensor, bias: Tensor, *, stride: int, padding: int, groups: int, relu: bool
) -> Routed:
    x = routed(x)
    bias = reordered(bias, _output_order(x, weight, groups))
    weight = _permuted_weight(x, weight, groups)
    return _permuted_conv2d_bias(x, weight, bias, stride=stride, padding=padding, groups=groups, relu=relu)


def _canonical_batch_norm_train(
    x: Routed | Tensor, weight: Tensor, bias: Tensor, *, eps: float, relu: bool
) -> tuple[Routed, Moments]:
    x = routed(x)
    order = x.layout.order
    y, moments = _permuted_batch_norm_train(
        x, reordered(weight, order), reordered(bias, order), eps=eps, relu=relu
    )
    back = inverse_order(order)
    mean, saved = reordered(moments.mean, back), reordered(moments.saved, back)
    return y, replace(moments, mean=mean, saved=saved)


def _canonical_batch_norm_eval(
    x: Routed | Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float, relu: bool
) -> Routed:
    x = routed(x)
    weight, bias, mean, var = (
        reordered(parameter, x.layout.order) for parameter in (weight, bias, mean, var)
    )
    return _permuted_batch_norm_eval(x, weight, bias, mean, var, eps=eps, relu=relu)


def _is_depthwise(x: Routed, weight: Tensor, groups: int) -> bool:
    return groups > 1 and groups == weight.shape[0] == len(x.layout.order)


def _conv_operands(x: Routed | Tensor, weight: Tensor, groups: int) -> tuple[Tensor, tuple[int, ...]]:
    """Return the input as one tensor, and the channel order of the output."""
    x = routed(x)
    if groups == 1 or _is_depthwise(x, weight, groups):
        return concatenated(x), _output_order(x, weight, groups)
    # With several channels per group, the groups depend on the order.
    return to_tensor(x), _output_order(x, weight, groups)


def _output_order(x: Routed, weight: Tensor, groups: int) -> tuple[int, ...]:
    if _is_depthwise(x, weight, groups):
        return x.layout.order
    return natural_order(weight.shape[0])


def _permuted_weight(x: Routed, weight: Tensor, groups: int) -> Tensor:
    if groups == 1:
        return reordered(weight, x.layout.order, 1)
    return reordered(weight, x.layout.order) if _is_depthwise(x, weight, groups) else weight


_PERMUTED: Final[Backend[Routed]] = Backend(
    name="routed",
    conv2d=_permuted_conv2d,
    conv2d_bias=_permuted_conv2d_bias,
    batch_norm_train=_permuted_batch_norm_train,
    batch_norm_eval=_permuted_batch_norm_eval,
    batch_norm_update_=_permuted_batch_norm_update_,
    max_pool2d=max_pool2d,
    channel_split=channel_split,
    channel_shuffle=channel_shuffle,
    to_tensor=to_tensor,
    shared=shared,
)

BACKEND: Final[Backend[Routed]] = replace(
    _PERMUTED,
    conv2d=_canonical_conv2d,
    conv2d_bias=_canonical_conv2d_bias,
    batch_norm_train=_canonical_batch_norm_train,
    batch_norm_eval=_canonical_batch_norm_eval,
    batch_norm_update_=None,
    permuted=_PERMUTED,
)
