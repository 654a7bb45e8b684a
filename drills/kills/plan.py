"""The next kill: which process, and when."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from drills.kills.points import Point

MOMENTS = ("before", "half", "after")


class Plan(NamedTuple):
    """The next kill.

    ``victim``: ``rank 0``, ``rank 1``…, ``launcher`` or ``all``. ``point``: the point that a process must
    have reached. Without a point, the kill happens ``delay_s`` after the start, or after training has begun
    if ``training`` is set.
    """

    victim: str
    point: Point | None
    training: bool
    delay_s: float


class Setting(NamedTuple):
    """A kind of run to test. ``launched``: whether the ranks have a launcher, even a single one."""

    ranks: int
    precision: str
    launched: bool

    @property
    def title(self) -> str:
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        return f"{ranks}, {self.precision}" + (", launched" * (self.launched and self.ranks == 1))

    @property
    def victims(self) -> tuple[str, ...]:
        if not self.launched:
            return ("all",)
        return (*(f"rank {number}" for number in range(self.ranks)), "launcher", "all")


def draw(
    rng: random.Random, setting: Setting, operations: Sequence[str], *, startup_s: float, span_s: float
) -> Plan:
    """Draw the next kill: half of all kills at one of ``operations``, the others at a random time.

    Args:
        rng: source of all draws.
        setting: the kind of run.
        operations: names (``name_of``) of the operations that processes have done so far.
        startup_s: seconds from the start until training begins.
        span_s: maximum seconds of training before the kill.
    """
    victim = rng.choice(setting.victims)
    kind, delay = rng.random(), rng.random()
    if kind < 0.5 and operations:
        operation = rng.choice(operations)
        moments = MOMENTS if operation.startswith("write ") else ("before", "after")
        return Plan(victim, Point(operation, rng.choice((1, 1, 2)), rng.choice(moments)), True, 0.0)
    if kind < 0.65:
        return Plan(victim, None, False, delay * startup_s)
    return Plan(victim, None, True, delay * span_s)
