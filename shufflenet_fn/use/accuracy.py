"""Accuracies with 95 % intervals, and the drop between two models that predict the same images."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

_Z: Final = 1.96

Correct = npt.NDArray[np.bool_]
"""For each image, whether the prediction is right."""


def wilson(hits: int, count: int) -> tuple[float, float, float]:
    """Return a share in percent with its 95 % interval (Wilson, 1927)."""
    share, z2 = hits / count, _Z * _Z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return 100 * share, max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


class Drop(NamedTuple):
    """How many points of accuracy are lost, with the 95 % interval, on ``images`` images."""

    points: float
    low: float
    high: float
    images: int

    def __str__(self) -> str:
        return (
            f"the drop of Acc@1 is {self.points:.2f} points on {self.images:,} images "
            f"(95 % interval {self.low:.2f} to {self.high:.2f})"
        )

    def refusal(self, most: float) -> str:
        """Return why a drop of at most ``most`` points is not certain, and what helps; empty if it is."""
        if self.high <= most:
            return ""
        if self.points >= most:
            return f"{self}, but at most {most:g} is allowed"
        enough = self.images * ((self.high - self.points) / (most - self.points)) ** 2
        return (
            f"{self}, so it may be up to {self.high:.2f}, but at most {most:g} is allowed. If it stays the "
            f"same, about {math.ceil(enough / 100) * 100:,} images make the interval narrow enough"
        )


def paired_drop(correct: Correct, wanted: Correct) -> Drop:
    """Return the drop from ``wanted`` to ``correct``. Its interval is that of Bonett and Price, 2012."""
    count, lost, won = len(wanted), int((wanted & ~correct).sum()), int((correct & ~wanted).sum())
    less, more = (lost + 1) / (count + 2), (won + 1) / (count + 2)
    half = _Z * math.sqrt((less + more - (less - more) ** 2) / (count + 2))
    low, high = less - more - half, less - more + half
    return Drop(100 * (lost - won) / count, 100 * low, 100 * high, count)
