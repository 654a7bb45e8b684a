"""Learning-rate schedules: the original's values, both ends, and transitions."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from shufflenet_fn.training.schedules import Schedule, constant, cosine, epoch_cosine, linear

STEPS = 7
ORIGINAL = epoch_cosine(4.0, steps_per_epoch=STEPS, epochs=240, warmup_epochs=5)
ALL = {
    "constant": constant(0.5),
    "epoch_cosine": ORIGINAL,
    "cosine": cosine(0.5, total_steps=100, warmup_steps=10, final=0.01),
    "linear": linear(0.5, total_steps=100, warmup_steps=10, final=0.01),
}


def rate(schedule: Schedule, step: int) -> float:
    return schedule(torch.tensor(step)).item()


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.6667), (1, 1.3333), (4, 3.3333), (5, 4.0), (120, 2.067), (239, 0.00018)]
)
def test_the_originals_values_on_eight_devices(epoch: int, expected: float) -> None:
    digits = len(str(expected).partition(".")[2])
    assert round(rate(ORIGINAL, epoch * STEPS), digits) == expected


def test_the_originals_formula() -> None:
    """Transcribed from the recipe's ``adjust_learning_rate`` in float64."""
    for epoch in range(240):
        if epoch < 5:
            expected = 4.0 * (epoch + 1) / (5 + 1)
        else:
            expected = 0.5 * 4.0 * (1 + math.cos(math.pi * (epoch - 5) / (240 - 5)))
        # float32: 1 + cos loses digits where it nears zero, at the very end.
        assert math.isclose(rate(ORIGINAL, epoch * STEPS), expected, rel_tol=1e-5, abs_tol=1e-6)


def test_the_original_is_constant_within_an_epoch() -> None:
    rates = [rate(ORIGINAL, step) for step in range(12 * STEPS)]
    for epoch in range(12):
        assert len(set(rates[epoch * STEPS : (epoch + 1) * STEPS])) == 1
    assert len(set(rates)) == 12
    assert all(rate(ORIGINAL, epoch * STEPS) > 0 for epoch in range(240))


def test_epoch_cosine_without_warmup_starts_at_base() -> None:
    schedule = epoch_cosine(0.5, steps_per_epoch=3, epochs=10, warmup_epochs=0)
    assert rate(schedule, 0) == 0.5
    assert rate(schedule, 3) < 0.5


@pytest.mark.parametrize("make", [cosine, linear])
@pytest.mark.parametrize("warmup", [0, 1, 10])
@pytest.mark.parametrize("final", [0.0, 0.125])
def test_ends_and_joint(make: type, warmup: int, final: float) -> None:
    schedule: Schedule = make(0.5, total_steps=100, warmup_steps=warmup, final=final)
    assert rate(schedule, warmup) == 0.5
    assert math.isclose(rate(schedule, 100), final, abs_tol=1e-7)
    assert rate(schedule, 10_000) == rate(schedule, 100)
    assert math.isclose(rate(schedule, (100 + warmup) // 2), (0.5 + final) / 2, rel_tol=0.03)
    rates = [rate(schedule, step) for step in range(101)]
    for step in range(warmup):
        assert math.isclose(rates[step], 0.5 * (step + 1) / (warmup + 1), rel_tol=1e-6)
    # It rises, then falls, and never by more than a step of the ramp or of the steepest decay.
    assert all(a < b for a, b in pairwise(rates[: warmup + 1]))
    assert all(a > b for a, b in pairwise(rates[warmup:]))
    falls = [a - b for a, b in pairwise(rates[warmup:])]
    assert max(falls) <= (0.5 - final) * math.pi / 2 / (100 - warmup) * 1.001


def test_cosine_is_a_cosine() -> None:
    schedule = cosine(0.5, total_steps=110, warmup_steps=10, final=0.1)
    for step in (10, 35, 60, 85, 110):
        expected = 0.1 + 0.2 * (1 + math.cos(math.pi * (step - 10) / 100))
        assert math.isclose(rate(schedule, step), expected, rel_tol=1e-5)


def test_linear_is_megviis() -> None:
    schedule = linear(0.5, total_steps=300_000)
    for step in (0, 1, 1_000, 150_000, 299_999):
        expected = 0.5 * (1 - step / 300_000)
        assert math.isclose(rate(schedule, step), expected, rel_tol=1e-6, abs_tol=1e-7 * 0.5)
    assert rate(schedule, 300_000) == 0.0


def test_constant() -> None:
    assert {rate(constant(0.25), step) for step in (0, 1, 10**9)} == {0.25}


@pytest.mark.parametrize("name", ALL)
def test_one_graph_serves_all_steps(name: str) -> None:
    """No value of the step may be read by the host: compiled once, then run for others."""
    torch.compiler.reset()
    compiled = torch.compile(ALL[name], fullgraph=True, backend="eager", dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in (0, 5, 50, 1000):
            assert compiled(torch.tensor(step)).item() == rate(ALL[name], step)


def test_schedules_accept_zero_steps() -> None:
    for schedule in (
        epoch_cosine(0.5, steps_per_epoch=3, epochs=2, warmup_epochs=2),
        cosine(0.5, total_steps=5, warmup_steps=5),
        linear(0.5, total_steps=0),
    ):
        assert all(math.isfinite(rate(schedule, step)) for step in range(8))
