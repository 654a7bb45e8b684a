"""Start one process per device, watch them, and return one result or raise one clear error."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar

from shufflenet_fn.distributed.failures import Death, Failure, RankFailed, first_failure, hang_failure
from shufflenet_fn.distributed.heartbeats import (
    HANG_TIMEOUT_S,
    Heartbeat,
    HeartbeatTable,
    Phase,
    describe_hang,
    dump_stacks,
    hanging_rank,
    process_state,
)
from shufflenet_fn.distributed.network import check_loopback
from shufflenet_fn.distributed.worker import StopSignals, run_worker
from shufflenet_fn.distributed.world import Nodes, World
from shufflenet_fn.streams import flush_output
from shufflenet_fn_backends.runtimes.base import ATTEMPTS, Settling
from shufflenet_fn_backends.support.errors import UserError

if TYPE_CHECKING:
    from shufflenet_fn.distributed.elastic import ElasticRanks

A = TypeVar("A")
R = TypeVar("R")

_POLL_S: Final = 0.05
_START_STOPS_S: Final = 30.0
"""How long ranks that are still starting may take to notice a stop request."""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Launch(NamedTuple):
    """How ranks are watched.

    Attributes:
        hang_timeout_s: seconds without progress after which a rank hangs.
        max_restarts: how often all ranks are restarted after a failure, where ``may_restart`` agrees. On one
            machine only.
        settling: the wait that devices need before a restart. A start that they refuse is no restart.
        say: receives a line for each restart.
        stopping: called at the first stop signal, which ranks poll for; ``None`` ends them at the first.
        stopped: called when a signal has ended the ranks.
    """

    hang_timeout_s: float = HANG_TIMEOUT_S
    max_restarts: int = 0
    may_restart: Callable[[Failure], bool] = lambda failure: True
    settling: Settling | None = None
    say: Callable[[str], None] = _say
    stopping: Callable[[int], None] | None = None
    stopped: Callable[[int], None] = lambda number: None


class StoppedWaiting(UserError):
    """A signal arrived before the first step. Exit code 75: the same command goes on."""

    exit_code = 75


def launch(
    entry: Callable[[A, World], R],
    argument: A,
    *,
    processes: int,
    nodes: Nodes | None = None,
    watching: Launch | None = None,
) -> R:
    """Run ``entry(argument, world)`` in ``processes`` processes of this machine; return the first result.

    ``entry`` and ``argument`` are pickled: a module-level function and plain values. When one rank fails,
    the others of this machine are killed and the first failure is raised; ranks of other ``nodes`` fail in
    their collectives. A second stop signal ends all processes including this one, with exit code 128 + its
    number.

    Raises:
        RankFailed: what the first failing rank said, with its exit code.
        UserError: the machines did not meet, or this one's processes cannot.
    """
    # Imported here, because it takes a second and a run on one device does not need it.
    from shufflenet_fn.distributed.elastic import ElasticRanks, quiet_elastic

    nodes, watching = nodes or Nodes(), watching or Launch()
    check_loopback()
    ranks: ElasticRanks | None = None

    def first(number: int) -> None:
        if watching.stopping is None:
            at_once(number)
        table.request_stop(number)
        watching.stopping(number)

    def at_once(number: int) -> NoReturn:
        if ranks is not None:
            ranks.kill_now()
        watching.stopped(number)
        flush_output()
        os._exit(128 + number)

    failures: list[Failure] = []
    restarts = refusals = 0
    with closing(HeartbeatTable(processes)) as table, StopSignals(first, at_once), quiet_elastic():
        while True:
            table.clear()
            arguments = (entry, argument, os.getpid(), table.path, len(failures))
            ranks = ElasticRanks(run_worker, arguments, processes=processes, nodes=nodes, say=watching.say)
            ranks.start()
            outcome = _watch(ranks, table, nodes, watching.hang_timeout_s)
            if not isinstance(outcome, Failure):
                result: R = outcome[min(outcome)]
                return result
            failures.append(outcome)
            settling = watching.settling if nodes.num_nodes == 1 else None
            refused = settling is not None and settling.refused(outcome.message)
            refusals = refusals + 1 if refused and refusals < ATTEMPTS - 1 else 0
            if not refusals:
                restarts += 1
            allowed = refusals or restarts <= watching.max_restarts
            if outcome.traceback is not None:
                print(outcome.traceback, file=sys.stderr, end="", flush=True)
            if not (allowed and _can_restart(outcome, table, watching)):
                raise RankFailed(failures)
            again = (
                f"Trying again ({refusals} of {ATTEMPTS - 1})."
                if refusals
                else f"Restart {restarts} of {watching.max_restarts}, from the last good checkpoint."
            )
            # With settling, the failure was shown before the wait.
            watching.say(again if settling else f"{outcome.message} {again}")


def _can_restart(failure: Failure, table: HeartbeatTable, watching: Launch) -> bool:
    """Wait until the devices are free; return whether a restart makes sense then."""
    if table.stop_signal or not failure.restartable:
        return False
    if watching.settling is not None:
        watching.settling.wait(
            lambda line: watching.say(f"{failure.message} {line}"), lambda: table.stop_signal
        )
    return not table.stop_signal and watching.may_restart(failure)


def _watch(
    ranks: ElasticRanks, table: HeartbeatTable, nodes: Nodes, hang_timeout_s: float
) -> Failure | dict[int, Any]:
    """Return the results of all ranks of this machine by rank, or the failure that ended them."""
    where = f" on machine {nodes.node_rank} ({socket.gethostname()})" if nodes.num_nodes > 1 else ""
    stop_before, asked_at = table.stop_signal, math.inf
    while True:
        ended = not ranks.is_alive()
        # In this order: elastic may ask ranks to stop after it has seen a death, and a rank records its end
        # before it exits.
        stop_signal = table.stop_signal
        codes = ranks.exit_codes()
        beats, pids = table.heartbeats(), table.pids()
        if ranks.error is not None:
            ranks.kill_now()
            raise ranks.explained(ranks.error) from ranks.error
        if ended and ranks.result is not None and not ranks.result.is_failed():
            return ranks.result.return_values
        failure = None
        dead = _failed(codes, {pid: beat.phase for pid, beat in zip(pids, beats, strict=True)})
        if not ended and not dead:
            failure = _hang(beats, pids, nodes, hang_timeout_s, where)
            if failure is None:
                if stop_signal:
                    asked_at = min(asked_at, time.monotonic())
                    _stop_waiting(ranks, beats, nodes, stop_signal, asked_at)
                stop_before = stop_signal
                time.sleep(_POLL_S)
                continue
        ranks.kill()
        # Elastic may have sent SIGTERM to the other ranks, which treat it as a stop request.
        table.restore_stop(stop_before)
        if failure is not None:
            return failure
        first_rank = nodes.node_rank * table.processes
        deaths = [
            Death(first_rank + number, number, _step(beats[number]), codes[pid] or 0)
            for number, pid in enumerate(pids)
            if pid in dead
        ]
        if not deaths and ranks.result is not None:  # before it has signed in
            deaths = [
                Death(rank, died.local_rank, None, died.exitcode)
                for rank, died in ranks.result.failures.items()
            ]
        return first_failure(table.reports(), deaths, where)


def _failed(codes: Mapping[int, int | None], phases: Mapping[int, Phase]) -> list[int]:
    """Return the processes that have failed.

    One that ends without an error before its work is done has, too. One that SIGTERM ends after its work has
    not: it no longer handles the signal, which elastic sends to all when another has failed.
    """

    def failed(pid: int, code: int) -> bool:
        if pid not in phases:  # it has not signed in
            return code != 0
        return phases[pid] is not Phase.ENDED or code not in (0, -signal.SIGTERM)

    return [pid for pid, code in codes.items() if code is not None and failed(pid, code)]


def _stop_waiting(
    ranks: ElasticRanks, beats: list[Heartbeat], nodes: Nodes, signalled: int, asked_at: float
) -> None:
    """Raise ``StoppedWaiting`` if nothing would notice the stop request: ranks look for it between steps."""
    if nodes.num_nodes > 1 and not ranks.processes():
        doing = "waiting for the other machines"
    elif time.monotonic() - asked_at > _START_STOPS_S and all(beat.phase is Phase.STARTING for beat in beats):
        ranks.kill_now()
        doing = "starting"
    else:
        return
    raise StoppedWaiting(
        f"stopped by {signal.Signals(signalled).name} while {doing}. No step was done. The same command with "
        "--resume auto goes on."
    )


def _hang(
    beats: list[Heartbeat], pids: list[int], nodes: Nodes, limit_s: float, where: str
) -> Failure | None:
    now = time.monotonic()
    if all(now - beat.time <= limit_s for beat in beats):
        return None
    states = [process_state(pid) for pid in pids]
    number = hanging_rank(beats, now, limit_s, states)
    if number is None:
        return None
    text = describe_hang(beats[number], now, limit_s, states[number])
    if nodes.num_nodes > 1 and beats[number].phase is Phase.WAITING:
        text += "; another machine may have failed: see what its command says"
    if pids[number]:
        dump_stacks(pids[number], states[number])
    rank = nodes.node_rank * len(beats) + number
    return hang_failure(rank, number, _step(beats[number]), text, where)


def _step(beat: Heartbeat) -> int | None:
    return None if beat.phase is Phase.STARTING else beat.step
