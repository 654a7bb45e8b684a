"""Backend ``cpu``: each primitive on the CPU, mostly by fused C++ kernels.

=================  ==========================================================================================
primitive          on the CPU
=================  ==========================================================================================
conv2d 1x1         pending until its reader is known. C++: reads the parts in place, applies their pending
                   batch norm and ReLU while it loads them, multiplies, and computes the moments of the result
conv2d depthwise   C++: the same, plane by plane
conv2d 3x3, s2     C++: patches of the images, then a matrix product (the stem)
conv2d_bias        the same kernels, which also add the bias and apply ReLU; without gradients only
batch_norm         calls the pending convolution, and computes coefficients from its moments in the same node
                   of autograd; the next reader applies them
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
from typing import NamedTuple, TypeAlias

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
from shufflenet_fn_backends.fused.operators import (
    Coefficients,
    Convolution,
    Depthwise,
    MaxPool,
    Normalized,
    Pointwise,
    Stem,
)
from shufflenet_fn_backends.primitives import Backend, Moments
from shufflenet_fn_backends.routed_map import index_constant, reordered
from shufflenet_fn_backends.support.private import forward_mode, transforms_active

_STEM_CHANNELS = 16


def _kernels_take(x: FeatureMap, *parameters: Tensor) -> bool:
    zs = [part.z for part in x.parts]
    return kernels_take(*zs, *parameters) and len({z.dtype for z in zs}) == 1


def channel_split(x: _Map) -> tuple[FeatureMap, FeatureMap]:
    x = _feature_map(x)
    first, second = routing.split(x.layout, depth=CUTS_AHEAD)
    pieces = take(x.parts, (*first.ranges, *second.ranges))
    count = len(first.ranges)
    return FeatureMap(pieces[:count], first.layout), FeatureMap(pieces[count:], second.layout)


def channel_shuffle(x1: _Map, x2: _Map) -> FeatureMap:
    x1, x2 = _feature_map(x1), _feature_map(x2)
    return FeatureMap((*x1.parts, *x2.parts), routing.interleave(x1.layout, x2.layout))


def max_pool2d(x: _Map | Tensor, *, kernel: int, stride: int, padding: int) -> FeatureMap:
    x = _feature_map(x)
    fits = (kernel, stride, padding) == (3, 2, 1)

    def pooled(part: Part) -> Part:
        if fits and kernels_take(part.z):
            return Part(call(MaxPool(part.flag), *part.tensors)[0])
        return Part(nnf.max_pool2d(materialized(part), kernel, stride, padding))

    return replace(x, parts=tuple(pooled(part) for part in x.parts))


def to_tensor(x: _Map | Tensor) -> Tensor:
    if isinstance(x, Tensor):
        return x
    x = _feature_map(x)
    return reordered(_side_by_side(x), routing.inverse(x.layout.order), 1)


class Pending(NamedTuple):
    """A convolution that is computed when its reader is known: its operator, tensors and result's layout."""

    operator: Convolution
    tensors: tuple[Tensor, ...]
    layout: routing.Layout


