"""Torch elastic's agent, with what it lacks: who failed first, who hangs, and ends within a bounded time."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

from torch.distributed.elastic.agent.server.api import (
    RunResult,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

from shufflenet_fn.distributed.board import Beat, Board, Phase
from shufflenet_fn.distributed.failures import (
    Death,
    Failure,
    RankFailed,
    Where,
    first_failure,
    hang_failure,
    show_traceback,
    stopped_failure,
)
from shufflenet_fn.distributed.meeting import Meeting
from shufflenet_fn.distributed.peers import MachineLeft, Peers
from shufflenet_fn.distributed.semaphores import NewSemaphores
from shufflenet_fn.distributed.signals import StopSignals, held_back
from shufflenet_fn.distributed.watch import (
    SINGLE_STATES,
    describe_hang,
    dump_stacks,
    hanging_rank,
    process_state,
)
from shufflenet_fn_backends.runtimes.settling import ATTEMPTS, Settling

_KILLED_WITHIN_S = 5.0
_OTHERS_FIRST_S = 2.0
_TOLD_S = 0.5


class Agent(LocalElasticAgent):
    """Starts the ranks of this machine, watches them, and starts them again as ``spec.max_restarts`` allows.

    Elastic ends the ranks that are left by SIGTERM and waits for half a minute, which a rank in a collective
    whose peer has gone does not notice. Here they are killed as soon as one has failed: what they had to
    keep is on disk, and what they hold (devices, ports) the kernel gives back.

    With ``peers``, the launchers of other machines, a failure on any machine ends the ranks of all, and all
    start again together or not at all.

    ``failures``: what happened, in order; all but the last were followed by a restart.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        board: Board,
        signals: StopSignals,
        peers: Peers | None,
        machine: int,
        hang_timeout_s: float,
        may_restart: Callable[[Failure], bool],
        settling: Settling | None,
        say: Callable[[str], None],
    ) -> None:
        # With a folder for logs elastic makes one, and leaves it.
        super().__init__(
            spec, logs_specs=DefaultLogsSpecs(log_dir=os.devnull), start_method="spawn"
        )
        self._board, self._signals = board, signals
        self._peers = peers
        self._where = Where() if peers is None else Where(machine, peers.host)
        self._finished: RunResult | None = None
        self._semaphores: NewSemaphores | None = None
        self._hang_timeout_s = hang_timeout_s
        self._may_restart, self._say = may_restart, say
        self._settling = settling
        # Restarts that are not counted: in a row, and all together.
        self._refusals, self._granted = 0, 0
        self.failures: list[Failure] = []

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._board.clear()
        self._finished = None
        # Started before signals are held back: it would let them through again.
        resource_tracker.ensure_running()
        self._semaphores = NewSemaphores()
        with held_back():
            started: dict[int, Any] = super()._start_workers(worker_group)
            # Elastic has handlers of its own, which end everything at the first signal.
            self._signals.install()
        return started

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        try:
            super()._rendezvous(worker_group)
        except MachineLeft as error:
            if self.failures:
                raise RankFailed(self.failures) from error
            raise
        if isinstance(meeting := worker_group.spec.rdzv_handler, Meeting):
            # As machine 0 counts: ranks find each other by the number of restarts.
            self._remaining_restarts = worker_group.spec.max_restarts - meeting.attempt

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if self._semaphores is not None and self._board.all_have_signed_in():
            self._semaphores.forget()
            self._semaphores = None
        if self._finished is not None:
            return self._wait_for_the_others(self._finished)
        codes = [_exit_code(worker.id) for worker in worker_group.workers]
        beats = self._board.beats()
        deaths = [
            Death(worker.global_rank, worker.local_rank, _step(beat), code)
            for worker, beat, code in zip(worker_group.workers, beats, codes, strict=True)
            # Without an error, but before its work was done, is a death too.
            if code is not None and (code or beat.phase is not Phase.ENDED)
        ]
        if deaths:
            self._fail(first_failure(self._board.reports(), deaths, self._where))
        elif hang := self._hang(worker_group, beats):
            self._fail(hang)
        elif seen := self._trouble():
            self._fail(None, seen)
        elif all(code is None for code in codes) and all(b.phase is not Phase.ENDED for b in beats):
            # Elastic need not look, and must not: of a death that it sees first it makes half a minute.
            return RunResult(state=WorkerState.HEALTHY)
        else:
            return self._ended(worker_group, beats)
        return RunResult(state=WorkerState.FAILED)

    def _ended(self, worker_group: WorkerGroup, beats: Sequence[Beat]) -> RunResult:
        """What elastic makes of ranks of which at least one is at its end."""
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state is WorkerState.FAILED:
            deaths = [
                Death(rank, died.local_rank, _step(beats[died.local_rank]), died.exitcode)
                for rank, died in result.failures.items()
            ]
            self._fail(first_failure(self._board.reports(), deaths, self._where))
        if result.state is WorkerState.SUCCEEDED and self._peers is not None:
            self._finished = result
            return self._wait_for_the_others(result)
        return result

    def _wait_for_the_others(self, finished: RunResult) -> RunResult:
        """Done when the ranks of all machines are; until then a failure there starts these again too."""
        assert self._peers is not None
        if self._peers.done():
            return finished
        if seen := self._trouble():
            self._fail(None, seen)
            return RunResult(state=WorkerState.FAILED)
        return RunResult(state=WorkerState.HEALTHY)

    def _exit_barrier(self) -> None:
        """Elastic's own wait for other machines, which ``_wait_for_the_others`` has done."""

    def _trouble(self) -> Failure | None:
        return None if self._peers is None else self._peers.trouble(self._hang_timeout_s)

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        allowed = worker_group.spec.max_restarts - self._granted
        number = worker_group.spec.max_restarts - self._remaining_restarts - self._granted
        again = (
            f"Trying again ({self._refusals} of {ATTEMPTS - 1})."
            if self._refusals
            else f"Restart {number} of {allowed}, from the last good checkpoint."
        )
        if self._settling is None:  # else it was told ahead of the wait
            show_traceback(self.failures[-1])
            again = f"{self.failures[-1].message} {again}"
        self._say(again)
        super()._restart_workers(worker_group)

    def _shutdown(self, *arguments: Any, **named: Any) -> None:
        super()._shutdown(signal.SIGKILL)

    def _fail(self, own: Failure | None, seen: Failure | None = None) -> None:
        """Stop the ranks of this machine, because of ``own`` failure or of one ``seen`` elsewhere."""
        if self._peers is None:
            assert own is not None
            failure = own
            self.kill_ranks()
        else:
            self.kill_ranks()
            failure = self._peers.fail(own, seen)
        self.failures.append(failure)
        refused = self._settling is not None and self._settling.refused(failure.message)
        self._refusals = self._refusals + 1 if refused and self._refusals < ATTEMPTS - 1 else 0
        if self._refusals:
            # Elastic counts it as a restart, by which ranks find each other: so one more is allowed.
            self._granted += 1
            self._worker_group.spec.max_restarts += 1
            self._remaining_restarts += 1
        if not self._can_start_again(failure):
            self._remaining_restarts = 0
        if self._peers is not None:
            if self._remaining_restarts > 0:
                self._peers.go_on()
            else:
                self._peers.leave(failure)

    def _can_start_again(self, failure: Failure) -> bool:
        """Whether a restart is left and the device answers, once it has had the time that it needs."""
        if self._board.stop_signal or not failure.restartable or self._remaining_restarts == 0:
            return False
        if self._settling is not None:
            show_traceback(failure)
            self._settling.wait(
                lambda line: self._say(f"{failure.message} {line}"),
                lambda: self._board.stop_signal,
            )
        on_this_machine = failure.machine == self._where.machine
        return not self._board.stop_signal and (not on_this_machine or self._may_restart(failure))

    def say_stopped(self, number: int) -> None:
        """Tell the other machines that signal ``number`` has ended the ranks of this one at once."""
        if self._peers is not None:
            self._peers.leave(stopped_failure(number, self._where))
            time.sleep(_TOLD_S)

    def kill_ranks(self) -> None:
        """End the ranks of this machine at once, and wait until they have ended."""
        pids = [] if self._pcontext is None else list(self._pcontext.pids().values())
        for pid in pids:
            if _exit_code(pid) is None:
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILLED_WITHIN_S
        while any(_exit_code(pid) is None for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _hang(self, worker_group: WorkerGroup, beats: Sequence[Beat]) -> Failure | None:
        now, limit_s = time.monotonic(), self._hang_timeout_s
        if all(now - beat.time <= limit_s for beat in beats):
            return None
        states = [process_state(worker.id) for worker in worker_group.workers]
        number = hanging_rank(beats, now, limit_s, states)
        if number is None:
            return None
        worker, beat = worker_group.workers[number], beats[number]
        # Ranks that wait may do so for another machine's, which its launcher finds at the same time.
        waits = beat.phase is Phase.WAITING and states[number] not in SINGLE_STATES
        echo = self._peers is not None and waits
        if echo and now - beat.time <= limit_s + _OTHERS_FIRST_S:
            return None
        text = describe_hang(beat, now, limit_s, states[number])
        dump_stacks(worker.id, states[number])
        return hang_failure(worker.global_rank, number, _step(beat), text, self._where, echo=echo)


def _step(beat: Beat) -> int | None:
    return None if beat.phase is Phase.STARTING else beat.step


def _exit_code(pid: int) -> int | None:
    """How a child process has ended, which is left to be asked again; ``None`` while it runs."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # somebody has asked before, and it is gone
        return 0
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


@contextlib.contextmanager
def quiet_elastic() -> Iterator[None]:
    """Without elastic's own log lines: what they tell is raised as one error instead."""
    # Each of its modules has set a level of its own, so the common parent's would not do.
    loggers = [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if name.startswith("torch.distributed.elastic") or name == "torch.multiprocessing.spawn"
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
