"""What can be split in halves and shuffled, for every backend alike."""

from __future__ import annotations

from torch import Tensor


def half_of_channels(x: Tensor) -> int:
    """Half the number of channels of ``x`` (..., C, H, W).

    Raises:
        ValueError: C is odd, or there are fewer than three dimensions.
    """
    if x.ndim < 3 or x.shape[-3] % 2:
        raise ValueError(
            f"a map of shape {tuple(x.shape)} has no halves: it must be (..., C, H, W) with an even C"
        )
    return x.shape[-3] // 2


def check_equal_halves(x1: Tensor, x2: Tensor) -> None:
    """That ``x1`` and ``x2`` can be the two halves of one map.

    Raises:
        ValueError: their shapes differ, or are not (..., C, H, W).
    """
    if x1.ndim < 3 or x1.shape != x2.shape:
        raise ValueError(
            f"maps of shapes {tuple(x1.shape)} and {tuple(x2.shape)} cannot be shuffled: both must have "
            "one shape (..., C, H, W)"
        )
