"""Starts this machine's ranks once with torch elastic, using only its public API."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, Final

from torch.distributed.elastic.agent.server import api
from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous import registry as rendezvous

from shufflenet_fn.distributed.network import LOOPBACK
from shufflenet_fn.distributed.worker import STOP_SIGNALS
from shufflenet_fn.distributed.world import Nodes
from shufflenet_fn_backends.support.errors import UsageError, UserError

_MONITOR_S: Final = 0.1
_KILLED_WITHIN_S: Final = 40.0
_POLL_S: Final = 0.02
_TRY_S: Final = 5.0
_TELL_S: Final = 3.0
_RETRY_S: Final = 0.25
_RUN_ID: Final = "shufflenet-fn"
_FULL_NAME: Final = "_get_fq_hostname"


class ElasticRanks(threading.Thread):
    """The ranks of one machine, started once by elastic's agent in this thread.

    The agent runs in its own thread, because it blocks while machines wait for each other, and in the main
    thread it would install signal handlers. It never restarts ranks: a restart is a new ``ElasticRanks``.

    Each of the ``processes`` calls ``entry(*arguments)``. ``say`` receives a line if machine 0 keeps this one
    waiting. In the end, either ``result`` is what the agent returned, or ``error`` why it could not start.
    """

    def __init__(
        self,
        entry: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        processes: int,
        nodes: Nodes,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(name="torch elastic", daemon=True)
        self._nodes, self._count, self._say = nodes, processes, say
        self._others = {child.pid for child in multiprocessing.active_children()}
        self._processes: dict[int, BaseProcess] = {}
        self.result: RunResult | None = None
        self.error: Exception | None = None
        several = nodes.num_nodes > 1
        config: dict[str, Any] = {"rank": nodes.node_rank, "timeout": nodes.join_timeout_s} if several else {}
        # Machine 0 need not resolve a name of its own: its store listens on every address.
        port = nodes.endpoint.rpartition(":")[2]
        self._rendezvous = rendezvous.get_rendezvous_handler(
            RendezvousParameters(
                backend="static" if several else "c10d",
                endpoint=nodes.endpoint if nodes.node_rank else f"{LOOPBACK}:{port}",
                run_id=_RUN_ID,
                min_nodes=nodes.num_nodes,
                max_nodes=nodes.num_nodes,
                local_addr=LOOPBACK,
                **config,
            )
        )
        spec = WorkerSpec(
            role="rank",
            local_world_size=processes,
            entrypoint=entry,
            args=arguments,
            rdzv_handler=self._rendezvous,
            max_restarts=0,
            monitor_interval=_MONITOR_S,
        )
        # If given a log folder, elastic would create it and leave it behind.
        logs = DefaultLogsSpecs(log_dir=os.devnull)
        self._agent = LocalElasticAgent(spec, logs_specs=logs, start_method="spawn")

    def run(self) -> None:
        # Started first, because starting it unblocks signals in this thread.
        resource_tracker.ensure_running()
        # Ranks inherit this, so that no signal ends a rank before it has its handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            if self._nodes.node_rank:
                self._wait_for_machine_0()
            self.result = self._agent.run()
        except Exception as error:
            self.error = error
        finally:
            with suppress(RuntimeError):  # elastic joins a thread that it could not start
                self._rendezvous.shutdown()

    def processes(self) -> dict[int, BaseProcess]:
        """Return the ranks' processes by their numbers, including those that have ended."""
        if len(self._processes) < self._count:
            for child in multiprocessing.active_children():
                if child.pid is not None and child.pid not in self._others:
                    self._processes[child.pid] = child
        return self._processes

    def exit_codes(self) -> dict[int, int | None]:
        """Return the exit code of each process: negative for a signal, ``None`` while it runs."""
        return {pid: _exit_code(process) for pid, process in self.processes().items()}

    def kill(self) -> None:
        """Kill the ranks and wait until elastic has noticed.

        Elastic sends SIGTERM and waits for half a minute, but a rank that waits in a collective for a lost
        peer does not react to it.
        """
        deadline = time.monotonic() + _KILLED_WITHIN_S
        while self.is_alive() and time.monotonic() < deadline:
            self.kill_now()
            self.join(_POLL_S)

    def kill_now(self) -> None:
        """Kill the ranks; safe in a signal handler."""
        for process in self.processes().values():
            process.kill()

    def _wait_for_machine_0(self) -> None:
        """Return once machine 0 answers.

        Elastic would wait, too, but torch's store reports a failure as a C++ stack trace without the cause.
        """
        nodes = self._nodes
        host, _, port = nodes.endpoint.rpartition(":")
        start, told = time.monotonic(), False
        while True:
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=_TRY_S).close()
                return
            except OSError as error:
                waited = time.monotonic() - start
                if waited > _TELL_S and not told:
                    told = True
                    self._say(
                        f"Waiting for machine 0 at {nodes.endpoint}, up to {nodes.join_timeout_s:g} s "
                        f"(--join-timeout): {error.strerror or error}."
                    )
                if waited < nodes.join_timeout_s:
                    time.sleep(_RETRY_S)
                    continue
                raise UserError(
                    f"machine 0 did not answer at {nodes.endpoint} within {nodes.join_timeout_s:g} s "
                    f"(--join-timeout): {error.strerror or error}. Start the same command with --node-rank 0 "
                    "on the machine that --rdzv-endpoint names, and see that no firewall closes that port."
                ) from error

    def explained(self, error: Exception) -> Exception:
        """Return a failed start's ``error``; if it is known, as an error that says what the user can do."""
        nodes, text = self._nodes, str(error)
        if nodes.num_nodes == 1 or isinstance(error, UserError):
            return error
        if "EADDRINUSE" in text or "ddress already in use" in text:
            return UsageError(
                f"the port of --rdzv-endpoint {nodes.endpoint} is in use on this machine, which has "
                "--node-rank 0: by another run, or by a second command with --node-rank 0. End that, or give "
                "all machines another port."
            )
        if "Ping failed" in text:
            return UserError(
                f"something else than a launcher answers at --rdzv-endpoint {nodes.endpoint}, like a proxy. "
                "Give the address of machine 0 and a port that is free there, the same on all machines."
            )
        if "imed out" in text:
            return UserError(
                f"not all of the {nodes.num_nodes} machines came to {nodes.endpoint} within "
                f"{nodes.join_timeout_s:g} s (--join-timeout). Start the same command on every machine, each "
                "with its own --node-rank, and see that no firewall closes that port. "
                f"({text.partition(chr(10))[0]})"
            )
        return error


def _exit_code(process: BaseProcess) -> int | None:
    assert process.pid is not None
    try:
        # Do not reap the process: elastic's thread does, and treats a missing process as a failure.
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # elastic has reaped it
        return process.exitcode
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


@contextmanager
def quiet_elastic() -> Iterator[None]:
    """Silence elastic's log lines, whose content is raised as one error, and its look-ups of the host's name.

    It puts the full name in an event for each rank, which nobody reads. A name server that does not answer
    would delay each by seconds.
    """
    # Each of its modules has set a level of its own, so the common parent's would not do.
    loggers = [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if name.startswith("torch.distributed.elastic") or name == "torch.multiprocessing.spawn"
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    full_name = getattr(api, _FULL_NAME, None)
    setattr(api, _FULL_NAME, socket.gethostname)
    try:
        yield
    finally:
        setattr(api, _FULL_NAME, full_name)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
