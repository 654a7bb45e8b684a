"""The operators of the network as values with a forward and a backward pass over plain tensors.

A convolution returns z and, in float32, the mean and (biased) variance of each of its channels over N, H and
W: the moments cost no pass of their own. Feature maps come in parts (``memory.Parts``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from shufflenet_fn_backends.fused.library import kernels
from shufflenet_fn_backends.fused.memory import (
    OutputGradient,
    Parts,
    Shape,
    address,
    dense,
    empty,
    fields,
    pixel_stride,
    shape_of,
    vector,
)


class Operator(Protocol):
    """A differentiable operator, on plain CPU tensors and outside autograd."""

    @property
    def constants(self) -> tuple[int, ...]:
        """Which results have no gradient."""

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Results of the operator."""

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        grads: Sequence[Tensor],
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        """Gradients of ``tensors`` from those of ``results``; ``None`` allowed where not needed."""


@dataclass(frozen=True)
class Pointwise:
    """1x1 convolution. Tensors: weight (O, C, 1, 1) float32, order (C,) int64 or empty, then the parts.

    Physical input channel k meets column ``order[k]`` of the weight; an empty order is the natural one.
    """

    flags: tuple[int, ...]
    constants: tuple[int, ...] = ()

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        weight, order, *rest = tensors
        weight = weight.contiguous()
        parts = Parts(rest, self.flags)
        z, mean, var = _results(parts.shape, weight.shape[0], parts.dtype)
        kernels().pointwise_forward(
            _half(z),
            parts.fields,
            _pointwise_fields(parts, weight, order),
            fields(address(z), weight.shape[0], 0, 0),
            None,
            address(mean),
            address(var),
        )
        return z, mean, var

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        grads: Sequence[Tensor],
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        weight, order, *rest = tensors
        weight = weight.contiguous()
        z, mean, _ = results
        parts = Parts(rest, self.flags, gradients=True)
        dweight = torch.empty_like(weight)
        gradient = OutputGradient(z, mean, grads)
        kernels().pointwise_backward(
            _half(z),
            parts.fields,
            _pointwise_fields(parts, weight, order),
            gradient.fields,
            address(dweight),
        )
        return dweight, None, *parts.gradients


@dataclass(frozen=True)
class Depthwise:
    """3x3 depthwise convolution, padding 1. Tensors: weight (C, 1, 3, 3) float32, then the parts."""

    flags: tuple[int, ...]
    stride: int
    constants: tuple[int, ...] = ()

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        weight, *rest = tensors
        weight = weight.contiguous()
        parts = Parts(rest, self.flags)
        shape = parts.shape.halved() if self.stride == 2 else parts.shape
        z, mean, var = _results(shape, parts.channels, parts.dtype)
        kernels().depthwise_forward(
            _half(z),
            parts.fields,
            self._fields(parts, weight),
            fields(address(z), parts.channels, 0, 0),
            address(mean),
            address(var),
        )
        return z, mean, var

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        grads: Sequence[Tensor],
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        weight, *rest = tensors
        weight = weight.contiguous()
        z, mean, _ = results
        parts = Parts(rest, self.flags, gradients=True)
        dweight = torch.empty_like(weight)
        gradient = OutputGradient(z, mean, grads)
        kernels().depthwise_backward(
            _half(z),
            parts.fields,
            self._fields(parts, weight),
            gradient.fields,
            address(dweight),
        )
        return dweight, *parts.gradients

    def _fields(self, parts: Parts, weight: Tensor) -> object:
        if weight.shape != (parts.channels, 1, 3, 3):
            raise ValueError(
                f"a depthwise weight {tuple(weight.shape)} does not fit a feature map of "
                f"{parts.channels} channels"
            )
        return fields(
            parts.count,
            parts.channels,
            *parts.shape,
            self.stride,
            address(weight, torch.float32),
            torch.get_num_threads(),
        )


@dataclass(frozen=True)
class Stem:
    """3x3 convolution, stride 2, padding 1, over images.

    Tensors: weight (O, C, 3, 3) float32, x (N, C, H, W).
    """

    constants: tuple[int, ...] = ()

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        weight = tensors[0].contiguous()
        x = tensors[1].contiguous(memory_format=torch.channels_last)
        z, mean, var = _results(shape_of(x).halved(), weight.shape[0], x.dtype)
        kernels().stem_forward(
            _half(z),
            _stem_fields(x, weight),
            fields(address(z), weight.shape[0], 0, 0),
            address(mean),
            address(var),
        )
        return z, mean, var

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        grads: Sequence[Tensor],
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        weight = tensors[0].contiguous()
        x = tensors[1].contiguous(memory_format=torch.channels_last)
        z, mean, _ = results
        dweight = torch.empty_like(weight)
        gradient = OutputGradient(z, mean, grads)
        kernels().stem_backward(
            _half(z), _stem_fields(x, weight), gradient.fields, address(dweight)
        )
        return dweight, _image_gradient(x, weight, results, grads) if needed[1] else None


