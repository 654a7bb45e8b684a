"""Backend ``gather``: the shuffle as gathers, fused with the split that follows, as in the original for NPUs.

On an NPU, a transposed view must be made contiguous and a chunk of channels must be copied. Both are slow.
Gathers with precomputed indices shuffle and split in one pass. Figures of Ascend's tuning guide on a 910: the
forward pass with batch size 512 took 1100 ms with a gathered shuffle and a chunk, and 600 ms with a gather
for each half; the step with batch size 1024 took 1650 ms before and 1424 ms after the concatenation was fused
as well. The operators are in ``shuffle_split``.

A feature map is a tensor or a ``Shuffled``: two halves whose shuffle is pending. ``channel_split`` gathers
the two halves of the result and never builds the whole map. Every other reader gathers the whole map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from shufflenet_fn_backends import reference
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.shuffle_split import same_kind, shuffle, shuffle_split
from shufflenet_fn_backends.support.private import pytree


@dataclass(frozen=True, eq=False)
class Shuffled:
    """The shuffle of ``x1`` and ``x2``, both (N, C/2, H, W), not yet computed.

    A pytree node with both tensors as leaves. Every reader computes the shuffle again: a cached result would
    be invalid in another grad mode or ``torch.func`` transform. The model calls ``shared`` on a map with two
    readers.
    """

    x1: Tensor
    x2: Tensor


pytree.register_pytree_node(
    Shuffled,
    lambda shuffled: ([shuffled.x1, shuffled.x2], None),
    lambda tensors, _: Shuffled(*tensors),
    serialized_type_name="shufflenet_fn_backends.gather.Shuffled",
)

FeatureMap: TypeAlias = Tensor | Shuffled


def channel_split(x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
    return shuffle_split(x.x1, x.x2) if isinstance(x, Shuffled) else reference.channel_split(x)


def channel_shuffle(x1: FeatureMap, x2: FeatureMap) -> FeatureMap:
    # Check here already, so that the traceback shows the faulty call.
    return Shuffled(*same_kind(to_tensor(x1), to_tensor(x2)))


def to_tensor(x: FeatureMap) -> Tensor:
    return shuffle(x.x1, x.x2) if isinstance(x, Shuffled) else x


def _of_tensors(primitive: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``primitive`` of ``reference`` for this backend's feature maps."""

    def of_feature_maps(x: FeatureMap, *parameters: Tensor, **options: Any) -> Any:
        return primitive(to_tensor(x), *parameters, **options)

    return of_feature_maps


BACKEND: Backend[FeatureMap] = Backend(
    name="gather",
    conv2d=_of_tensors(reference.conv2d),
    conv2d_bias=_of_tensors(reference.conv2d_bias),
    batch_norm_train=_of_tensors(reference.batch_norm_train),
    batch_norm_eval=_of_tensors(reference.batch_norm_eval),
    batch_norm_update_=_of_tensors(reference.batch_norm_update_),
    max_pool2d=_of_tensors(reference.max_pool2d),
    channel_split=channel_split,
    channel_shuffle=channel_shuffle,
    to_tensor=to_tensor,
    shared=to_tensor,
)
