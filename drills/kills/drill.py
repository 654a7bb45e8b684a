"""Kills runs of one setting repeatedly, until a number of kills is reached."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from drills.kills.launch import END_S, Launch
from drills.kills.plan import Plan, Setting, draw
from drills.kills.points import Control
from drills.kills.run_dir import (
    Ending,
    differences,
    ending_of,
    is_done,
    left_in,
    newest_step,
    reported_step,
    starts,
)

_POLL_S = 0.003
_SPAN_S = 1.5
_LAUNCH_S = 300.0


class Kill(NamedTuple):
    """A row of the table. ``wrong`` is empty if the kill did no harm."""

    run: int
    victim: str
    where: str
    good_step: int
    resumed_from: int | None
    wrong: list[str]


class Drilled(NamedTuple):
    """The result for one setting. ``runs``: number of runs that were started."""

    title: str
    kills: list[Kill]
    runs: int
    seconds: float
    wrong: list[str]


class Drill:
    """Kills runs of one ``setting``.

    Args:
        setting: the kind of run.
        entry: the program: the command line with its disk watched (``points.arm``).
        recipe: options of ``train`` besides those that the drill gives.
        place: a folder to create; caches are in its parent.
        rng: decides what is killed and when.
        report: called with a line after every kill.
    """

    def __init__(
        self,
        setting: Setting,
        entry: Path,
        recipe: Sequence[str],
        place: Path,
        rng: random.Random,
        report: Callable[[str], None],
    ) -> None:
        (place / "control").mkdir(parents=True)
        self._setting, self._place, self._rng, self._report = setting, place, rng, report
        self._control = Control(place / "control")
        self._command = [
            *(str(entry), "train", *recipe),
            *("--devices", str(setting.ranks), "--precision", setting.precision),
        ]
        self._startup_s = 5.0
        self._kills: list[Kill] = []
        self._wrong: list[str] = []

    def run(self, kills: int, reference: Ending | None) -> Drilled:
        """Kill runs until at least ``kills`` kills have happened and the last run has ended.

        ``reference``: the expected end of each run; ``None`` if the uninterrupted run failed.
        """
        begun, number = time.monotonic(), 0
        while reference is not None and len(self._kills) < kills and not self._wrong:
            number += 1
            self._one_run(number, kills, reference)
        return Drilled(
            self._setting.title,
            self._kills,
            number,
            time.monotonic() - begun,
            self._wrong + [text for kill in self._kills for text in kill.wrong],
        )

    def uninterrupted(self) -> Ending | None:
        """Return the end of an uninterrupted run; ``None`` if it fails, which ``run`` reports."""
        run = self._place / "uninterrupted"
        begun = time.monotonic()
        with self._launch(run) as launch:
            while not launch.has_ended() and not starts(run):
                time.sleep(_POLL_S)
            self._startup_s = time.monotonic() - begun
            self._finish(launch, run)
        return None if self._wrong else ending_of(run)

    def _one_run(self, number: int, kills: int, reference: Ending) -> None:
        run, launches = self._place / f"run-{number}", 0
        while not is_done(run) and not self._wrong:
            launches += 1
            more = len(self._kills) < kills
            plan = self._draw() if more else None
            self._control.set(plan.point if plan else None)
            # Resume with the original command, as a scheduler does, or with the short one.
            short = newest_step(run) > 0 and self._rng.random() < 0.5
            with self._launch(run, short=short) as launch:
                if plan is None:
                    self._finish(launch, run)
                else:
                    self._live(launch, run, number, plan, kills)
        if not self._wrong:
            found = differences(ending_of(run), reference)
            found += [f"{name} is left in the run directory" for name in left_in(run)]
            self._wrong += [f"run {number}: {text}" for text in found]
            self._report(
                f"{self._setting.title}: run {number} is done after {launches} launches: "
                + ("; ".join(found) or "byte-identical")
            )

    def _live(self, launch: Launch, run: Path, number: int, plan: Plan, kills: int) -> bool:
        """Wait for the planned kill, and for further kills if the launcher restarts its ranks.

        Returns whether a kill ended the launch.
        """
        while True:
            known = len(starts(run))
            stopped, ok = self._wait(launch, run, plan, known)
            if not ok:
                self._finish(launch, run)
                return False
            good = newest_step(run)
            following = self._draw() if len(self._kills) + 1 < kills else None
            ranks = launch.ranks()
            # Ranks that replace the killed ones are armed with the next point.
            self._control.set(following.point if following else None)
            where = _where(plan)
            victim = launch.kill(plan.victim, stopped)
            restarts = self._setting.launched and victim.startswith("rank")
            if restarts and self._restarted(launch, ranks):
                self._note(number, victim, where, run, good, known, [])
                if following is None:
                    self._finish(launch, run)
                    return False
                plan = following
                continue
            self._note(number, victim, where, run, good, known, launch.end())
            return True

    def _wait(self, launch: Launch, run: Path, plan: Plan, known: int) -> tuple[int | None, bool]:
        """Wait until the planned moment. Return the process stopped there, and whether the moment came."""
        begun = time.monotonic()
        since: float | None = None if plan.training else begun
        while time.monotonic() - begun < _LAUNCH_S:
            if launch.has_ended():
                return None, False
            if plan.point is not None:
                if (stopped := self._control.reached()) is not None:
                    return stopped, True
            elif since is None:
                since = time.monotonic() if len(starts(run)) > known else None
            elif time.monotonic() - since >= plan.delay_s:
                return None, True
            time.sleep(_POLL_S)
        self._wrong.append(f"a launch goes on for {_LAUNCH_S:g} s: {launch.output()[-2000:]}")
        return None, False

    def _restarted(self, launch: Launch, before: Sequence[int]) -> bool:
        """Return whether the launcher has restarted its ranks. Otherwise it must have ended."""
        begun = time.monotonic()
        while time.monotonic() - begun < END_S:
            if launch.has_ended():
                return False
            now = launch.ranks()
            if len(now) == self._setting.ranks and not set(now) & set(before):
                return True
            time.sleep(_POLL_S)
        return False

    def _note(
        self, number: int, victim: str, where: str, run: Path, good: int, known: int, wrong: list[str]
    ) -> None:
        # Check the step that this launch resumed from against the checkpoints that earlier kills left.
        begun = starts(run)[known:]
        after = newest_step(run)
        least = max([good, reported_step(run), *(k.good_step for k in self._of(number))])
        if after < least:
            wrong = [*wrong, f"the newest good checkpoint is of step {after}; {least} was saved"]
        expected = max((k.good_step for k in self._of(number)), default=0)
        if begun and begun[0] != expected:
            wrong = [*wrong, f"it had gone on from step {begun[0]} instead of {expected}"]
        kill = Kill(number, victim, where, after, begun[0] if begun else None, wrong)
        self._kills.append(kill)
        self._wrong += wrong
        self._report(
            f"{self._setting.title}: kill {len(self._kills)}: {victim}, {where}, step {after} is good"
            + "".join(f"; {text}" for text in wrong)
        )

    def _of(self, number: int) -> list[Kill]:
        return [kill for kill in self._kills if kill.run == number]

    def _finish(self, launch: Launch, run: Path) -> None:
        """Wait for the end of a launch without a kill."""
        begun = time.monotonic()
        while not launch.has_ended() and time.monotonic() - begun < _LAUNCH_S:
            time.sleep(_POLL_S)
        code = launch.process.poll()
        self._wrong += launch.end()
        if code != 0 or not is_done(run):
            self._wrong.append(f"it ended with {code}: {launch.output()[-2000:]}")

    def _draw(self) -> Plan:
        operations = self._control.operations()
        return draw(self._rng, self._setting, operations, startup_s=self._startup_s, span_s=_SPAN_S)

    def _launch(self, run: Path, *, short: bool = False) -> Launch:
        if short:
            command = [self._command[0], "train", "--resume", str(run)]
        else:
            command = [*self._command, "--run-dir", str(run), "--resume", "auto"]
        if self._setting.launched:
            restarts = str(self._rng.choice((0, 2)) if self._setting.ranks > 1 else 2)
            command += ["--max-restarts", restarts]
        return Launch(command, self._place, self._control, cache=self._place.parent / "cache")


def _where(plan: Plan) -> str:
    if plan.point is not None:
        return f"{plan.point.moment} {plan.point.operation} ({plan.point.number})"
    phase = "training" if plan.training else "starting"
    return f"{phase}, {plan.delay_s:.2f} s"


def as_json(drilled: Drilled) -> dict[str, Any]:
    return {**drilled._asdict(), "kills": [kill._asdict() for kill in drilled.kills]}
