"""Ratios of paired measurements and how sure they are."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence


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
