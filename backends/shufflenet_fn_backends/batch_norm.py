"""Training-mode batch norm with correct derivatives on every device.

PyTorch's rules for forward mode, second derivatives and batched backward passes of ``native_batch_norm``
assume that its third result is the inverse standard deviation. On a chip that returns the variance
(``third_result``) they are silently wrong. On such a chip, the kernels compute only the value and the first
derivative, which are correct. All other derivatives use a composition of elementary operations.

PyTorch's own kernels return the inverse standard deviation. On Ascend chips before the 950 class,
aclnnBatchNorm returns the biased variance, and aclnnBatchNormBackward takes it (ops-nn@9.1.0,
norm/batch_norm_v3/docs/aclnnBatchNorm.md, "saveInvstd"; op_kernel/batch_norm_v3_welford.h stores
``finalVar``); torch_npu returns it unchanged (op-plugin@517f2e7d, config/op_plugin_functions.yaml). So it is
measured on the chip, once per device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn_backends.primitives import ThirdResult
from shufflenet_fn_backends.support.errors import DeviceError
from shufflenet_fn_backends.support.private import batched_or_forward, mark_constant, outside_transforms

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


def composed_backward(dy: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
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
        ctx.set_materialize_grads(False)  # zeros for both statistics would cost two kernels per layer
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
    def forward(dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, var: Tensor, eps: float) -> Any:
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
    """Return the kind of the third result on ``device``. On an NPU it is measured (``measured``).

    Raises:
        DeviceError: the result is of neither kind; the message has the numbers.
    """
    return measured(device) if device.type == "npu" else "invstd"


CHANNELS: Final = (1, 63, 64)
"""CANN uses another kernel from 64 channels (aclnn_batch_norm.cpp, ``isBNV3Supported``)."""

_EPS: Final = 0.25
_TOLERANCE: Final = 0.01


class Probe(NamedTuple):
    """A batch norm with known variances: its result for one channel, and the results that are allowed."""

    channels: int
    returned: float
    var: float
    invstd: float
    kind: ThirdResult | None


# Under torch.compile the answer is a constant of the graph. Dynamo looks through `lru_cache`, and would not
# see the mark of a function in it.
@mark_constant
def measured(device: torch.device) -> ThirdResult:
    """Return what all kernels of ``device`` return as their third result; measured once.

    Raises:
        DeviceError: they do not agree, or a result is of neither kind.
    """
    return _measured(device)


@lru_cache(64)
def _measured(device: torch.device) -> ThirdResult:
    index: int | None = device.index
    if index is None:
        # The measurement runs in a new thread, whose current device is 0.
        device = torch.device(device.type, torch.get_device_module(device).current_device())
    return decide(probe(device), str(device))


def decide(probes: list[Probe], where: str) -> ThirdResult:
    """Return the kind that all ``probes`` agree on.

    Raises:
        DeviceError: they do not agree, or a result is of neither kind.
    """
    kinds = {found.kind for found in probes}
    if len(kinds) == 1:
        (kind,) = kinds
        if kind is not None:
            return kind
    numbers = "; ".join(
        f"{found.channels} channels: {found.returned:.4g} (variance {found.var:.4g}, inverse standard "
        f"deviation {found.invstd:.4g})"
        for found in probes
    )
    raise DeviceError(
        f"batch norm on {where} returns neither the variance nor the inverse standard deviation of its input "
        f"as its third result, or not the same for every number of channels. Returned for {numbers}. "
        "Gradients and running statistics would be wrong. Install a torch_npu and a CANN that go together "
        "(docs/ascend.md), unset whatever switches jit_compile on, or use --device cpu."
    )


def probe(device: torch.device) -> list[Probe]:
    """Compute a batch norm of each of ``CHANNELS`` on ``device`` and compare the third results."""
    return [_probe(channels, device) for channels in CHANNELS]


def _probe(channels: int, device: torch.device) -> Probe:
    # A channel with scale s has mean 0 and variance 5 s². Variance and inverse deviation differ in every
    # channel.
    pattern = torch.tensor([-1.0, 1.0, -3.0, 3.0]).reshape(4, 1, 1, 1)
    scale = torch.linspace(1.0, 2.0, channels)
    var = 5.0 * scale.square()
    invstd = (var + _EPS).rsqrt()

    def returned() -> Tensor:
        x = (pattern * scale.reshape(1, -1, 1, 1)).to(device)
        ones, zeros = torch.ones(channels, device=device), torch.zeros(channels, device=device)
        return torch.native_batch_norm(x, ones, zeros, None, None, True, 0.0, _EPS)[2].cpu()

    found = outside_transforms(returned)
    kind: ThirdResult | None = None
    if _close(found, var):
        kind = "var"
    elif _close(found, invstd):
        kind = "invstd"
    return Probe(channels, float(found[-1]), float(var[-1]), float(invstd[-1]), kind)


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).abs() <= _TOLERANCE * expected).all())
