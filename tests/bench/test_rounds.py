"""Candidates in separate processes: their turns, environment and failures."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from shufflenet_fn.bench import workers as memory
from shufflenet_fn.bench.rounds import Ratio, advice, interval, paired_ratios, ratio, run_rounds
from shufflenet_fn.bench.workers import ALLOCATORS, LIVE, Memory, Worker, measure_memory, workers
from shufflenet_fn_backends.support.errors import UsageError, UserError
from tests.bench import builds
from tests.bench.builds import Log


def started(names: list[str], build: Any, log: Log, environment: Mapping[str, str] = {}) -> Any:
    return workers(names, build, log, threads=1, environment=environment)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


def test_the_order_turns_around_every_round(log: Log) -> None:
    told: list[str] = []
    with started(["a", "b"], builds.logging, log) as candidates:
        seconds = run_rounds(candidates, case="1", rounds=3, steps=2, progress=told.append)
    rounds = ["a1 b1", "a1 a1 b1 b1", "b1 b1 a1 a1", "a1 a1 b1 b1"]
    assert log.lines() == " ".join(rounds).split()
    assert {name: len(column) for name, column in seconds.items()} == {"a": 3, "b": 3}
    assert all(value > 0 for column in seconds.values() for value in column)
    assert len(told) == 3 and told[0].startswith("round 1/3: a ")


class _Steady:
    """A candidate whose step takes 10 ms by its own clock."""

    name = "steady"

    def __init__(self) -> None:
        self.turns: list[int] = []

    def turn(self, case: str, steps: int) -> float:
        self.turns.append(steps)
        return 0.01 * steps


@pytest.mark.parametrize(("turn_seconds", "steps"), [(0.1, 10), (0.024, 2), (1e-9, 1)])
def test_a_turn_lasts_as_long_as_asked(turn_seconds: float, steps: int) -> None:
    steady = _Steady()
    seconds = run_rounds([cast(Worker, steady)], rounds=4, turn_seconds=turn_seconds)
    assert seconds["steady"] == pytest.approx([0.01] * 4)  # of one step, not of a turn
    assert steady.turns[-4:] == [steps] * 4


def test_candidates_get_environment_and_threads(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_A", "before")
    monkeypatch.delenv("BENCH_B", raising=False)
    environment = {"BENCH_A": "inside", "BENCH_B": "too"}
    with started(["it"], builds.telling_environment, log, environment) as (it,):
        it.turn("BENCH_A BENCH_B", 1)
    assert log.lines() == ["['inside', 'too'] 1"]
    assert os.environ["BENCH_A"] == "before" and "BENCH_B" not in os.environ


def test_what_candidates_print_stays_off_standard_output(log: Log, capfd: pytest.CaptureFixture[str]) -> None:
    with started(["it"], builds.talking, log) as (it,):
        it.turn("", 1)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "noise of a build" in captured.err and "noise of an extension" in captured.err


@pytest.mark.parametrize("question", ["turn", "memory"])
def test_a_candidate_that_fails_is_named(question: str, log: Log) -> None:
    with started(["nobody"], builds.failing, log) as (nobody,):
        for case, kind, words in (
            ("usage", UsageError, r"^do this instead$"),
            # It is still there for another question.
            ("build", UserError, "nobody: KeyError: 'nobody'"),
            ("step", UserError, "nobody: ValueError: first line$"),
            ("die", UserError, "nobody: its process died"),
        ):
            with pytest.raises(kind, match=words):
                getattr(nobody, question)(case, 1)


def test_the_host_waits_once_in_a_turn(log: Log) -> None:
    with workers(["any"], builds.logging, log, threads=1, environment={}, finish=builds.note_end) as (
        worker,
    ):
        worker.turn("", 3)
    assert log.lines() == ["any", "any", "any", "finish"]


# ---- ratios, their intervals, and whether they are conclusive ----


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


# ---- memory of a step: activations are measured without retained memory ----


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