@dataclass(frozen=True)
class MaxPool:
    """3x3 maximum, stride 2, padding 1, of one part. Results: y and which of the nine it was (uint8)."""

    flag: int
    constants: tuple[int, ...] = (1,)

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        part = Parts(tensors, (self.flag,))
        y = empty(part.shape.halved(), part.channels, part.dtype)
        which = torch.empty_like(y, dtype=torch.uint8)
        kernels().pool_forward(
            _half(y), part.fields, self._fields(part), address(y), address(which)
        )
        return y, which

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        grads: Sequence[Tensor],
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        y, which = results
        which = which.contiguous(memory_format=torch.channels_last)
        part = Parts(tensors, (self.flag,), gradients=True)
        dy = grads[0].to(y.dtype).contiguous(memory_format=torch.channels_last)
        kernels().pool_backward(
            _half(y), part.fields, self._fields(part), address(dy), address(which)
        )
        return tuple(part.gradients)

    def _fields(self, part: Parts) -> object:
        return fields(*part.shape, torch.get_num_threads())


@dataclass(frozen=True)
class Coefficients:
    """Of a batch norm. Tensors: mean, var, weight, bias (C,). Results: affine (3, C) and 1/sqrt(var + eps).

    The second result has no gradient of its own.
    """

    eps: float
    constants: tuple[int, ...] = (1,)

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        mean, var, weight, bias = tensors
        invstd = torch.rsqrt(var + self.eps)
        return torch.stack((mean, weight * invstd, bias)), invstd

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        grads: Sequence[Tensor],
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        _, _, weight, _ = tensors
        _, invstd = results
        dmean, dscale, dbias = grads[0]
        dweight = dscale * invstd
        # The derivative of the inverse root is -invstd^3 / 2.
        return dmean, dweight * weight * invstd.square() * -0.5, dweight, dbias


@dataclass(frozen=True)
class Materialize:
    """One part as a tensor, its normalisation applied."""

    flag: int
    constants: tuple[int, ...] = ()

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        part = Parts(tensors, (self.flag,))
        y = empty(part.shape, part.channels, part.dtype)
        kernels().apply_forward(
            _half(y),
            part.fields,
            part.shape.pixels,
            address(y),
            part.channels,
            torch.get_num_threads(),
        )
        return (y,)

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        grads: Sequence[Tensor],
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        part = Parts(tensors, (self.flag,), gradients=True)
        dy = dense(grads[0].to(part.dtype))
        kernels().apply_backward(
            _half(dy),
            part.fields,
            part.shape.pixels,
            address(dy),
            pixel_stride(dy),
            torch.get_num_threads(),
        )
        return tuple(part.gradients)


def _results(shape: Shape, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return empty(shape, channels, dtype), vector(channels), vector(channels)


def _image_gradient(
    x: Tensor, weight: Tensor, results: Sequence[Tensor], grads: Sequence[Tensor]
) -> Tensor:
    """Rarely wanted (saliency, adversarial examples), so with torch's operators."""
    z, mean, _ = results
    dz, dmean, dvar = grads
    moments = dmean[:, None, None] + 2.0 * dvar[:, None, None] * (z - mean[:, None, None])
    dz = (dz + moments / shape_of(z).pixels).to(x.dtype)
    dx: Tensor = torch.ops.aten.convolution_backward(
        dz,
        x,
        weight.to(x.dtype),
        None,
        (2, 2),
        (1, 1),
        (1, 1),
        False,
        (0, 0),
        1,
        (True, False, False),
    )[0]
    return dx


def _half(z: Tensor) -> int:
    return int(z.dtype is torch.bfloat16)


def _pointwise_fields(parts: Parts, weight: Tensor, order: Tensor) -> object:
    if weight.shape[1:] != (parts.channels, 1, 1) or order.numel() not in (0, parts.channels):
        raise ValueError(
            f"a weight {tuple(weight.shape)} does not fit a feature map of {parts.channels} channels"
        )
    return fields(
        parts.count,
        parts.shape.pixels,
        parts.channels,
        weight.shape[0],
        address(weight, torch.float32),
        address(order, torch.int64),
        torch.get_num_threads(),
    )


def _stem_fields(x: Tensor, weight: Tensor) -> object:
    if weight.shape[1:] != (x.shape[1], 3, 3):
        raise ValueError(
            f"a weight {tuple(weight.shape)} does not fit images of {x.shape[1]} channels"
        )
    return fields(
        address(x),
        *shape_of(x),
        x.shape[1],
        weight.shape[0],
        address(weight, torch.float32),
        torch.get_num_threads(),
    )
