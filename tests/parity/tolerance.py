"""Tolerances of backends relative to ``reference``, by device and dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn.tree import tree_paths

TOLERANCE: Mapping[str, Mapping[torch.dtype, float]] = MappingProxyType(
    {
        # Largest seen, of routed, which sums in another order: 6e-15, 4e-6. Of fused kernels: 0.07, 4e-4.
        "cpu": {torch.float64: 2e-13, torch.float32: 2e-5, torch.bfloat16: 0.1, torch.float16: 5e-3},
        # Not measured: room for TF32 in convolutions, which cuDNN uses for float32.
        "cuda": {torch.float64: 2e-13, torch.float32: 5e-3, torch.bfloat16: 0.1, torch.float16: 1e-2},
        # Not measured on hardware: room for HF32 in convolutions. There is no float64 convolution.
        "npu": {torch.float32: 5e-3, torch.bfloat16: 0.1, torch.float16: 1e-2},
    }
)
DEEP = 10
"""Rounding of the whole network in that of one unit (measured: 8e-14 in float64, 2.3e-5 in float32)."""

APART = 10
"""How many times as far from the truth as the reference another order of summation may be, with three tries.

Two computations in one precision err independently of each other. Where one direction is amplified most, as
over several layers or updates, both errors are a normal number along it, and the ratio of two such numbers
exceeds k with probability 1 - 2 / pi * atan(k): 6 % for 10, and three times in a row 0.03 %.
"""

WIDE = (torch.float64, torch.float32)


def tolerance(device: torch.device, dtype: torch.dtype) -> float:
    """The row of the table; skips the test if the device does not compute in ``dtype``."""
    by_dtype = TOLERANCE[device.type]
    if dtype not in by_dtype:
        pytest.skip(f"{device.type} does not compute in {dtype}")
    return by_dtype[dtype]


def assert_near(actual: Any, expected: Any, allowed: float) -> None:
    """No entry differs by more than ``allowed`` times the largest one of its tensor.

    Not relative to the entry: it can be a sum that cancels and has no accuracy of its own.
    """
    for path, a, e, scale in _pairs(actual, expected, torch.inf):
        difference = (a - e).abs().max().item()
        assert difference <= allowed * scale, f"{path}: {difference} at a scale of {scale}"


def assert_as_accurate(actual: Any, reference: Any, truth: Any, allowed: float) -> None:
    """The error, in the Euclidean norm, is at most twice the reference's plus ``allowed``.

    For half precision. Where a rounding takes a value over the edge of a ReLU, single entries of a gradient
    jump, in the reference as in a backend, and not the same ones.
    """
    references = dict(tree_paths(reference))
    for path, a, t, scale in _pairs(actual, truth, 2):
        error = torch.linalg.vector_norm(a.cpu().double() - t).item()
        unavoidable = torch.linalg.vector_norm(references[path].cpu().double() - t).item()
        assert error <= 2 * unavoidable + allowed * scale, (
            f"{path}: error {error}, of the reference {unavoidable}, at a scale of {scale}"
        )
        assert a.dtype == references[path].dtype, path


def _pairs(actual: Any, expected: Any, order: float) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    left, right = dict(tree_paths(actual)), dict(tree_paths(expected))
    assert left.keys() == right.keys()
    norms = {path: torch.linalg.vector_norm(leaf, order).item() for path, leaf in right.items()}
    largest = max(norms.values())
    assert largest > 0
    for path, leaf in right.items():
        assert left[path].shape == leaf.shape, path
        # Convolution and batch norm follow the bias of a depthwise batch norm, with no ReLU between: its true
        # gradient is zero, and what is computed is rounding. Compare it with what else there is.
        least = largest if path.endswith("dw.bn.bias") else largest / 1000
        yield path, left[path], leaf, max(norms[path], least)
