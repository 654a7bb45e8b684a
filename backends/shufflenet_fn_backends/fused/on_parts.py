"""The operators of the network other than convolutions, on one part or on batch norm parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shufflenet_fn_backends.fused.library import Operator, kernels
from shufflenet_fn_backends.fused.memory import (
    Parts,
    address,
    dense,
    empty,
    fields,
    is_half,
    pixel_stride,
)


@dataclass(frozen=True)
class MaxPool(Operator):
    """3x3 maximum of one part, stride 2, padding 1. Results: y, and the index of the maximum (uint8)."""

    flag: int
    constants: tuple[int, ...] = (1,)

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        part = Parts(tensors, (self.flag,))
        y = empty(part.shape.halved(), part.channels, part.dtype)
        which = torch.empty_like(y, dtype=torch.uint8)
        kernels().pool_forward(
            is_half(y), part.fields, self._fields(part), address(y), address(which)
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
            is_half(y), part.fields, self._fields(part), address(dy), address(which)
        )
        return tuple(part.gradients)

    def _fields(self, part: Parts) -> object:
        return fields(*part.shape, torch.get_num_threads())


@dataclass(frozen=True)
class Coefficients(Operator):
    """Coefficients of a batch norm. Tensors: mean, var, weight, bias, each (C,).

    Results: affine (3, C) and 1/sqrt(var + eps). The second result has no gradient.
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
        # The derivative of (var + eps)^(-1/2) is -invstd^3 / 2.
        return dmean, dweight * weight * invstd.square() * -0.5, dweight, dbias


@dataclass(frozen=True)
class Materialize(Operator):
    """One part as a tensor, with its normalisation and ReLU applied."""

    flag: int
    constants: tuple[int, ...] = ()

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        part = Parts(tensors, (self.flag,))
        y = empty(part.shape, part.channels, part.dtype)
        kernels().apply_forward(
            is_half(y),
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
            is_half(dy),
            part.fields,
            part.shape.pixels,
            address(dy),
            pixel_stride(dy),
            torch.get_num_threads(),
        )
        return tuple(part.gradients)
