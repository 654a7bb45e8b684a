"""What a training step asks of an NPU, as numbers; without torch, which a reader of them does not need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class StepCounts(NamedTuple):
    """One training step.

    ``operators``: calls by name. ``copied``: bytes that copying operators write. ``kernels``: modelled, from
    ``low`` to ``high``; ``kinds``: the same by kind; ``moved``: bytes that they read and write.
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


def at_batch_size(
    small: StepCounts, large: StepCounts, sizes: tuple[int, int], wanted: int
) -> StepCounts:
    """Return the counts of a step of ``wanted`` images from those of two batches of ``sizes``.

    Calls and kernels do not depend on the batch; bytes are a part for each image and a part for all.

    Raises:
        ValueError: the two steps differ in their calls or kernels, so that this does not hold.
    """
    if (small.operators, small.kinds) != (large.operators, large.kinds):
        raise ValueError(f"steps of {sizes[0]} and of {sizes[1]} images launch other kernels")

    def line(first: int, second: int) -> int:
        slope, rest = divmod(second - first, sizes[1] - sizes[0])
        if rest:
            raise ValueError(f"bytes of {sizes[0]} and {sizes[1]} images are not on a line")
        return first + slope * (wanted - sizes[0])

    return large._replace(
        copied=line(small.copied, large.copied), moved=line(small.moved, large.moved)
    )
