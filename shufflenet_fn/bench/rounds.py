"""Interleaved measurements: candidates take turns, so that a disturbance of the machine affects all alike."""

from __future__ import annotations

import math
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import torch

from shufflenet_fn.bench.workers import Worker, timed
from shufflenet_fn.run.directory import environment

T = TypeVar("T")
Progress = Callable[[str], None]
"""Takes a line of text about the progress of a measurement."""


def silent(text: str) -> None:
    """``Progress`` for nobody."""


def reported(settings: Any, *names: str) -> dict[str, Any]:
    """Return these settings, torch's version and the environment, for the result of a benchmark."""
    given = {name: getattr(settings, name) for name in names}
    return {**given, "torch": torch.__version__, "environment": environment()}


def run_rounds(
    candidates: Sequence[Worker],
    *,
    case: str = "",
    device: str = "cpu",
    rounds: int,
    steps: int | None = None,
    turn_seconds: float = 0.0,
    progress: Progress = silent,
) -> dict[str, list[float]]:
    """Measure all candidates in ``rounds`` rounds (``in_rounds``).

    The first turn of each candidate builds and warms it up, and does not count.

    Args:
        candidates: the candidates.
        case: what they compute, see ``workers.Build``.
        device: kind of device that the host waits for at the end of a turn.
        rounds: number of rounds.
        steps: number of steps in a turn; ``None`` for as many as take about ``turn_seconds``.
        turn_seconds: length of a turn if ``steps`` is not given; a turn has at least one step.
        progress: called with a line of text after every round.

    Returns:
        Seconds of a step, by candidate, then by round.

    Raises:
        UserError: a candidate failed.
    """
    by_name = {worker.name: worker for worker in candidates}

    def turn(name: str, length: int) -> float:
        return by_name[name].ask(timed, case, length, device) / length

    def length_of_turn(name: str) -> int:
        if steps is not None:
            return steps
        return max(1, round(turn_seconds / statistics.median(turn(name, 1) for _ in range(3))))

    for name in by_name:
        turn(name, 1)
    lengths = {name: length_of_turn(name) for name in by_name}
    return in_rounds(
        list(by_name),
        lambda name: turn(name, lengths[name]),
        rounds,
        lambda seconds: f"{seconds:.4g} s",
        progress,
    )


def in_rounds(
    names: Sequence[str], turn: Callable[[str], T], rounds: int, show: Callable[[T], str], progress: Progress
) -> dict[str, list[T]]:
    """Call ``turn(name)`` for each candidate in each round, in reverse order in every second round.

    ``show`` formats a result for ``progress``, which is called after every round. Returns the results by
    candidate, then by round.
    """
    found: dict[str, list[T]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(turn(name))
        latest = (f"{name} {show(column[-1])}" for name, column in found.items())
        progress(f"round {number + 1}/{rounds}: {', '.join(latest)}")
    return found


_DRAWS: Final = 2000
TOLERANCE: Final = 0.04
"""A ratio is conclusive if its interval is within this share of its median."""


class Ratio(NamedTuple):
    """The median of paired ratios and its 90 % bootstrap interval."""

    median: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Distance from the median to the farther end of the interval, as a share of the median."""
        return max(self.high - self.median, self.median - self.low) / self.median


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 90 % bootstrap interval of the median (Efron, 1979), with a fixed seed."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(_DRAWS))
    return medians[round(0.05 * (_DRAWS - 1))], medians[round(0.95 * (_DRAWS - 1))]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Return our speed relative to theirs, from the seconds of both in the same rounds."""
    values = [their / our for our, their in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(values), *interval(values))


def ratio_fields(found: Ratio | None) -> dict[str, Any]:
    """Return a ratio and its interval as benchmarks report them."""
    if found is None:
        return {"ratio": None, "ratio_interval": None}
    return {"ratio": found.median, "ratio_interval": (found.low, found.high)}


def ratio_report(found: Ratio, rounds: int) -> dict[str, Any]:
    """Return whether a ratio is conclusive after ``rounds``, and the advice if it is not."""
    if found.width <= TOLERANCE:
        return {"conclusive": True, "advice": None}
    # The width of an interval is inversely proportional to the square root of the number of rounds.
    needed = math.ceil(rounds * (found.width / TOLERANCE) ** 2 / 10) * 10
    advice = f"inconclusive: run longer (--rounds {max(needed, rounds + 10)})"
    return {"conclusive": False, "advice": advice}


def against_peers(
    ours: Sequence[float], theirs: Mapping[str, Sequence[float]], rounds: int
) -> dict[str, Any]:
    """Return the ratios to all peers and to the fastest, as ``bench step`` and ``bench infer`` report them.

    ``ours`` and ``theirs`` are seconds in the same rounds.
    """
    ratios = {name: ratio(ours, column) for name, column in theirs.items()}
    best = min(theirs, key=lambda name: statistics.median(theirs[name]))
    return {
        "ratios": {name: found.median for name, found in ratios.items()},
        "ratio_intervals": {name: (found.low, found.high) for name, found in ratios.items()},
        "best_peer": best,
        "ratio_best_peer": ratios[best].median,
        **ratio_report(ratios[best], rounds),
    }


def cpu_seconds() -> float:
    """Return user and system seconds of this process and all its descendants.

    ``resource.getrusage`` counts a child only after it ends, but a data loader's workers do not end. So
    running children are read from /proc, in hundredths of a second.
    """
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The fields from the third on, after the name, which may contain spaces (proc(5)).
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended, so its parent counts it now
            continue
        process = int(path.parent.name)
        parents[process] = int(fields[1])
        # utime, stime and those of ended children, cutime and cstime. Python has our own more precisely.
        ticks[process] = sum(map(int, fields[13 if process == os.getpid() else 11 : 15]))
    family = {os.getpid()}
    while joining := {one for one in parents if parents[one] in family} - family:
        family |= joining
    return time.process_time() + sum(ticks.get(one, 0) for one in family) / os.sysconf("SC_CLK_TCK")
