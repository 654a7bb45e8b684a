"""Candidates in separate processes: their turns, environment and failures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from shufflenet_fn.bench.rounds import run_rounds
from shufflenet_fn.bench.workers import Worker, workers
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
