"""Counts of a training step on an NPU. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class StepCounts(NamedTuple):
    """Counts of one training step.

    ``operators``: calls by name. ``copied``: bytes that copy operators write. ``kernels``: modelled number,
    between ``low`` and ``high``; ``kinds``: the same by kind; ``moved``: bytes read and written by kernels.
    """

    calls: int
    operators: Mapping[str, int]
    copied: int
    host_syncs: int
    host_copies: int
    kernels: int
    low: int
    high: int
    kinds: Mapping[str, int]
    moved: int


def at_batch_size(small: StepCounts, large: StepCounts, sizes: tuple[int, int], wanted: int) -> StepCounts:
    """Extrapolate the counts of a step of ``wanted`` images from those of two batch sizes, ``sizes``.

    Calls and kernels do not depend on the batch size. Bytes are linear in it.

    Raises:
        ValueError: the two steps differ in calls or kernels, or their bytes are not linear.
    """
    if (small.operators, small.kinds) != (large.operators, large.kinds):
        raise ValueError(f"steps of {sizes[0]} and of {sizes[1]} images launch other kernels")

    def line(first: int, second: int) -> int:
        slope, rest = divmod(second - first, sizes[1] - sizes[0])
        if rest:
            raise ValueError(f"bytes of {sizes[0]} and {sizes[1]} images are not on a line")
        return first + slope * (wanted - sizes[0])

    return large._replace(copied=line(small.copied, large.copied), moved=line(small.moved, large.moved))
