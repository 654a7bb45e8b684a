"""The operators of the network.

A convolution returns z and, in float32, the mean and biased variance of each channel over N, H and W, so the
moments need no separate pass. The others work on one part or on batch norm parameters. Feature maps consist
of parts (``memory.Parts``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shufflenet_fn_backends.fused.library import Gradients, Operator, Tensors, kernels
from shufflenet_fn_backends.fused.memory import (
    Fields,
    OutputGradient,
    Parts,
    Shape,
    address,
    dense,
    empty,
    fields,
    is_half,
    pixel_stride,
    shape_of,
    vector,
)


@dataclass(frozen=True)
class Pointwise(Operator):
    """1x1 convolution. Tensors: weight (O, C, 1, 1) float32, order (C,) int64 or empty, then the parts.

    Permuted input channel k is multiplied by column ``order[k]`` of the weight. An empty order is the natural
    one.
    """

    flags: tuple[int, ...]
    constants: tuple[int, ...] = ()

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        weight, order, *rest = tensors
        weight, parts = weight.contiguous(), Parts(rest, self.flags)
        call = (parts.fields, _pointwise_fields(parts, weight, order))
        kernel = kernels().pointwise_forward
        return _forward(kernel, call, parts.shape, weight.shape[0], parts.dtype, None)

    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        weight, order, *rest = tensors
        weight, parts = weight.contiguous(), Parts(rest, self.flags, gradients=True)
        call = (parts.fields, _pointwise_fields(parts, weight, order))
        dweight = _backward(kernels().pointwise_backward, call, weight, results, grads)
        return dweight, None, *parts.gradients


@dataclass(frozen=True)
class Depthwise(Operator):
    """3x3 depthwise convolution, padding 1. Tensors: weight (C, 1, 3, 3) float32, then the parts."""

    flags: tuple[int, ...]
    stride: int
    constants: tuple[int, ...] = ()

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        weight, *rest = tensors
        weight, parts = weight.contiguous(), Parts(rest, self.flags)
        shape = parts.shape.halved() if self.stride == 2 else parts.shape
        call = (parts.fields, _depthwise_fields(parts, weight, self.stride))
        return _forward(kernels().depthwise_forward, call, shape, parts.channels, parts.dtype)

    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        weight, *rest = tensors
        weight, parts = weight.contiguous(), Parts(rest, self.flags, gradients=True)
        call = (parts.fields, _depthwise_fields(parts, weight, self.stride))
        dweight = _backward(kernels().depthwise_backward, call, weight, results, grads)
        return dweight, *parts.gradients


@dataclass(frozen=True)
class Stem(Operator):
    """3x3 convolution, stride 2, padding 1, over images.

    Tensors: weight (O, C, 3, 3) float32, x (N, C, H, W).
    """

    constants: tuple[int, ...] = ()

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        weight = tensors[0].contiguous()
        x = tensors[1].contiguous(memory_format=torch.channels_last)
        call, shape = (_stem_fields(x, weight),), shape_of(x).halved()
        return _forward(kernels().stem_forward, call, shape, weight.shape[0], x.dtype)

    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        weight = tensors[0].contiguous()
        x = tensors[1].contiguous(memory_format=torch.channels_last)
        call = (_stem_fields(x, weight),)
        dweight = _backward(kernels().stem_backward, call, weight, results, grads)
        return dweight, _image_gradient(x, weight, results, grads) if needed[1] else None


@dataclass(frozen=True)
class MaxPool(Operator):
    """3x3 maximum of one part, stride 2, padding 1. Results: y, and the index of the maximum (uint8)."""

    flag: int
    constants: tuple[int, ...] = (1,)

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        part = Parts(tensors, (self.flag,))
        y = empty(part.shape.halved(), part.channels, part.dtype)
        which = torch.empty_like(y, dtype=torch.uint8)
        kernels().pool_forward(is_half(y), part.fields, self._fields(part), address(y), address(which))
        return y, which

    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        y, which = results
        which = which.contiguous(memory_format=torch.channels_last)
        part = Parts(tensors, (self.flag,), gradients=True)
        dy = grads[0].to(y.dtype).contiguous(memory_format=torch.channels_last)
        kernels().pool_backward(is_half(y), part.fields, self._fields(part), address(dy), address(which))
        return tuple(part.gradients)

    def _fields(self, part: Parts) -> Fields:
        return fields(*part.shape, torch.get_num_threads())


@dataclass(frozen=True)
class Coefficients(Operator):
    """Coefficients of a batch norm. Tensors: mean, var, weight, bias, each (C,).

    Results: affine (3, C) and 1/sqrt(var + eps). The second result has no gradient.
    """

    eps: float
    constants: tuple[int, ...] = (1,)

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        mean, var, weight, bias = tensors
        invstd = torch.rsqrt(var + self.eps)
        return torch.stack((mean, weight * invstd, bias)), invstd

    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        _, _, weight, _ = tensors
        _, invstd = results
        dmean, dscale, dbias = grads[0]
        dweight = dscale * invstd
        # The derivative of (var + eps)^(-1/2) is -invstd^3 / 2.
        return dmean, dweight * weight * invstd.square() * -0.5, dweight, dbias


@dataclass(frozen=True)
class Materialize(Operator):
    """One part as a tensor, with its normalisation and ReLU applied."""

    flag: int
    constants: tuple[int, ...] = ()

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        part = Parts(tensors, (self.flag,))
        y = empty(part.shape, part.channels, part.dtype)
        call = (is_half(y), part.fields, part.shape.pixels, address(y), part.channels)
        kernels().apply_forward(*call, torch.get_num_threads())
        return (y,)

    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        part = Parts(tensors, (self.flag,), gradients=True)
        dy = dense(grads[0].to(part.dtype))
        call = (is_half(dy), part.fields, part.shape.pixels, address(dy), pixel_stride(dy))
        kernels().apply_backward(*call, torch.get_num_threads())
        return tuple(part.gradients)


def _forward(
    kernel: Callable[..., object],
    call: tuple[Fields, ...],
    shape: Shape,
    channels: int,
    dtype: torch.dtype,
    *packed: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Call the kernel of a convolution. Return z, mean and variance."""
    z, mean, var = empty(shape, channels, dtype), vector(channels), vector(channels)
    output = fields(address(z), channels, 0, 0)
    kernel(is_half(z), *call, output, *packed, address(mean), address(var))
    return z, mean, var


