"""Contenders take turns, so that whatever disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

from shufflenet_fn.bench.workers import Worker

T = TypeVar("T")

_LONGEST_TURN = 100_000
"""Steps in a turn at most."""


def take_turns(
    contenders: Sequence[Worker],
    *,
    case: str = "",
    rounds: int,
    steps: int | None = None,
    turn_seconds: float = 0.0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[list[float]]:
    """One turn of each contender after the other, ``rounds`` times.

    The order turns around every round. The first turn builds and warms up and is not counted.

    Args:
        contenders: who takes turns.
        case: what they do, see ``workers.Build``.
        rounds: how many turns each takes.
        steps: steps in a turn; ``None`` for as many as take about ``turn_seconds``.
        turn_seconds: how long a turn lasts if ``steps`` is not given, one step at least.
        progress: told of every round.

    Returns:
        Seconds of a step, for each contender by round.

    Raises:
        UserError: a contender failed.
    """
    for worker in contenders:
        worker.turn(case, 1)
    lengths = [steps or _steps_for(worker, case, turn_seconds) for worker in contenders]

    def turn(index: int) -> float:
        return contenders[index].turn(case, lengths[index]) / lengths[index]

    def told(number: int, latest: Sequence[float]) -> None:
        words = (f"{w.name} {s:.4g} s" for w, s in zip(contenders, latest, strict=True))
        progress(f"round {number}/{rounds}: {', '.join(words)}")

    return in_turns(turn, len(contenders), rounds, told)


def in_turns(
    turn: Callable[[int], T],
    contenders: int,
    rounds: int,
    told: Callable[[int, Sequence[T]], None],
) -> list[list[T]]:
    """``turn(i)`` of each of so many contenders, ``rounds`` times, the order turned around every round.

    ``told`` gets a round's number, from 1, and what they brought in it. Returns that by contender and round.
    """
    found: list[list[T]] = [[] for _ in range(contenders)]
    for number in range(rounds):
        order = range(contenders)
        for index in order if number % 2 == 0 else reversed(order):
            found[index].append(turn(index))
        told(number + 1, [column[-1] for column in found])
    return found


def _steps_for(worker: Worker, case: str, turn_seconds: float) -> int:
    step = statistics.median(worker.turn(case, 1) for _ in range(3))
    return max(1, min(_LONGEST_TURN, round(turn_seconds / max(step, 1e-9))))
