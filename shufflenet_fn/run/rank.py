"""Run a plan: one process for each device, each from the bare process to the results."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from shufflenet_fn.distributed.failures import Failure
from shufflenet_fn.distributed.group import process_group
from shufflenet_fn.distributed.heartbeats import HANG_TIMEOUT_S, open_slot
from shufflenet_fn.distributed.launch import Launch, launch
from shufflenet_fn.distributed.world import World
from shufflenet_fn.io import Disk
from shufflenet_fn.run.directory import LOG
from shufflenet_fn.run.events import Reporter, Reporters
from shufflenet_fn.run.fingerprint import agreed
from shufflenet_fn.run.loop import train
from shufflenet_fn.run.plan import RunPlan
from shufflenet_fn.run.reporting import RankLog, RunFiles
from shufflenet_fn.run.resumed_settings import idle_cores
from shufflenet_fn.run.stopping import Stopped, Stopping, at_once_text, listening, say, stopping_text
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn.streams import log_failures
from shufflenet_fn_backends.known_errors import explain, telling_line
from shufflenet_fn_backends.runtimes.base import patiently
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.support.errors import DeviceFailed, UserError
from shufflenet_fn_backends.support.limits import check_threads
from shufflenet_fn_backends.support.subprocesses import run_module

Outcome = dict[str, Any] | Stopped
Rank = Callable[[RunPlan, World], Outcome]

_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_ANSWERS_WITHIN_S: Final = 120.0


# ------------------------------------------------------------------------- start a process per device


def run_plan(plan: RunPlan, world: World | None, rank: Rank) -> Outcome:
    """Run ``plan``: call ``rank(plan, world)``, a module-level function, once for each device.

    It runs in this process if torchrun has started the process (``world``) or if there is only one rank;
    otherwise in separate processes, which are watched and restarted as ``--max-restarts`` allows.

    Raises:
        RankFailed, UserError: the run has failed.
    """
    if world is not None:
        return rank(plan, world)
    settings = plan.settings
    # A launcher costs seconds at the start.
    if plan.world_size == 1 and not settings.max_restarts and settings.hang_timeout is None:
        return rank(plan, World())
    watching = Launch(
        hang_timeout_s=settings.hang_timeout or HANG_TIMEOUT_S,
        max_restarts=settings.max_restarts,
        may_restart=lambda failure: device_answers(plan, failure),
        settling=runtime_of(plan.device).settling,
        say=say,
        stopping=lambda number: say(stopping_text(number)),
        stopped=lambda number: say(at_once_text(number, plan.run_dir)),
    )
    return launch(rank, plan, processes=len(plan.devices), nodes=plan.nodes, watching=watching)


def device_answers(plan: RunPlan, failure: Failure) -> bool:
    """Return whether the device of a failed rank can still be used, as tried in a separate process."""
    runtime = runtime_of(plan.device)
    arguments = [plan.device, str(plan.devices[failure.local_rank])]

    def compute() -> None:
        answer = run_module(__name__, arguments, timeout_s=_ANSWERS_WITHIN_S)
        if answer.code != 0:
            raise RuntimeError(answer.text)

    try:
        if not runtime.shares:  # not the CPU
            patiently(compute, runtime.settling, say)
    except RuntimeError:
        return False
    return True


def compute_something(kind: str, number: int) -> None:
    """Compute on device ``number``, or end with an error: ``python -m shufflenet_fn.run.rank npu 3``."""
    runtime = runtime_of(kind)
    runtime.prepare()
    runtime.set_device(number)
    total = torch.ones(64, 64, device=runtime.device(number)).sum()
    runtime.synchronize()
    if float(total) != 64 * 64:
        raise SystemExit(f"{kind} {number} computes nonsense")


# ------------------------------------------------------------------------------------------- one rank


def run_rank(plan: RunPlan, world: World, display: Reporter, *, disk: Disk | None = None) -> Outcome:
    """Set up this process and train. ``display`` is used on rank 0 only, in addition to the log files.

    ``disk``: the file operations for checkpoints; this machine's file system if not given. Returns the
    results, or ``Stopped`` if the run was asked to stop.

    Raises:
        UserError: the run cannot go on; the message says why.
    """
    try:
        return _run_rank(plan, world, display, disk or Disk())
    except UserError:
        raise
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise UserError(
            f"cannot write in the run directory {plan.run_dir}: {error.strerror}. Free some space or make it "
            f"writable, then go on with --resume {plan.run_dir}."
        ) from error
    except Exception as error:
        # Not what only echoes another rank's failure: that rank has the message.
        known = explain(f"{type(error).__name__}: {error}")
        if known is None or known.echo:
            raise
        said = telling_line(str(error) or repr(error))
        log = _log_path(plan, world)
        raise DeviceFailed(f"{said}: {known} The whole error is in {log}.") from error


def _run_rank(plan: RunPlan, world: World, display: Reporter, disk: Disk) -> Outcome:
    allow_open_files()
    runtime = runtime_of(plan.device)
    device = plan.devices[world.local_rank]
    # The number of threads decides the last bits of sums.
    cores = max(1, usable_cores() // world.local_size)
    threads = plan.settings.threads or cores
    notes = [*runtime.prepare(), *idle_cores(plan.resolved.origin.get("threads"), threads, cores)]
    if plan.settings.deterministic:
        notes += runtime.deterministic()
    # On one machine the launcher restarts its ranks together; else each waits for its device itself.
    alone = world.heartbeats is None or world.size > world.local_size
    patiently(lambda: runtime.set_device(device), runtime.settling if alone else None, say)
    # Besides: one that writes checkpoints, and one for constants.
    check_threads(threads + loader_threads(plan.settings.workers, world.local_size) + 1)
    torch.set_num_threads(threads)
    notes += runtime.tune()
    slot = open_slot(world.heartbeats, world.local_rank)
    # With a launcher, longer than its own time-out, which names the rank.
    timeout_s = plan.settings.hang_timeout or HANG_TIMEOUT_S
    if world.heartbeats is not None:
        timeout_s = max(600.0, timeout_s + 60.0)
    # The log is opened inside the group: by then rank 0 has made the directory.
    with (
        listening(world, slot, plan.run_dir),
        process_group(world, runtime.dist_backend, timeout_s=timeout_s) as told,
        contextlib.ExitStack() as stack,
    ):
        plan = agreed(plan, world)
        path = _log_path(plan, world)
        log = RunFiles(plan.run_dir) if world.is_main else RankLog(path)
        stack.callback(log.close)
        reporter = Reporters(display, log) if world.is_main else Reporter()
        stack.enter_context(log_failures(log.warning))
        stack.enter_context(stacks_on_demand(path))
        log.note(f"rank {world.rank} of {world.size}: {runtime.device(device)}, {threads} compute threads")
        for note in told:
            (reporter if world.is_main else log).note(note)
        for note in notes:
            reporter.note(note)
        try:
            stopping = Stopping(
                slot, deadline=plan.deadline if world.is_main else None, limit=str(plan.settings.max_time)
            )
            outcome = train(plan, world, reporter, stopping, disk)
        except UserError as error:
            log.note(f"error: {error}")
            raise
        except Exception:
            log.note(traceback.format_exc())
            raise
        log.note(str(outcome) if isinstance(outcome, Stopped) else f"rank {world.rank} is done")
    return outcome


def _log_path(plan: RunPlan, world: World) -> Path:
    return plan.run_dir / (LOG if world.is_main else f"log.rank{world.rank}.txt")


@contextlib.contextmanager
def stacks_on_demand(log: Path) -> Iterator[None]:
    """Write the Python stacks of all threads to ``log`` at SIGUSR2, which a launcher sends when it hangs."""
    with open(log, "a") as file:
        faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR2)


WANTED: Final = 16384
"""Enough for the shards of ImageNet's pixels, twice, with room for everything else."""


def allow_open_files() -> None:
    """Raise this process's soft limit of open files to WANTED, as far as its hard limit allows.

    Packed data keeps a share of the limit open as shards; the usual 1,024 are fewer than a large set has.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


if __name__ == "__main__":
    compute_something(sys.argv[1], int(sys.argv[2]))
