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
from shufflenet_fn.distributed.failures import Death, Failure, first_failure, show_traceback
from shufflenet_fn.distributed.signals import StopSignals, held_back
from shufflenet_fn.distributed.watch import (
    describe_hang,
    dump_stacks,
    hanging_rank,
    process_state,
)

_KILLED_WITHIN_S = 5.0


class Agent(LocalElasticAgent):
    """Starts the ranks of this machine, watches them, and starts them again as ``spec.max_restarts`` allows.

    Elastic ends the ranks that are left by SIGTERM and waits for half a minute, which a rank in a collective
    whose peer has gone does not notice. Here they are killed as soon as one has failed: what they had to
    keep is on disk, and what they hold (devices, ports) the kernel gives back.

    ``failures``: what happened, in order; all but the last were followed by a restart.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        board: Board,
        signals: StopSignals,
        hang_timeout_s: float,
        may_restart: Callable[[Failure], bool],
        say: Callable[[str], None],
    ) -> None:
        # With a folder for logs elastic makes one, and leaves it.
        super().__init__(
            spec, logs_specs=DefaultLogsSpecs(log_dir=os.devnull), start_method="spawn"
        )
        self._board, self._signals = board, signals
        self._hang_timeout_s = hang_timeout_s
        self._may_restart, self._say = may_restart, say
        self.failures: list[Failure] = []

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._board.clear()
        # Started before signals are held back: it would let them through again.
        resource_tracker.ensure_running()
        with held_back():
            started: dict[int, Any] = super()._start_workers(worker_group)
            # Elastic has handlers of its own, which end everything at the first signal.
            self._signals.install()
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        codes = [_exit_code(worker.id) for worker in worker_group.workers]
        beats = self._board.beats()
        deaths = [
            Death(worker.global_rank, worker.local_rank, _step(beat), code)
            for worker, beat, code in zip(worker_group.workers, beats, codes, strict=True)
            # Without an error, but before its work was done, is a death too.
            if code is not None and (code or beat.phase is not Phase.ENDED)
        ]
        known = len(self.failures)
        if deaths:
            self._fail(first_failure(self._board.reports(), deaths))
        elif self._found_hang(worker_group, beats):
            codes = [_exit_code(worker.id) for worker in worker_group.workers]
        if all(code is None for code in codes) and all(b.phase is not Phase.ENDED for b in beats):
            # Elastic need not look, and must not: of a death that it sees first it makes half a minute.
            return RunResult(state=WorkerState.HEALTHY)
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state is WorkerState.FAILED and len(self.failures) == known:
            deaths = [
                Death(rank, died.local_rank, _step(beats[died.local_rank]), died.exitcode)
                for rank, died in result.failures.items()
            ]
            self._fail(first_failure(self._board.reports(), deaths))
        return result

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        spec = worker_group.spec
        number = spec.max_restarts - self._remaining_restarts
        show_traceback(self.failures[-1])
        self._say(
            f"{self.failures[-1].message} Restart {number} of {spec.max_restarts}, from the last good "
            "checkpoint."
        )
        super()._restart_workers(worker_group)

    def _shutdown(self, *arguments: Any, **named: Any) -> None:
        super()._shutdown(signal.SIGKILL)

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        if self._board.stop_signal or not self._may_restart(failure):
            self._remaining_restarts = 0
        self.kill_ranks()

    def kill_ranks(self) -> None:
        """End the ranks of this machine at once, and wait until they have ended."""
        pids = [] if self._pcontext is None else list(self._pcontext.pids().values())
        for pid in pids:
            if _exit_code(pid) is None:
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILLED_WITHIN_S
        while any(_exit_code(pid) is None for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _found_hang(self, worker_group: WorkerGroup, beats: Sequence[Beat]) -> bool:
        now = time.monotonic()
        if all(now - beat.time <= self._hang_timeout_s for beat in beats):
            return False
        states = [process_state(worker.id) for worker in worker_group.workers]
        number = hanging_rank(beats, now, self._hang_timeout_s, states)
        if number is None:
            return False
        worker, beat = worker_group.workers[number], beats[number]
        text = describe_hang(beat, now, self._hang_timeout_s, states[number])
        dump_stacks(worker.id, states[number])
        step = _step(beat)
        at = "" if step is None else f" at step {step}"
        message = f"rank {worker.global_rank}{at} {text}. The other ranks were stopped."
        self._fail(Failure(worker.global_rank, number, message, 1, restartable=True))
        return True


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
