"""What the launchers of a run's machines tell each other, and what they make of it together."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from shufflenet_fn.distributed.failures import STOPPED, Cause, Failure


class Part(enum.IntEnum):
    """What part a launcher has in the round under way.

    A *round* is from the start of all ranks to the next failure. ``AGAIN``: it waits for the next round.
    ``DONE``: its ranks have come to their end. ``OVER``: it has ended, or is about to.
    """

    RUNNING = 0
    FAILED = 1
    AGAIN = 2
    DONE = 3
    OVER = 4


class Record(NamedTuple):
    """A launcher's words to the others. They are repeated all the time, so ``beat`` grows while it lives.

    ``launcher`` is another with every start of the command. ``nodes`` and ``processes``: how many machines it
    was told of, and how many ranks it starts. ``failure``: why it stops, as far as it can see.
    """

    launcher: str
    host: str
    nodes: int
    processes: int
    beat: int = 0
    part: Part = Part.RUNNING
    failure: Failure | None = None

    def encoded(self) -> str:
        failure = None if self.failure is None else self.failure._asdict()
        return json.dumps({**self._asdict(), "failure": failure})


def decoded(text: str | bytes) -> Record:
    """The inverse of ``Record.encoded``."""
    values: dict[str, Any] = json.loads(text)
    failure = values["failure"]
    if failure is not None:
        failure = Failure(**{**failure, "cause": Cause(failure["cause"])})
    return Record(**{**values, "part": Part(values["part"]), "failure": failure})


def unlike(own: Record, heard: Mapping[int, Record]) -> str | None:
    """How another machine's command cannot be of the same run; ``None`` if all can."""
    for number, other in sorted(heard.items()):
        for option, ours, theirs in (
            ("--nnodes", own.nodes, other.nodes),
            ("--devices", own.processes, other.processes),
        ):
            if ours != theirs:
                return (
                    f"machine {number} ({other.host}) was started with {option} {theirs}, this one with "
                    f"{option} {ours}. Give all machines the same command, each with its own --node-rank."
                )
    return None


def loss_of(message: str, number: int, processes: int) -> Failure:
    """The loss of machine ``number``, which has ``processes`` ranks as all have; ``message`` tells of it."""
    return Failure(
        rank=number * processes,
        local_rank=0,
        message=f"{message}. {STOPPED}",
        exit_code=1,
        restartable=True,
        cause=Cause.LOST,
        machine=number,
    )


def first_of_all(
    own: Failure | None, heard: Mapping[int, Record], lost: Iterable[Failure]
) -> Failure | None:
    """The failure to blame for a round's end, the same on all machines that have heard the same.

    What is sure comes first, by its ``cause``. That a machine has gone is blamed ahead of errors that only
    echo another's; of equal ones, the lower rank.

    Args:
        own: what this machine saw.
        heard: the others' records.
        lost: of machines that do not answer.
    """
    told = [record.failure for record in heard.values() if record.failure is not None]
    failures = [*([] if own is None else [own]), *told, *lost]
    return min(failures, key=lambda failure: (failure.cause, failure.rank), default=None)
