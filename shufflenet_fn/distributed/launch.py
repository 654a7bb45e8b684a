"""Starting one process per device through torch elastic, and bringing back one result or one clear error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple, NoReturn, TypeVar

from shufflenet_fn.distributed.board import Board
from shufflenet_fn.distributed.failures import Failure, RankFailed, show_traceback
from shufflenet_fn.distributed.nodes import DEFAULT_PORT, Nodes
from shufflenet_fn.distributed.signals import StopSignals
from shufflenet_fn.distributed.worker import run_worker
from shufflenet_fn.distributed.world import World
from shufflenet_fn_backends.runtimes.settling import Settling

__all__ = ["DEFAULT_PORT", "Launch", "Nodes", "RankFailed", "launch"]

A = TypeVar("A")
R = TypeVar("R")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(number: int) -> None:
    pass


def _yes(failure: Failure) -> bool:
    return True


class Launch(NamedTuple):
    """How ranks are watched.

    ``hang_timeout_s``: seconds without progress after which a rank hangs. ``max_restarts``: how often all
    are started again after one has failed, where ``may_restart`` agrees. ``settling``: what the devices need
    before that; a start that they refuse is tried again without counting as a restart. ``say``: told of each
    restart.
    ``stopping(number)`` is called when a signal asks for a stop that ranks look out for; ``None`` where they
    do not, and it ends them at once. ``stopped(number)`` is called when a signal has ended them.
    """

    hang_timeout_s: float = 600.0
    max_restarts: int = 0
    may_restart: Callable[[Failure], bool] = _yes
    settling: Settling | None = None
    say: Callable[[str], None] = _say
    stopping: Callable[[int], None] | None = None
    stopped: Callable[[int], None] = _silent


def launch(
    entry: Callable[[A, World], R],
    argument: A,
    *,
    processes: int,
    nodes: Nodes | None = None,
    watching: Launch | None = None,
) -> R:
    """Run ``entry(argument, world)`` in ``processes`` processes of this machine; the result of the first.

    ``entry`` and ``argument`` are pickled: a module-level function and plain values. When one rank
    fails, the others are stopped and the first failure is raised here. With ``watching.stopping``, the first
    signal of ``STOP_SIGNALS`` is written on the board (``World.board``), where ranks look that can stop in
    good order; another ends all processes at once, this one too, with exit code 128 + its number.

    Raises:
        RankFailed: what the first failing rank said, with its exit code.
        UserError: the machines did not come together; one of them has ended.
    """
    # Imported here: it takes a second, and a run on one device never needs it.
    from shufflenet_fn.distributed.agent import Agent, quiet_elastic
    from shufflenet_fn.distributed.meeting import Meeting
    from shufflenet_fn.distributed.peers import Peers
    from shufflenet_fn.distributed.rendezvous import alone, spec_of

    nodes, watching = nodes or Nodes(), watching or Launch()
    agent: Agent | None = None

    def first(number: int) -> None:
        if watching.stopping is None:
            at_once(number)
        board.request_stop(number)
        watching.stopping(number)

    def at_once(number: int) -> NoReturn:
        if agent is not None:
            agent.kill_ranks()
            agent.say_stopped(number)
        watching.stopped(number)
        sys.stdout.flush()
        os._exit(128 + number)

    with (
        closing(Board(processes)) as board,
        StopSignals(first, at_once) as signals,
        quiet_elastic(),
    ):
        peers = Peers(nodes, processes) if nodes.num_nodes > 1 else None
        meeting = alone() if peers is None else Meeting(nodes, peers, lambda: board.stop_signal)
        spec = spec_of(
            run_worker,
            (entry, argument, os.getpid(), board.path),
            processes=processes,
            meeting=meeting,
            max_restarts=watching.max_restarts,
        )
        agent = Agent(
            spec,
            board=board,
            signals=signals,
            peers=peers,
            machine=nodes.rank,
            hang_timeout_s=watching.hang_timeout_s,
            may_restart=watching.may_restart,
            settling=watching.settling,
            say=watching.say,
        )
        try:
            result = agent.run()
        finally:
            meeting.shutdown()
    if result.is_failed():
        show_traceback(agent.failures[-1])
        raise RankFailed(agent.failures)
    values: dict[int, Any] = result.return_values
    first_result: R = values[min(values)]
    return first_result
