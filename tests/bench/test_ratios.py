"""Ratios, their intervals, and whether they are conclusive."""

from __future__ import annotations

import pytest

from shufflenet_fn.bench.rounds import Ratio, advice, interval, paired_ratios, ratio


def test_ratios_and_interval() -> None:
    ratios = paired_ratios([1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
    assert ratios == [2.0, 1.0, 0.5]
    low, high = interval([1.0, 1.1, 1.2, 1.3, 1.4] * 4)
    assert 1.0 <= low <= 1.2 <= high <= 1.4
    assert interval([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_ratio_is_the_median_of_paired_ratios() -> None:
    # The machine became slower by half on the way, for both alike.
    found = ratio([1.0, 1.0, 1.0, 2.0, 2.0], [1.5, 1.5, 1.5, 3.0, 3.0])
    assert found == (1.5, 1.5, 1.5)
    assert found.conclusive


@pytest.mark.parametrize(
    ("low", "high", "conclusive"),
    [(1.93, 2.07, True), (1.91, 2.07, False), (1.93, 2.09, False), (2.0, 2.0, True)],
)
def test_conclusive_is_within_four_percent(low: float, high: float, conclusive: bool) -> None:
    assert Ratio(2.0, low, high).conclusive is conclusive


def test_advice_names_enough_rounds() -> None:
    assert advice(Ratio(1.0, 0.97, 1.03), 20) is None
    # Twice as wide as allowed: four times the rounds.
    assert advice(Ratio(1.0, 0.92, 1.01), 20) == "inconclusive: run longer (--rounds 80)"
    # Never fewer than there were.
    assert advice(Ratio(1.0, 0.959, 1.0), 20) == "inconclusive: run longer (--rounds 30)"
