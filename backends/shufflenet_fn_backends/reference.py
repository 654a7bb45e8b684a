"""Backend ``reference``: the paper's operations. Every other backend is tested against it.

A feature map is a plain NCHW tensor. The functions are twice differentiable in both modes, and work under
every ``torch.func`` transform and ``torch.compile(fullgraph=True)``. A third derivative is wrong, because
PyTorch's rule for batch norm treats the saved statistics as constants.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn_backends.batch_norm import normalize, third_result
from shufflenet_fn_backends.primitives import Backend, Moments, check_equal_halves, half_of_channels
from shufflenet_fn_backends.support.private import several_reverse_passes


def max_pool2d(x: Tensor, *, kernel: int, stride: int, padding: int) -> Tensor:
    """Compute the maximum of every window of (N, C, H, W). A window with a NaN gives NaN.

    This is torch's operator, except in one case. On NPUs, the kernel stores the position of the maximum in an
    int8 mask, but torch's formulas for forward mode and second derivatives expect indices, so they fail in a
    gather. For these derivatives, and under ``torch.compile``, an NPU computes the maximum by comparisons,
    which support every transform. A second derivative by ``create_graph=True`` cannot be detected in advance
    and still fails on NPUs.
    """
    if x.device.type == "npu" and several_reverse_passes():
        return _by_comparing(x, kernel, stride, padding)
    return nnf.max_pool2d(x, kernel, stride, padding)


def _by_comparing(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Compute the maximum by comparisons. The first of equal values gets the gradient, as in the operator."""
    padded = nnf.pad(x, (padding,) * 4, value=float("-inf"))
    height, width = ((size - kernel) // stride + 1 for size in padded.shape[2:])
    best: Tensor | None = None
    for row in range(kernel):
        for column in range(kernel):
            rows = slice(row, row + stride * (height - 1) + 1, stride)
            columns = slice(column, column + stride * (width - 1) + 1, stride)
            values = padded[:, :, rows, columns]
            # A comparison with NaN is false, so an earlier NaN stays, and `values != values` takes a later
            # one.
            best = values if best is None else torch.where((values > best) | (values != values), values, best)
    assert best is not None
    return best


def conv2d(x: Tensor, weight: Tensor, *, stride: int, padding: int, groups: int) -> Tensor:
    return nnf.conv2d(x, weight, None, stride, padding, 1, groups)


def conv2d_bias(
    x: Tensor, weight: Tensor, bias: Tensor, *, stride: int, padding: int, groups: int, relu: bool
) -> Tensor:
    return _relu(nnf.conv2d(x, weight, bias, stride, padding, 1, groups), relu)


def batch_norm_train(
    x: Tensor, weight: Tensor, bias: Tensor, *, eps: float, relu: bool
) -> tuple[Tensor, Moments]:
    # Do not pass running statistics: torch would update them in place (silently under `grad`, with an error
    # under `vmap`). The kernel returns the batch's own statistics, so they need no second reduction.
    weight, bias = _at_least_float32(weight), _at_least_float32(bias)
    y, mean, saved = normalize(x, weight, bias, eps)
    count = x.shape[0] * x.shape[2] * x.shape[3]
    return _relu(y, relu), Moments(mean.detach(), saved.detach(), count, third_result(x.device))


def batch_norm_update_(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float,
    eps: float,
    relu: bool,
) -> Tensor:
    weight, bias = _at_least_float32(weight), _at_least_float32(bias)
    if x.numel() == x.shape[1]:
        # One value per channel has no unbiased variance: the kernels would set the running variance to NaN.
        y, mean, _ = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        # Write through `data`: the buffers may be views of one tensor that autograd saved for other layers.
        running_mean.data.lerp_(mean.detach().to(running_mean.dtype), momentum)
        running_var.data.mul_(1.0 - momentum)
        return _relu(y, relu)
    y = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)[0]
    return _relu(y, relu)


def batch_norm_eval(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float, relu: bool
) -> Tensor:
    weight, bias = _at_least_float32(weight), _at_least_float32(bias)
    return _relu(nnf.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), relu)


def channel_split(x: Tensor) -> tuple[Tensor, Tensor]:
    half_of_channels(x)  # `chunk` would give unequal halves
    x1, x2 = x.chunk(2, dim=1)
    return x1, x2


def channel_shuffle(x1: Tensor, x2: Tensor) -> Tensor:
    check_equal_halves(x1, x2)
    x = torch.cat((x1, x2), dim=1)
    n, c, h, w = x.shape
    if x.stride(1) == 1:
        # channels_last: shuffle the NHWC view, or the result would be NCHW and every later convolution
        # would convert. (`is_contiguous(memory_format=...)` raises under vmap.)
        nhwc = x.permute(0, 2, 3, 1).reshape(n, h, w, 2, c // 2)
        return nhwc.transpose(3, 4).reshape(n, h, w, c).permute(0, 3, 1, 2)
    return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def to_tensor(x: Tensor) -> Tensor:
    return x


def _at_least_float32(parameter: Tensor) -> Tensor:
    # Half activations work with float32 parameters and statistics. Half parameters (O3) would require and
    # return half statistics on the CPU, which are too imprecise for an average over many steps.
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))


def _relu(x: Tensor, active: bool) -> Tensor:
    # In place is safe, because only this module holds the tensor. Batch norm's backward needs its input and
    # not its output, so this saves an activation at the peak.
    return x.relu_() if active else x


BACKEND: Backend[Tensor] = Backend(
    name="reference",
    conv2d=conv2d,
    conv2d_bias=conv2d_bias,
    batch_norm_train=batch_norm_train,
    batch_norm_eval=batch_norm_eval,
    batch_norm_update_=batch_norm_update_,
    max_pool2d=max_pool2d,
    channel_split=channel_split,
    channel_shuffle=channel_shuffle,
    to_tensor=to_tensor,
)
