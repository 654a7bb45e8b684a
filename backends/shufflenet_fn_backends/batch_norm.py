"""Training-mode batch norm with correct derivatives on every device.

PyTorch's rules for forward mode, second derivatives and batched backward passes of ``native_batch_norm``
assume that its third result is the inverse standard deviation. On a chip that returns the variance
(``third_result``) they are silently wrong. On such a chip, the kernels compute only the value and the first
derivative, which are correct. All other derivatives use a composition of elementary operations.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from shufflenet_fn_backends.batch_norm_probe import measured
from shufflenet_fn_backends.primitives import ThirdResult
from shufflenet_fn_backends.transforms import batched_or_forward

_DIMS: Final = (0, 2, 3)


def normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise NCHW ``x`` with its own statistics.

    Args:
        x: (N, C, H, W), floating point.
        weight: (C,), at least float32.
        bias: as ``weight``.
        eps: added to the variance.

    Returns:
        The output in the dtype of ``x``, the mean (C,), and the third result of the device's kernel (C,),
        whose kind is ``third_result(x.device)``.
    """
    if third_result(x.device) == "invstd":
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
    if batched_or_forward():
        return composed(x, weight, bias, eps)
    y, mean, var = _BatchNorm.apply(x, weight, bias, eps)
    return y, mean, var


def composed(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, mean and biased variance, from operations that support every transform."""
    mean, centred, var = _statistics(x, weight.dtype)
    y = centred * (var + eps).rsqrt() * _per_channel(weight) + _per_channel(bias)
    return y.to(x.dtype), mean.flatten(), var.flatten()


def composed_backward(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``x``, ``weight`` and ``bias``: Ioffe and Szegedy, 2015, section 3."""
    _, centred, var = _statistics(x, weight.dtype)
    invstd = (var + eps).rsqrt()
    normed, dy = centred * invstd, dy.to(weight.dtype)
    dbias = dy.sum(_DIMS)
    dweight = (dy * normed).sum(_DIMS)
    dnormed = dy * _per_channel(weight)
    along = (dnormed * normed).mean(_DIMS, keepdim=True)
    dx = invstd * (dnormed - dnormed.mean(_DIMS, keepdim=True) - normed * along)
    return dx.to(x.dtype), dweight, dbias


class _BatchNorm(torch.autograd.Function):
    """The forward kernel, and the backward kernel or the composition where PyTorch's rules would be used."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, _, eps = inputs
        _, mean, var = output
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(
            False
        )  # zeros for both statistics would cost two kernels per layer
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dmean: Any, dvar: Any) -> Any:
        x, weight, mean, var = ctx.saved_tensors
        if dy is None:
            return None, None, None, None
        if batched_or_forward():
            grads = composed_backward(dy, x, weight, ctx.eps)
        else:
            grads = _BatchNormBackward.apply(dy, x, weight, mean, var, ctx.eps)
        return *grads, None


class _BatchNormBackward(torch.autograd.Function):
    """The backward kernel, with the derivative of the composition."""

    @staticmethod
    def forward(
        dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, var: Tensor, eps: float
    ) -> Any:
        return torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, None, None, mean, var, True, eps, [True] * 3
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        dy, x, weight, _, _, eps = inputs
        ctx.save_for_backward(dy, x, weight)
        ctx.eps = eps

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        def gradients(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return composed_backward(dy, x, weight, ctx.eps)

        primal: tuple[Any, ...] = torch.func.vjp(gradients, *ctx.saved_tensors)
        pull_back = primal[1]
        return *pull_back(cotangents), None, None, None


def _statistics(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x = x.to(dtype)
    mean = x.mean(_DIMS, keepdim=True)
    centred = x - mean
    return mean, centred, centred.square().mean(_DIMS, keepdim=True)


def _per_channel(parameter: Tensor) -> Tensor:
    return parameter.reshape(1, -1, 1, 1)


def third_result(device: torch.device) -> ThirdResult:
    """Return the kind of the third result on ``device``. On an NPU it is measured (``batch_norm_probe``).

    Raises:
        DeviceError: the result is of neither kind; the message has the numbers.
    """
    if device.type != "npu":
        return "invstd"
    kind: ThirdResult = measured(device)
    return kind
