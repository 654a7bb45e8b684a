"""Candidates in separate processes: their turns, environment and failures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from shufflenet_fn.bench import workers as memory
from shufflenet_fn.bench.rounds import Ratio, interval, ratio, ratio_report, run_rounds
from shufflenet_fn.bench.workers import ALLOCATORS, LIVE, Memory, Worker, measure_memory, timed, workers
from shufflenet_fn_backends.runtimes.select import runtime_of
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

    def ask(self, question: object, case: str, steps: int, device: str) -> float:
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
        it.value("BENCH_A BENCH_B")
    assert log.lines() == ["['inside', 'too'] 1"]
    assert os.environ["BENCH_A"] == "before" and "BENCH_B" not in os.environ


def test_what_candidates_print_stays_off_standard_output(log: Log, capfd: pytest.CaptureFixture[str]) -> None:
    with started(["it"], builds.talking, log) as (it,):
        it.value("")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "noise of a build" in captured.err and "noise of an extension" in captured.err


def test_a_candidate_that_fails_is_named(log: Log) -> None:
    with started(["nobody"], builds.failing, log) as (nobody,):
        for case, kind, words in (
            ("usage", UsageError, r"^do this instead$"),
            # It is still there for another question.
            ("build", UserError, "nobody: KeyError: 'nobody'"),
            ("step", UserError, "nobody: ValueError: first line$"),
            ("die", UserError, "nobody: its process died"),
        ):
            with pytest.raises(kind, match=words):
                nobody.value(case)


def test_the_host_waits_once_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    runtime = replace(runtime_of("cpu"), synchronize=lambda: done.append("wait"))
    monkeypatch.setattr(memory, "runtime_of", lambda device: runtime)
    assert timed(lambda: done.append("step"), 3, "npu") > 0
    assert done == ["step"] * 3 + ["wait"]


# ---- ratios, their intervals, and whether they are conclusive ----


def test_interval_surrounds_the_median() -> None:
    low, high = interval([1.0, 1.1, 1.2, 1.3, 1.4] * 4)
    assert 1.0 <= low <= 1.2 <= high <= 1.4
    assert interval([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_ratio_is_the_median_of_paired_ratios() -> None:
    # The machine became slower by half on the way, for both alike.
    assert ratio([1.0, 1.0, 1.0, 2.0, 2.0], [1.5, 1.5, 1.5, 3.0, 3.0]) == (1.5, 1.5, 1.5)
    assert ratio([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]).median == 1.0


@pytest.mark.parametrize(
    ("low", "high", "rounds"),
    [
        (1.93, 2.07, None),
        (2.0, 2.0, None),
        (1.84, 2.02, 80),  # twice as wide as the allowed 4 %: four times the rounds
        (1.98, 2.15, 80),
        (1.918, 2.0, 30),  # more than there were, at least
    ],
)
def test_inconclusive_ratio_advises_enough_rounds(low: float, high: float, rounds: int | None) -> None:
    advice = None if rounds is None else f"inconclusive: run longer (--rounds {rounds})"
    expected = {"conclusive": rounds is None, "advice": advice}
    assert ratio_report(Ratio(2.0, low, high), 20) == expected


# ---- memory of a step: activations are measured without retained memory ----


MIB = 2**20


def found(case: str, environment: dict[str, str], tmp_path: Path) -> tuple[Memory, Memory]:
    """One measurement after the other, of two steps each."""
    log = Log(tmp_path / "log")
    with workers(["it"], builds.allocating, log, threads=1, environment=environment) as (it,):
        it.value(case)
        return it.ask(measure_memory, case, 2), it.ask(measure_memory, case, 2)


def test_a_temporary_counts_once_however_many_steps(tmp_path: Path) -> None:
    for measured in found("free", dict(LIVE), tmp_path):
        assert measured.activation is not None
        assert 60 * MIB < measured.activation < 72 * MIB
        assert measured.peak > measured.activation + 50 * MIB  # and torch itself


def test_retained_memory_does_not_count_as_activation(tmp_path: Path) -> None:
    first, second = found("keep", dict(LIVE), tmp_path)
    assert first.activation is not None and second.activation is not None
    assert 120 * MIB < first.activation < 136 * MIB
    assert 120 * MIB < second.activation < 136 * MIB
    assert 120 * MIB < second.peak - first.peak < 136 * MIB


def test_an_allocator_that_keeps_memory_hides_it(tmp_path: Path) -> None:
    """So the environment reaches the process, and the measurement needs its own."""
    _, measured = found("free", dict(ALLOCATORS["keep"]), tmp_path)
    assert measured.activation is not None
    assert measured.activation < 24 * MIB


def test_without_a_resettable_peak_activation_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reset_peak", lambda: False)
    calls: list[int] = []
    measured = measure_memory(lambda: calls.append(1), 3)
    assert measured.activation is None
    assert measured.peak > 50 * MIB
    assert len(calls) == 3
