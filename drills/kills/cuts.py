"""Cutting off one of two machines, in the middle of a run, and having it come back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from drills.kills.launch import Launch
from drills.kills.network import Machines
from drills.kills.points import Control
from drills.kills.run_dir import (
    Ending,
    differences,
    ending_of,
    is_done,
    left_in,
    trained_steps,
)

KINDS: Final = ("short", "long", "ends", "machine 0", "machine 1")
"""What happens: the cable is pulled for less than the hang time-out, for more with restarts allowed, for
more without any, so that both commands end and are given again; or a machine goes down, and its command is
given again while the other's waits."""

HANG_S: Final = 6.0
NOTICED_S: Final = HANG_S + 5.0
_PORT: Final = 29777
_ENDS_S: Final = 240.0
_POLL_S: Final = 0.02


class Trial(NamedTuple):
    """One cut to come, when the log tells of ``after`` updates, for ``cut_s`` seconds."""

    kind: str
    after: int
    cut_s: float


class Tried(NamedTuple):
    """What came of it. ``noticed_s``: until both commands had ended, where they were to."""

    trial: Trial
    seconds: float
    noticed_s: float | None
    wrong: list[str]


def draw(rng: random.Random, number: int, steps: int) -> Trial:
    """The ``number``-th trial: every kind comes in turn, in the first half of a run of ``steps`` updates."""
    kind = KINDS[number % len(KINDS)]
    if kind == "short":
        # A connection tries again after 0.2, 0.6, 1.4 and 3 s, so it is there again before anybody is missed.
        length = rng.uniform(0.5, 2.5)
    elif kind.startswith("machine"):
        length = rng.uniform(0.5, 3.0)
    else:
        length = HANG_S + rng.uniform(1.0, 5.0)
    return Trial(kind, rng.randint(1, steps // 2), length)


class CutDrill:
    """Trials on ``machines``; their files are in ``place``.

    Args:
        machines: two, joined by a cable.
        recipe: options of ``train`` besides those that the drill gives.
        place: a folder that is there.
    """

    def __init__(self, machines: Machines, recipe: Sequence[str], place: Path) -> None:
        self._machines, self._recipe, self._place = machines, recipe, place
        for number in (0, 1):
            (place / f"machine-{number}").mkdir()

    def uninterrupted(self) -> Ending:
        """What every run must come to.

        Raises:
            RuntimeError: this one came to no good end itself.
        """
        with ExitStack() as held:
            pair = self._pair(held, "uninterrupted", restarts=0)
            wrong = self._end_well(pair, "uninterrupted")
        if wrong:
            raise RuntimeError("; ".join(wrong))
        return ending_of(self._place / "uninterrupted")

    def run(self, trial: Trial, name: str, reference: Ending) -> Tried:
        """One trial, in a run directory of its own."""
        begun, noticed = time.monotonic(), None
        with ExitStack() as held:
            held.callback(self._machines.plug)
            pair = self._pair(held, name, restarts=0 if trial.kind == "ends" else 2)
            wrong = self._wait_for_training(pair, name, trial.after)
            if trial.kind.startswith("machine"):
                pair, found = self._machine_goes_down(held, pair, name, trial)
                wrong += found
            else:
                self._machines.pull()
                cut = time.monotonic()
                if trial.kind == "ends":
                    wrong += self._both_end(pair)
                    noticed = time.monotonic() - cut
                    time.sleep(max(0.0, cut + trial.cut_s - time.monotonic()))
                    self._machines.plug()
                    pair = self._pair(held, name, restarts=0)
                else:
                    time.sleep(trial.cut_s)
                    self._machines.plug()
            wrong += self._end_well(pair, name)
            outputs = "\n".join(launch.output() for launch in pair)
        restarts = [line for line in outputs.splitlines() if "Restart 1 of 2" in line]
        if trial.kind == "short" and restarts:
            wrong.append(f"a short cut was not ridden out: {restarts[0]}")
        elif trial.kind in ("long", "machine 0", "machine 1") and not restarts:
            wrong.append("nobody started again")
        if not wrong:
            wrong += differences(ending_of(self._place / name), reference)
            wrong += [f"{file} is left" for file in left_in(self._place / name)]
        return Tried(trial, time.monotonic() - begun, noticed, wrong)

    def _pair(self, held: ExitStack, name: str, *, restarts: int) -> list[Launch]:
        return [self._launch(held, number, name, restarts=restarts) for number in (0, 1)]

    def _launch(self, held: ExitStack, number: int, name: str, *, restarts: int) -> Launch:
        place = self._place / f"machine-{number}"
        meeting = f"{self._machines.address(0)}:{_PORT}"
        command = [
            *("-m", "shufflenet_fn_cli.main", "train", *self._recipe),
            *("--run-dir", name, "--resume", "auto", "--max-restarts", str(restarts)),
            *("--hang-timeout", f"{HANG_S:g}", "--join-timeout", "90"),
            *("--nnodes", "2", "--node-rank", str(number), "--rdzv-endpoint", meeting),
        ]
        return held.enter_context(
            Launch(
                command,
                place,
                Control(place),
                cache=self._place / "cache",
                under=self._machines.on(number),
                folder=self._place,
            )
        )

    def _wait_for_training(self, pair: Sequence[Launch], name: str, steps: int) -> list[str]:
        run = self._place / name
        return self._until(
            lambda: trained_steps(run) >= steps or any(launch.has_ended() for launch in pair),
            pair,
            f"come to {steps} updates",
        )

    def _machine_goes_down(
        self, held: ExitStack, pair: Sequence[Launch], name: str, trial: Trial
    ) -> tuple[list[Launch], list[str]]:
        number = int(trial.kind[-1])
        pair[number].kill("all", None)
        wrong = pair[number].end()
        time.sleep(trial.cut_s)
        again = self._launch(held, number, name, restarts=2)
        return [again if n == number else launch for n, launch in enumerate(pair)], wrong

    def _both_end(self, pair: Sequence[Launch]) -> list[str]:
        """Both commands must notice the cut in time, and name the other machine."""
        begun = time.monotonic()
        while not all(launch.has_ended() for launch in pair):
            if time.monotonic() - begun > NOTICED_S:
                return [f"a command goes on {NOTICED_S:g} s after the cut"]
            time.sleep(_POLL_S)
        wrong = [text for launch in pair for text in launch.end()]
        for number, launch in enumerate(pair):
            if (
                launch.process.poll() != 1
                or f"error: machine {1 - number} (" not in launch.output()
            ):
                wrong.append(f"machine {number} ended with: {launch.output()[-500:]}")
        return wrong

    def _end_well(self, pair: Sequence[Launch], name: str) -> list[str]:
        wrong = self._until(lambda: all(launch.has_ended() for launch in pair), pair, "ended")
        for number, launch in enumerate(pair):
            if launch.process.poll() != 0:
                wrong.append(f"machine {number} ended with: {launch.output()[-1000:]}")
            wrong += launch.end()
        if not wrong and not is_done(self._place / name):
            wrong.append("there are no results")
        return wrong

    def _until(self, so: Callable[[], bool], pair: Sequence[Launch], word: str) -> list[str]:
        begun = time.monotonic()
        while not so():
            if time.monotonic() - begun > _ENDS_S:
                said = "; ".join(launch.output()[-500:] for launch in pair)
                return [f"it has not {word} within {_ENDS_S:g} s: {said}"]
            time.sleep(_POLL_S)
        return []
