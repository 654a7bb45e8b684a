"""Max pooling that supports every mode of differentiation on every device."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn_backends.transforms import several_reverse_passes


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
            best = (
                values
                if best is None
                else torch.where((values > best) | (values != values), values, best)
            )
    assert best is not None
    return best