def _backward(
    kernel: Callable[..., object], call: tuple[Fields, ...], weight: Tensor, results: Tensors, grads: Tensors
) -> Tensor:
    """Call the kernel of a convolution's gradient. Return the gradient of the weight."""
    z, mean, _ = results
    dweight, gradient = torch.empty_like(weight), OutputGradient(z, mean, grads)
    kernel(is_half(z), *call, gradient.fields, address(dweight))
    return dweight


def _image_gradient(x: Tensor, weight: Tensor, results: Tensors, grads: Tensors) -> Tensor:
    """Return the gradient of the images. It is rarely needed, so it uses torch's operators."""
    z, mean, _ = results
    dz, dmean, dvar = grads
    moments = dmean[:, None, None] + 2.0 * dvar[:, None, None] * (z - mean[:, None, None])
    dz = (dz + moments / shape_of(z).pixels).to(x.dtype)
    dx: Tensor = torch.ops.aten.convolution_backward(
        *(dz, x, weight.to(x.dtype), None, (2, 2), (1, 1), (1, 1)), *(False, (0, 0), 1, (True, False, False))
    )[0]
    return dx


def _pointwise_fields(parts: Parts, weight: Tensor, order: Tensor) -> Fields:
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


def _stem_fields(x: Tensor, weight: Tensor) -> Fields:
    if weight.shape[1:] != (x.shape[1], 3, 3):
        raise ValueError(f"a weight {tuple(weight.shape)} does not fit images of {x.shape[1]} channels")
    return fields(
        address(x),
        *shape_of(x),
        x.shape[1],
        weight.shape[0],
        address(weight, torch.float32),
        torch.get_num_threads(),
    )


def _depthwise_fields(parts: Parts, weight: Tensor, stride: int) -> Fields:
    if weight.shape != (parts.channels, 1, 3, 3):
        raise ValueError(
            f"a depthwise weight {tuple(weight.shape)} does not fit a feature map of "
            f"{parts.channels} channels"
        )
    return fields(
        parts.count,
        parts.channels,
        *parts.shape,
        stride,
        address(weight, torch.float32),
        torch.get_num_threads(),
    )
