"""Ratios of paired measurements and how sure they are."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

TOLERANCE: Final = 0.04
"""A ratio is conclusive if its whole interval is this close to its median."""


class Ratio(NamedTuple):
    """The median of paired ratios and its 90 % bootstrap interval."""

    median: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """The farther end of the interval, as a share of the median."""
        return max(self.high - self.median, self.median - self.low) / self.median

    @property
    def conclusive(self) -> bool:
        return self.width <= TOLERANCE


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """How many times as fast ours is, round by round: their seconds / our seconds."""
    return [their / our for our, their in zip(ours, theirs, strict=True)]


def interval(
    values: Sequence[float], *, confidence: float = 0.9, draws: int = 2000
) -> tuple[float, float]:
    """Bootstrap interval of the median (Efron, 1979), from a fixed seed so that it is reproducible."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    tail = (1 - confidence) / 2
    return medians[round(tail * (draws - 1))], medians[round((1 - tail) * (draws - 1))]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """How many times as fast ours is, from the seconds of both in the same rounds."""
    values = paired_ratios(ours, theirs)
    return Ratio(statistics.median(values), *interval(values))


def advice(found: Ratio, rounds: int) -> str | None:
    """What to do about a ratio that is not conclusive after ``rounds``; ``None`` if it is.

    An interval shrinks with the root of the number of rounds.
    """
    if found.conclusive:
        return None
    needed = math.ceil(rounds * (found.width / TOLERANCE) ** 2 / 10) * 10
    return f"inconclusive: run longer (--rounds {max(needed, rounds + 10)})"
