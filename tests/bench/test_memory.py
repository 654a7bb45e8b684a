"""Memory of a step: activations are measured without retained memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shufflenet_fn.bench import workers as memory
from shufflenet_fn.bench.workers import ALLOCATORS, LIVE, Memory, measure_memory, workers
from tests.bench import builds
from tests.bench.builds import Log

MIB = 2**20


def found(case: str, environment: dict[str, str], tmp_path: Path) -> tuple[Memory, Memory]:
    """One measurement after the other, of two steps each."""
    log = Log(tmp_path / "log")
    with workers(["it"], builds.allocating, log, threads=1, environment=environment) as (it,):
        it.turn(case, 1)
        return it.memory(case, 2), it.memory(case, 2)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_a_temporary_counts_once_however_many_steps(tmp_path: Path) -> None:
    for measured in found("free", dict(LIVE), tmp_path):
        assert measured.activation is not None
        assert 60 * MIB < measured.activation < 72 * MIB
        assert measured.peak > measured.activation + 50 * MIB  # and torch itself


@linux
def test_retained_memory_does_not_count_as_activation(tmp_path: Path) -> None:
    first, second = found("keep", dict(LIVE), tmp_path)
    assert first.activation is not None and second.activation is not None
    assert 120 * MIB < first.activation < 136 * MIB
    assert 120 * MIB < second.activation < 136 * MIB
    assert 120 * MIB < second.peak - first.peak < 136 * MIB


@linux
def test_an_allocator_that_keeps_memory_hides_it(tmp_path: Path) -> None:
    """So the environment reaches the process, and the measurement needs its own."""
    _, measured = found("free", dict(ALLOCATORS["keep"]), tmp_path)
    assert measured.activation is not None
    assert measured.activation < 24 * MIB


def test_without_a_resettable_peak_activation_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reset_peak", lambda: False)
    calls: list[int] = []
    measured = measure_memory(lambda: calls.append(1), steps=3)
    assert measured.activation is None
    assert measured.peak > 50 * MIB
    assert len(calls) == 3
