"""Backend ``cpu``: each primitive on the CPU, mostly by fused C++ kernels.

=================  ==========================================================================================
primitive          on the CPU
=================  ==========================================================================================
conv2d 1x1         C++: reads the parts in place, applies their pending batch norm and ReLU while it loads
                   them, multiplies, and computes the moments of the result
conv2d depthwise   C++: the same, plane by plane
conv2d 3x3, s2     C++: patches of the images, then a matrix product (the stem)
batch_norm         computes coefficients from the convolution's moments; the next reader applies them
max_pool2d         C++: applies the pending normalisation to its input
channel_split      bookkeeping (``routing``)
channel_shuffle    bookkeeping
to_tensor          C++: applies the pending normalisation
anything else      torch's operators on the materialised feature map (other kernels, float16, float64)
=================  ==========================================================================================

A step keeps one tensor per convolution, its raw result. (torch keeps the normalised result as well.)
Supported derivatives: first derivatives in reverse mode, and ``vmap`` around them (``fused.autograd``).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn_backends import reference, routing
from shufflenet_fn_backends.fused.autograd import call
from shufflenet_fn_backends.fused.feature_map import (
    CUTS_AHEAD,
    FeatureMap,
    Part,
    kernels_take,
    materialized,
    single,
    take,
)
from shufflenet_fn_backends.fused.library import Operator
from shufflenet_fn_backends.fused.operators import Coefficients, Depthwise, MaxPool, Pointwise, Stem
from shufflenet_fn_backends.fused.program import record
from shufflenet_fn_backends.primitives import Backend, Moments
from shufflenet_fn_backends.routed_map import index_constant, reordered

_STEM_CHANNELS = 16


def _kernels_take(x: FeatureMap, *parameters: Tensor) -> bool:
    zs = [part.z for part in x.parts]
    return kernels_take(*zs, *parameters) and len({z.dtype for z in zs}) == 1


def channel_split(x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
    first, second = routing.split(x.layout, depth=CUTS_AHEAD)
    pieces = take(x.parts, (*first.ranges, *second.ranges))
    count = len(first.ranges)
    return FeatureMap(pieces[:count], first.layout), FeatureMap(pieces[count:], second.layout)


def channel_shuffle(x1: FeatureMap, x2: FeatureMap) -> FeatureMap:
    return FeatureMap((*x1.parts, *x2.parts), routing.interleave(x1.layout, x2.layout))


def max_pool2d(x: FeatureMap | Tensor, *, kernel: int, stride: int, padding: int) -> FeatureMap:
    x = _feature_map(x)
    fits = (kernel, stride, padding) == (3, 2, 1)

    def pooled(part: Part) -> Part:
        if fits and kernels_take(part.z):
            return Part(call(MaxPool(part.flag), *part.tensors)[0])
        return Part(nnf.max_pool2d(materialized(part), kernel, stride, padding))

    return replace(x, parts=tuple(pooled(part) for part in x.parts))


def to_tensor(x: FeatureMap | Tensor) -> Tensor:
    if isinstance(x, Tensor):
        return x
    return reordered(_side_by_side(x), routing.inverse(x.layout.order), 1)


class _Ordered(NamedTuple):
    """The primitives that take parameters or return moments, for either channel order."""

    permuted: bool

    def conv2d(
        self, x: FeatureMap | Tensor, weight: Tensor, *, stride: int, padding: int, groups: int
    ) -> FeatureMap:
        if torch.compiler.is_compiling():
            raise NotImplementedError("backend cpu cannot be compiled by torch; take backend routed")
        kernel, geometry = tuple(weight.shape[2:]), (stride, padding, groups)
        if isinstance(x, Tensor):
            if (
                (kernel, geometry) == ((3, 3), (2, 1, 1))
                and x.shape[1] <= _STEM_CHANNELS
                and kernels_take(x, weight)
            ):
                return single(_convolved(Stem(), weight, x))
            x = _feature_map(x)
        channels = len(x.layout.order)
        if groups == channels == weight.shape[0]:
            return self._depthwise(x, weight, stride, padding)
        if (kernel, geometry) == ((1, 1), (1, 0, 1)) and _kernels_take(x, weight):
            aligned = self.permuted or routing.is_natural(x.layout.order)
            order = () if aligned else x.layout.order
            index = index_constant(order, weight.device)
            return single(_convolved(Pointwise(x.flags), weight, index, *x.tensors))
        if groups != 1:
            raise ValueError(f"{groups} groups of {channels} channels: only 1 and {channels} are there")
        if not self.permuted:
            weight = reordered(weight, x.layout.order, 1)
        return single(Part(nnf.conv2d(_side_by_side(x), weight, None, stride, padding)))

    def batch_norm_train(
        self, x: FeatureMap | Tensor, weight: Tensor, bias: Tensor, *, eps: float, relu: bool
    ) -> tuple[FeatureMap, Moments]:
        x = _feature_map(x)
        parts, means, invstds = [], [], []
        for part, w, b in zip(x.parts, self._cut(x, weight), self._cut(x, bias), strict=True):
            if part.moments is None:
                y, moments = reference.batch_norm_train(materialized(part), w, b, eps=eps, relu=relu)
                parts.append(Part(y))
                means.append(moments.mean)
                invstds.append(moments.saved)  # on the CPU, the inverse standard deviation
                continue
            affine, invstd = call(Coefficients(eps), *part.moments, w.float(), b.float())
            parts.append(Part(part.z, affine, relu))
            means.append(part.moments[0].detach())
            invstds.append(invstd.detach())
        z = x.parts[0].z
        count = z.shape[0] * z.shape[2] * z.shape[3]
        if count == 0:
            raise ValueError(f"no batch statistics of an empty batch {tuple(z.shape)}")
        moments = Moments(self._joined(x, means), self._joined(x, invstds), count)
        return replace(x, parts=tuple(parts)), moments

    def batch_norm_eval(
        self,
        x: FeatureMap | Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        *,
        eps: float,
        relu: bool,
    ) -> FeatureMap:
        x = _feature_map(x)

        def normalised(part: Part, w: Tensor, b: Tensor, m: Tensor, v: Tensor) -> Part:
            if kernels_take(part.z, w, b, m, v) and not part.flag:
                affine, _ = call(Coefficients(eps), m, v, w.float(), b.float())
                return Part(part.z, affine, relu)
            return Part(reference.batch_norm_eval(materialized(part), w, b, m, v, eps=eps, relu=relu))

        cut = (self._cut(x, value) for value in (weight, bias, mean, var))
        return replace(x, parts=tuple(map(normalised, x.parts, *cut)))

    def conv2d_bias(
        self,
        x: FeatureMap | Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int,
        padding: int,
        groups: int,
        relu: bool,
    ) -> FeatureMap:
        y = self.conv2d(x, weight, stride=stride, padding=padding, groups=groups)
        parts = []
        for part, b in zip(y.parts, self._cut(y, bias), strict=True):
            z = part.z + b[:, None, None]
            parts.append(Part(z.relu() if relu else z))
        return replace(y, parts=tuple(parts))

    def _depthwise(self, x: FeatureMap, weight: Tensor, stride: int, padding: int) -> FeatureMap:
        if not self.permuted:
            weight = reordered(weight, x.layout.order)
        whole = routing.Layout((len(x.layout.order),), x.layout.order)
        if (
            (tuple(weight.shape[2:]), padding) == ((3, 3), 1)
            and stride in (1, 2)
            and _kernels_take(x, weight)
        ):
            part = _convolved(Depthwise(x.flags, stride), weight, *x.tensors)
            return FeatureMap((part,), whole)
        y = _side_by_side(x)
        y = nnf.conv2d(y, weight, None, stride, padding, 1, y.shape[1])
        return FeatureMap((Part(y),), whole)

    def _cut(self, x: FeatureMap, parameter: Tensor) -> tuple[Tensor, ...]:
        """Split a parameter (C, ...) into the parts of ``x``."""
        if not self.permuted:
            parameter = reordered(parameter, x.layout.order)
        return torch.split(parameter, list(x.layout.sizes)) if len(x.parts) > 1 else (parameter,)

    def _joined(self, x: FeatureMap, values: list[Tensor]) -> Tensor:
        """Concatenate values of the parts: the inverse of ``_cut``."""
        value = torch.cat(values) if len(values) > 1 else values[0]
        return value if self.permuted else reordered(value, routing.inverse(x.layout.order))


def _feature_map(x: FeatureMap | Tensor) -> FeatureMap:
    return single(Part(x)) if isinstance(x, Tensor) else x


def _side_by_side(x: FeatureMap) -> Tensor:
    """Return the parts as one tensor, in permuted order."""
    tensors = [materialized(part) for part in x.parts]
    return torch.cat(tensors, 1) if len(tensors) > 1 else tensors[0]


def _convolved(operator: Operator, weight: Tensor, *tensors: Tensor) -> Part:
    z, mean, var = call(operator, weight.float(), *tensors)
    return Part(z, moments=(mean, var))


def _backend(name: str, ordered: _Ordered, permuted: Backend[FeatureMap] | None) -> Backend[FeatureMap]:
    return Backend(
        name=name,
        conv2d=ordered.conv2d,
        conv2d_bias=ordered.conv2d_bias,
        batch_norm_train=ordered.batch_norm_train,
        batch_norm_eval=ordered.batch_norm_eval,
        max_pool2d=max_pool2d,
        channel_split=channel_split,
        channel_shuffle=channel_shuffle,
        to_tensor=to_tensor,
        permuted=permuted,
        program=partial(record, permuted=ordered.permuted),
    )


BACKEND = _backend("cpu", _Ordered(permuted=False), _backend("cpu", _Ordered(permuted=True), None))
