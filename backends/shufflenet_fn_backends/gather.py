"""The shuffle as gathers, fused with the split that follows: the original's way to an NPU.

On an NPU a transposed view has to be made contiguous and a chunk of channels copied, both slowly. Gathers
with indices made once do shuffle and split in one pass: Ascend's tuning guide has the forward pass of batch
size 512 on a 910 at 1100 ms with a gathered shuffle and a chunk, at 600 ms with a gather for each half, and
the step of batch size 1024 at 1650 ms before and 1424 ms after the join was fused in. The operators are in
``shuffle_split``.

A feature map is a tensor or a ``Shuffled``: two halves whose shuffle is still to be done. What follows
decides how: ``channel_split`` gathers two halves and no whole map exists; everything else gathers one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor
from torch.utils import _pytree as pytree

from shufflenet_fn_backends import pooling, reference
from shufflenet_fn_backends.primitives import Backend, Moments
from shufflenet_fn_backends.shuffle_split import same_kind, shuffle, shuffle_split


@dataclass(frozen=True, eq=False)
class Shuffled:
    """The shuffle of ``x1`` and ``x2``, both (N, C/2, H, W), not yet computed.

    A pytree node with both tensors as leaves. Every reader computes it anew: a result kept here would be
    found by readers in another grad mode or ``torch.func`` transform, where it is of no use. Where one map
    has two readers, the model says so by ``shared``.
    """

    x1: Tensor
    x2: Tensor


def _shuffled_from(tensors: Iterable[Tensor], context: None) -> Shuffled:
    return Shuffled(*tensors)


pytree.register_pytree_node(
    Shuffled,
    lambda shuffled: ([shuffled.x1, shuffled.x2], None),
    _shuffled_from,
    serialized_type_name="shufflenet_fn_backends.gather.Shuffled",
)

FeatureMap: TypeAlias = Tensor | Shuffled


def conv2d(x: FeatureMap, weight: Tensor, *, stride: int, padding: int, groups: int) -> FeatureMap:
    return reference.conv2d(to_tensor(x), weight, stride=stride, padding=padding, groups=groups)


def conv2d_bias(
    x: FeatureMap,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int,
    padding: int,
    groups: int,
    relu: bool,
) -> FeatureMap:
    return reference.conv2d_bias(
        to_tensor(x), weight, bias, stride=stride, padding=padding, groups=groups, relu=relu
    )


def batch_norm_train(
    x: FeatureMap, weight: Tensor, bias: Tensor, *, eps: float, relu: bool
) -> tuple[FeatureMap, Moments]:
    return reference.batch_norm_train(to_tensor(x), weight, bias, eps=eps, relu=relu)


def batch_norm_update_(
    x: FeatureMap,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float,
    eps: float,
    relu: bool,
) -> FeatureMap:
    return reference.batch_norm_update_(
        to_tensor(x),
        weight,
        bias,
        running_mean,
        running_var,
        momentum=momentum,
        eps=eps,
        relu=relu,
    )


def batch_norm_eval(
    x: FeatureMap,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    eps: float,
    relu: bool,
) -> FeatureMap:
    return reference.batch_norm_eval(to_tensor(x), weight, bias, mean, var, eps=eps, relu=relu)


def max_pool2d(x: FeatureMap, *, kernel: int, stride: int, padding: int) -> FeatureMap:
    return pooling.max_pool2d(to_tensor(x), kernel=kernel, stride=stride, padding=padding)


def channel_split(x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
    return shuffle_split(x.x1, x.x2) if isinstance(x, Shuffled) else reference.channel_split(x)


def channel_shuffle(x1: FeatureMap, x2: FeatureMap) -> FeatureMap:
    # Checked here and not only when it is computed, so that the error names the call at fault.
    return Shuffled(*same_kind(to_tensor(x1), to_tensor(x2)))


def to_tensor(x: FeatureMap) -> Tensor:
    return shuffle(x.x1, x.x2) if isinstance(x, Shuffled) else x


BACKEND: Backend[FeatureMap] = Backend(
    name="gather",
    conv2d=conv2d,
    conv2d_bias=conv2d_bias,
    batch_norm_train=batch_norm_train,
    batch_norm_eval=batch_norm_eval,
    batch_norm_update_=batch_norm_update_,
    max_pool2d=max_pool2d,
    channel_split=channel_split,
    channel_shuffle=channel_shuffle,
    to_tensor=to_tensor,
    shared=to_tensor,
)