class _Ordered(NamedTuple):
    """The primitives that take parameters or return moments, for either channel order."""

    permuted: bool

    def conv2d(self, x: _Map | Tensor, weight: Tensor, *, stride: int, padding: int, groups: int) -> _Map:
        x = _computed(x)
        found = self._kernel(x, weight, (stride, padding, groups))
        if found is not None:
            return found
        x = _feature_map(x)
        order, y = x.layout.order, _side_by_side(x)
        depthwise = groups == len(order) == weight.shape[0]
        if groups != 1 and not depthwise:
            raise ValueError(f"{groups} groups of {len(order)} channels: only 1 and {len(order)} are there")
        if not self.permuted:
            weight = reordered(weight, order, 0 if depthwise else 1)
        part = Part(nnf.conv2d(y, weight, None, stride, padding, 1, groups))
        return FeatureMap((part,), routing.Layout((len(order),), order)) if depthwise else single(part)

    def batch_norm_train(
        self, x: _Map | Tensor, weight: Tensor, bias: Tensor, *, eps: float, relu: bool
    ) -> tuple[FeatureMap, Moments]:
        parts, means, invstds = [], [], []
        if isinstance(x, Pending):
            (w,), (b,) = self._cut(x, weight), self._cut(x, bias)
            z, affine, invstd = call(Normalized(x.operator, eps), w.float(), b.float(), *x.tensors)
            parts.append(Part(z, affine, relu))
            means.append(affine[0].detach())
            invstds.append(invstd.detach())
        else:
            x = _feature_map(x)
            for part, w, b in zip(x.parts, self._cut(x, weight), self._cut(x, bias), strict=True):
                y, moments = reference.batch_norm_train(materialized(part), w, b, eps=eps, relu=relu)
                parts.append(Part(y))
                means.append(moments.mean)
                invstds.append(moments.saved)  # on the CPU, the inverse standard deviation
        z = parts[0].z
        count = z.shape[0] * z.shape[2] * z.shape[3]
        if count == 0:
            raise ValueError(f"no batch statistics of an empty batch {tuple(z.shape)}")
        moments = Moments(self._joined(x, means), self._joined(x, invstds), count)
        return FeatureMap(tuple(parts), x.layout), moments

    def batch_norm_eval(
        self,
        x: _Map | Tensor,
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
                affine, _ = call(Coefficients(eps), *(value.float() for value in (m, v, w, b)))
                return Part(part.z, affine, relu)
            return Part(reference.batch_norm_eval(materialized(part), w, b, m, v, eps=eps, relu=relu))

        cut = (self._cut(x, value) for value in (weight, bias, mean, var))
        return replace(x, parts=tuple(map(normalised, x.parts, *cut)))

    def conv2d_bias(
        self,
        x: _Map | Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int,
        padding: int,
        groups: int,
        relu: bool,
    ) -> FeatureMap:
        x = _computed(x)
        derived = torch.is_grad_enabled() or transforms_active() or forward_mode()
        if not derived and bias.shape == weight.shape[:1]:
            found = self._kernel(x, weight, (stride, padding, groups))
            if found is not None:
                if not self.permuted:
                    bias = reordered(bias, found.layout.order)
                return FeatureMap(
                    (Part(found.operator.biased(found.tensors, bias, relu=relu)),), found.layout
                )
        y = _feature_map(self.conv2d(x, weight, stride=stride, padding=padding, groups=groups))
        (b,) = self._cut(y, bias)
        z = y.parts[0].z + b[:, None, None]
        return replace(y, parts=(Part(z.relu() if relu else z),))

    def _kernel(
        self, x: FeatureMap | Tensor, weight: Tensor, geometry: tuple[int, int, int]
    ) -> Pending | None:
        """Return the kernel of a convolution of this stride, padding and groups, if there is one."""
        if torch.compiler.is_compiling():
            raise NotImplementedError("backend cpu cannot be compiled by torch; take backend routed")
        size = tuple(weight.shape[2:])
        if isinstance(x, Tensor) and (size, geometry) == ((3, 3), (2, 1, 1)):
            if x.shape[1] <= _STEM_CHANNELS and kernels_take(x, weight):
                return Pending(Stem(), (weight.float(), x), routing.natural(weight.shape[0]))
            return None
        x = _feature_map(x)
        order = x.layout.order
        if not _kernels_take(x, weight):
            return None
        if (size, geometry) == ((1, 1), (1, 0, 1)):
            aligned = self.permuted or routing.is_natural(order)
            index = index_constant(() if aligned else order, weight.device)
            tensors = (weight.float(), index, *x.tensors)
            return Pending(Pointwise(x.flags), tensors, routing.natural(weight.shape[0]))
        channels, (stride, padding, groups) = len(order), geometry
        if groups == channels == weight.shape[0] and (size, padding) == ((3, 3), 1) and stride in (1, 2):
            if not self.permuted:
                weight = reordered(weight, order)
            tensors = (weight.float(), *x.tensors)
            return Pending(Depthwise(x.flags, stride), tensors, routing.Layout((channels,), order))
        return None

    def _cut(self, x: _Map, parameter: Tensor) -> tuple[Tensor, ...]:
        """Split a parameter (C, ...) into the parts of ``x``."""
        if not self.permuted:
            parameter = reordered(parameter, x.layout.order)
        sizes = x.layout.sizes
        return torch.split(parameter, list(sizes)) if len(sizes) > 1 else (parameter,)

    def _joined(self, x: _Map, values: list[Tensor]) -> Tensor:
        """Concatenate values of the parts: the inverse of ``_cut``."""
        value = torch.cat(values) if len(values) > 1 else values[0]
        return value if self.permuted else reordered(value, routing.inverse(x.layout.order))


_Map: TypeAlias = FeatureMap | Pending


def _computed(x: _Map | Tensor) -> FeatureMap | Tensor:
    """Return ``x``. A pending convolution is computed, each time that this is called."""
    if isinstance(x, Pending):
        return FeatureMap((Part(call(x.operator, *x.tensors)[0]),), x.layout)
    return x


def _feature_map(x: _Map | Tensor) -> FeatureMap:
    """Return ``x`` as a feature map. A pending convolution is computed."""
    x = _computed(x)
    return single(Part(x)) if isinstance(x, Tensor) else x


def _side_by_side(x: FeatureMap) -> Tensor:
    """Return the parts as one tensor, in permuted order."""
    tensors = [materialized(part) for part in x.parts]
    return torch.cat(tensors, 1) if len(tensors) > 1 else tensors[0]


def _backend(name: str, ordered: _Ordered, permuted: Backend[_Map] | None) -> Backend[_Map]:
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
    )


BACKEND = _backend("cpu", _Ordered(permuted=False), _backend("cpu", _Ordered(permuted=True), None))
