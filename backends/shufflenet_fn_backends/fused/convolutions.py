"""The convolutions of the network as operators.

Each returns z and, in float32, the mean and biased variance of each channel over N, H and W, so the moments
need no separate pass. Feature maps consist of parts (``memory.Parts``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shufflenet_fn_backends.fused.library import Operator, kernels
from shufflenet_fn_backends.fused.memory import (
    OutputGradient,
    Parts,
    Shape,
    address,
    empty,
    fields,
    is_half,
    shape_of,
    vector,
)


@dataclass(frozen=True)
class Pointwise(Operator):
    """1x1 convolution. Tensors: weight (O, C, 1, 1) float32, order (C,) int64 or empty, then the parts.

    Physical input channel k is multiplied by column ``order[k]`` of the weight. An empty order is the natural
    one.
    """

    flags: tuple[int, ...]
    constants: tuple[int, ...] = ()

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        weight, order, *rest = tensors
        weight = weight.contiguous()
        parts = Parts(rest, self.flags)
        z, mean, var = _results(parts.shape, weight.shape[0], parts.dtype)
        kernels().pointwise_forward(
            is_half(z),
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
            is_half(z),
            parts.fields,
            _pointwise_fields(parts, weight, order),
            gradient.fields,
            address(dweight),
        )
        return dweight, None, *parts.gradients


@dataclass(frozen=True)
class Depthwise(Operator):
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
            is_half(z),
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
            is_half(z),
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
class Stem(Operator):
    """3x3 convolution, stride 2, padding 1, over images.

    Tensors: weight (O, C, 3, 3) float32, x (N, C, H, W).
    """

    constants: tuple[int, ...] = ()

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        weight = tensors[0].contiguous()
        x = tensors[1].contiguous(memory_format=torch.channels_last)
        z, mean, var = _results(shape_of(x).halved(), weight.shape[0], x.dtype)
        kernels().stem_forward(
            is_half(z),
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
            is_half(z), _stem_fields(x, weight), gradient.fields, address(dweight)
        )
        return dweight, _image_gradient(x, weight, results, grads) if needed[1] else None


def _results(shape: Shape, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return empty(shape, channels, dtype), vector(channels), vector(channels)


def _image_gradient(
    x: Tensor, weight: Tensor, results: Sequence[Tensor], grads: Sequence[Tensor]
) -> Tensor:
    """Return the gradient of the images. It is rarely needed, so it uses torch's operators."""
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
