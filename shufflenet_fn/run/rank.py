"""One rank of a run, from the bare process to the results."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import resource
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from shufflenet_fn.distributed.group import process_group
from shufflenet_fn.distributed.heartbeats import HANG_TIMEOUT_S, open_slot
from shufflenet_fn.distributed.world import World
from shufflenet_fn.io import Disk
from shufflenet_fn.run.consistency import agreed
from shufflenet_fn.run.events import Event, Reporter, Reporters
from shufflenet_fn.run.loop import train
from shufflenet_fn.run.plan import RunPlan
from shufflenet_fn.run.reporting import RankLog, RunFiles
from shufflenet_fn.run.resumed_settings import idle_cores
from shufflenet_fn.run.stopping import Stopped, Stopping, listening, say
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn.streams import log_failures
from shufflenet_fn_backends.known_errors import explain, telling_line
from shufflenet_fn_backends.runtimes.base import patiently
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.support.errors import DeviceFailed, UserError
from shufflenet_fn_backends.support.limits import check_threads

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class Silent:
    """The reporter of ranks other than 0."""

    def event(self, event: Event) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warning(self, text: str) -> None:
        pass


def run_rank(
    plan: RunPlan, world: World, display: Reporter, *, disk: Disk | None = None
) -> dict[str, Any] | Stopped:
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
        raise DeviceFailed(
            f"{said}: {known} The whole error is in {plan.run_dir / _log_name(world)}."
        ) from error


def _run_rank(plan: RunPlan, world: World, display: Reporter, disk: Disk) -> dict[str, Any] | Stopped:
    allow_open_files()
    runtime = runtime_of(plan.device)
    threads = compute_threads(plan, world)
    notes = list(runtime.prepare())
    cores = max(1, usable_cores() // world.local_size)
    if note := idle_cores(plan.resolved.origin.get("threads"), threads, cores):
        notes.append(note)
    if plan.settings.deterministic:
        notes += runtime.deterministic()
    # On one machine the launcher restarts its ranks together; else each waits for its device itself.
    alone = world.heartbeats is None or world.size > world.local_size
    settling = runtime.settling if alone else None
    patiently(lambda: runtime.set_device(plan.devices[world.local_rank]), settling, say)
    # Besides: one that writes checkpoints, and one for constants.
    check_threads(threads + loader_threads(plan.settings.workers, world.local_size) + 1)
    torch.set_num_threads(threads)
    notes += runtime.tune()
    slot = open_slot(world.heartbeats, world.local_rank)
    # The log is opened inside the group: by then rank 0 has made the directory.
    with (
        listening(world, slot, plan.run_dir),
        process_group(world, runtime.dist_backend, timeout_s=group_timeout_s(plan, world)) as told,
        contextlib.ExitStack() as stack,
    ):
        plan = agreed(plan, world)
        log: RankLog
        reporter: Reporter
        if world.is_main:
            files = stack.enter_context(contextlib.closing(RunFiles(plan.run_dir)))
            log, reporter = files, Reporters(display, files)
        else:
            log = stack.enter_context(contextlib.closing(RankLog(plan.run_dir / _log_name(world))))
            reporter = Silent()
        stack.enter_context(log_failures(log.warning))
        stack.enter_context(stacks_on_demand(plan.run_dir / _log_name(world)))
        log.note(
            f"rank {world.rank} of {world.size}: {runtime.device(plan.devices[world.local_rank])}, "
            f"{threads} compute threads"
        )
        for note in told:
            (reporter if world.is_main else log).note(note)
        for note in notes:
            reporter.note(note)
        try:
            stopping = Stopping(
                slot, deadline=plan.deadline if world.is_main else None, limit=str(plan.settings.max_time)
            )
            outcome = train(plan, world, reporter, stopping=stopping, disk=disk)
        except UserError as error:
            log.note(f"error: {error}")
            raise
        except Exception:
            log.note(traceback.format_exc())
            raise
        log.note(str(outcome) if isinstance(outcome, Stopped) else f"rank {world.rank} is done")
    return outcome


@contextlib.contextmanager
def stacks_on_demand(log: Path) -> Iterator[None]:
    """Write the Python stacks of all threads to ``log`` at SIGUSR2, which a launcher sends when it hangs."""
    with open(log, "a") as file:
        faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR2)


def group_timeout_s(plan: RunPlan, world: World) -> float:
    """Return the time-out of collectives: with a launcher longer than its own, which names the rank."""
    limit = plan.settings.hang_timeout or HANG_TIMEOUT_S
    return limit if world.heartbeats is None else max(600.0, limit + 60.0)


def _log_name(world: World) -> str:
    return "log.txt" if world.is_main else f"log.rank{world.rank}.txt"


def compute_threads(plan: RunPlan, world: World) -> int:
    """Return ``--threads``, or this process's share of the cores. It decides the last bits of sums."""
    return plan.settings.threads or max(1, usable_cores() // world.local_size)


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
