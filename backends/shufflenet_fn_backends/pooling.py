"""Max pooling that differentiates in every mode on every device."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn_backends.transforms import several_reverse_passes


def max_pool2d(x: Tensor, *, kernel: int, stride: int, padding: int) -> Tensor:
    """The maximum of every window of (N, C, H, W), with its NaN if it has one.

    torch's own operator, except in one case. On NPUs its kernel notes where the maximum was in an int8 mask,
    where torch's formulas for forward mode and for second derivatives expect indices: they fail in a gather.
    There, and under ``torch.compile``, the maximum is taken by comparisons, which any transform can go
    through. A second derivative by ``create_graph=True``, which nothing announces before, fails there still.
    """
    if x.device.type == "npu" and several_reverse_passes():
        return _by_comparing(x, kernel, stride, padding)
    return nnf.max_pool2d(x, kernel, stride, padding)


def _by_comparing(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The first of equal values is taken, and has the gradient: as the operator has it."""
    padded = nnf.pad(x, (padding,) * 4, value=float("-inf"))
    height, width = ((size - kernel) // stride + 1 for size in padded.shape[2:])
    best: Tensor | None = None
    for row in range(kernel):
        for column in range(kernel):
            rows = slice(row, row + stride * (height - 1) + 1, stride)
            columns = slice(column, column + stride * (width - 1) + 1, stride)
            values = padded[:, :, rows, columns]
            # (A comparison with NaN is false, so a NaN that was found stays; a later one is let in.)
            best = (
                values
                if best is None
                else torch.where((values > best) | (values != values), values, best)
            )
    assert best is not None
    return best
