"""Checks whether the resources of a process stay constant over many steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from drills.kills.processes import Use

WARM_UP = 0.2
"""The share of the steps that does not count, because caches still fill up."""

MEMORY = 0.01
"""Memory is flat if the fitted line rises by no more than this share of the median."""

COUNT = 0.5
"""A count (threads, files) is flat if the fitted line rises by less than half a one."""


class Growth(NamedTuple):
    """Growth of one quantity of one process over the steps after the warm-up.

    ``growth``: rise of the least-squares line from the first step to the last.
    """

    quantity: str
    median: float
    growth: float
    per_1000_steps: float
    bound: float

    @property
    def flat(self) -> bool:
        return self.growth <= self.bound


def growths(samples: Sequence[tuple[int, Use]]) -> list[Growth]:
    """Return the growth of every quantity of ``Use``. ``samples``: (step, use) of one process, by step.

    Raises:
        ValueError: fewer than ten samples are left after the warm-up.
    """
    first = samples[0][0] + WARM_UP * (samples[-1][0] - samples[0][0]) if samples else 0
    kept = [(step, use) for step, use in samples if step >= first]
    if len(kept) < 10 or kept[0][0] == kept[-1][0]:
        raise ValueError(f"{len(kept)} samples after the warm-up are too few")
    steps = [step for step, _ in kept]
    found = []
    for number, quantity in enumerate(Use._fields):
        values = [use[number] for _, use in kept]
        slope = statistics.linear_regression(steps, values).slope
        median = statistics.median(values)
        bound = MEMORY * median if quantity in ("resident", "anonymous") else COUNT
        growth = slope * (steps[-1] - steps[0])
        found.append(Growth(quantity, median, growth, 1000 * slope, bound))
    return found
