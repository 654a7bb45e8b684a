"""The operators of the network.

A convolution returns z and, in float32, the mean and biased variance of each channel over N, H and W, so the
moments need no separate pass. The others work on one part or on batch norm parameters. Feature maps consist
of parts (``memory.Parts``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

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


class Call(NamedTuple):
    """The arguments of a convolution's kernels.

    ``fields`` has addresses of ``weight`` and of tensors in ``alive``. ``shape`` and ``dtype`` are those of
    the result. ``gradients``: of all tensors after the weight.
    """

    fields: tuple[Fields, ...]
    weight: Tensor
    shape: Shape
    dtype: torch.dtype
    gradients: Sequence[Tensor | None]
    alive: object


class Convolution(Operator):
    """A convolution. The first tensor is its weight, float32."""

    kernel: ClassVar[str]

    @abstractmethod
    def call(self, tensors: Tensors, *, gradients: bool = False) -> Call:
        """Return the arguments of the kernels; with ``gradients``, those of the backward pass."""

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        call = self.call(tensors)
        mean, var = vector(call.weight.shape[0]), vector(call.weight.shape[0])
        return self._forward(call, (0, 0), address(mean), address(var)), mean, var

    def biased(self, tensors: Tensors, bias: Tensor, *, relu: bool) -> Tensor:
        """Return z plus a bias per channel, after a ReLU if ``relu``. It is not differentiable."""
        bias = bias.float().contiguous()
        return self._forward(self.call(tensors), (address(bias), relu), None, None)

    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        call, (z, mean, *_) = self.call(tensors, gradients=True), results
        dweight, gradient = torch.empty_like(call.weight), OutputGradient(z, mean, grads)
        kernel = getattr(kernels(), f"{self.kernel}_backward")
        kernel(is_half(z), *call.fields, gradient.fields, address(dweight))
        return dweight, *call.gradients

    def _forward(self, call: Call, activation: tuple[int, int], *moments: int | None) -> Tensor:
        z = empty(call.shape, call.weight.shape[0], call.dtype)
        output = fields(address(z), call.weight.shape[0], *activation)
        getattr(kernels(), f"{self.kernel}_forward")(is_half(z), *call.fields, output, *moments)
        return z


@dataclass(frozen=True)
class Pointwise(Convolution):
    """1x1 convolution. Tensors: weight (O, C, 1, 1) float32, order (C,) int64 or empty, then the parts.

    Permuted input channel k is multiplied by column ``order[k]`` of the weight. An empty order is the natural
    one.
    """

    flags: tuple[int, ...]
    kernel = "pointwise"

    def call(self, tensors: Tensors, *, gradients: bool = False) -> Call:
        weight, order, *rest = tensors
        weight, parts = weight.contiguous(), Parts(rest, self.flags, gradients=gradients)
        if weight.shape[1:] != (parts.channels, 1, 1) or order.numel() not in (0, parts.channels):
            raise ValueError(
                f"a weight {tuple(weight.shape)} does not fit a feature map of {parts.channels} channels"
            )
        values = fields(
            parts.count,
            parts.shape.pixels,
            parts.channels,
            weight.shape[0],
            address(weight, torch.float32),
            address(order, torch.int64),
            torch.get_num_threads(),
        )
        return Call((parts.fields, values), weight, parts.shape, parts.dtype, [None, *parts.gradients], parts)


@dataclass(frozen=True)
class Depthwise(Convolution):
    """3x3 depthwise convolution, padding 1. Tensors: weight (C, 1, 3, 3) float32, then the parts."""

    flags: tuple[int, ...]
    stride: int
    kernel = "depthwise"

    def call(self, tensors: Tensors, *, gradients: bool = False) -> Call:
        weight, *rest = tensors
        weight, parts = weight.contiguous(), Parts(rest, self.flags, gradients=gradients)
        if weight.shape != (parts.channels, 1, 3, 3):
            raise ValueError(
                f"a depthwise weight {tuple(weight.shape)} does not fit a feature map of "
                f"{parts.channels} channels"
            )
        shape = parts.shape.halved() if self.stride == 2 else parts.shape
        pointer = address(weight, torch.float32)
        values = fields(
            parts.count, parts.channels, *parts.shape, self.stride, pointer, torch.get_num_threads()
        )
        return Call((parts.fields, values), weight, shape, parts.dtype, parts.gradients, parts)


@dataclass(frozen=True)
class Stem(Convolution):
    """3x3 convolution, stride 2, padding 1, over images.

    Tensors: weight (O, C, 3, 3) float32, x (N, C, H, W).
    """

    kernel = "stem"

    def call(self, tensors: Tensors, *, gradients: bool = False) -> Call:
        weight = tensors[0].contiguous()
        x = tensors[1].contiguous(memory_format=torch.channels_last)
        channels, pointer = x.shape[1], address(weight, torch.float32)
        if weight.shape[1:] != (channels, 3, 3):
            raise ValueError(f"a weight {tuple(weight.shape)} does not fit images of {channels} channels")
        values = fields(address(x), *shape_of(x), channels, weight.shape[0], pointer, torch.get_num_threads())
        return Call((values,), weight, shape_of(x).halved(), x.dtype, [None], x)

    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        dweight, _ = super().backward(tensors, results, grads, needed)
        return dweight, _image_gradient(tensors[1], tensors[0], results, grads) if needed[1] else None


@dataclass(frozen=True)
class MaxPool(Operator):
    """3x3 maximum of one part, stride 2, padding 1. Results: y, and the index of the maximum (uint8)."""

    flag: int
    constants = (1,)

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
    """Coefficients of a batch norm. Tensors: mean, var, weight, bias, each (C,) float32.

    Results: affine (3, C) and 1/sqrt(var + eps). The second result has no gradient.
    """

    eps: float
    constants = (1,)

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        mean, var, weight, bias = (t.contiguous() for t in tensors)
        channels = mean.shape[0]
        affine, invstd = vector(channels, 3), vector(channels)
        inputs = [address(t, torch.float32) for t in (mean, var, weight, bias)]
        kernels().coefficients_forward(channels, self.eps, *inputs, address(affine), address(invstd))
        return affine, invstd

    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        weight, invstd, daffine = (t.contiguous() for t in (tensors[2], results[1], grads[0]))
        channels = weight.shape[0]
        dvar, dweight = vector(channels), vector(channels)
        inputs = [address(t, torch.float32) for t in (weight, invstd, daffine)]
        kernels().coefficients_backward(channels, *inputs, address(dvar), address(dweight))
        return daffine[0], dvar, dweight, daffine[2]


@dataclass(frozen=True)
class Normalized(Operator):
    """A convolution and the coefficients of the batch norm after it, in one node of autograd.

    Tensors: weight and bias of the batch norm, each (C,) float32, then those of the convolution. Results: z,
    and those of ``Coefficients``.
    """

    convolution: Convolution
    eps: float
    constants = (2,)

    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        z, mean, var = self.convolution.forward(tensors[2:])
        return z, *Coefficients(self.eps).forward((mean, var, *tensors[:2]))

    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        z, affine, invstd = results
        mean = affine[0]
        dmean, dvar, *own = Coefficients(self.eps).backward(
            (mean, mean, *tensors[:2]), (affine, invstd), grads[1:], ()
        )
        assert dmean is not None and dvar is not None
        moments = (grads[0], dmean, dvar)
        return *own, *self.convolution.backward(tensors[2:], (z, mean), moments, needed[2:])


@dataclass(frozen=True)
class Materialize(Operator):
    """One part as a tensor, with its normalisation and ReLU applied."""

    flag: int

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


def _image_gradient(x: Tensor, weight: Tensor, results: Tensors, grads: Tensors) -> Tensor:
    """Return the gradient of the images. It is rarely needed, so it uses torch's operators."""
    z, mean, *_ = results
    dz, dmean, dvar = grads
    moments = dmean[:, None, None] + 2.0 * dvar[:, None, None] * (z - mean[:, None, None])
    dz = (dz + moments / shape_of(z).pixels).to(x.dtype)
    dx: Tensor = torch.ops.aten.convolution_backward(
        *(dz, x, weight.to(x.dtype), None, (2, 2), (1, 1), (1, 1)), *(False, (0, 0), 1, (True, False, False))
    )[0]
    return dx
