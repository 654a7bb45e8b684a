"""Run a plan in this process, or in one process per device below a launcher."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import torch

from shufflenet_fn.distributed.failures import Failure
from shufflenet_fn.distributed.heartbeats import HANG_TIMEOUT_S
from shufflenet_fn.distributed.launch import Launch, launch
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.plan import RunPlan
from shufflenet_fn.run.stopping import Stopped, at_once_text, say, stopping_text
from shufflenet_fn_backends.runtimes.base import ATTEMPTS
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.support.subprocesses import run_module

Outcome = dict[str, Any] | Stopped
Rank = Callable[[RunPlan, World], Outcome]

_ANSWERS_WITHIN_S: Final = 120.0


def run_plan(plan: RunPlan, world: World | None, rank: Rank) -> Outcome:
    """Run ``plan``: call ``rank(plan, world)``, a module-level function, once for each device.

    It runs in this process if torchrun has started the process (``world``) or if there is only one rank;
    otherwise in separate processes, which are watched and restarted as ``--max-restarts`` allows.

    Raises:
        RankFailed, UserError: the run has failed.
    """
    if world is not None:
        return rank(plan, world)
    if plan.world_size == 1 and not _asks_for_a_watch(plan):
        return rank(plan, World())
    return launch(rank, plan, processes=len(plan.devices), nodes=plan.nodes, watching=_watching(plan))


def _asks_for_a_watch(plan: RunPlan) -> bool:
    """Return whether a single process needs a launcher, which costs seconds at the start."""
    return plan.settings.max_restarts > 0 or plan.settings.hang_timeout is not None


def _watching(plan: RunPlan) -> Launch:
    return Launch(
        hang_timeout_s=plan.settings.hang_timeout or HANG_TIMEOUT_S,
        max_restarts=plan.settings.max_restarts,
        may_restart=lambda failure: device_answers(plan, failure),
        settling=runtime_of(plan.device).settling,
        say=say,
        stopping=lambda number: say(stopping_text(number)),
        stopped=lambda number: say(at_once_text(number, plan.run_dir)),
    )


def device_answers(plan: RunPlan, failure: Failure) -> bool:
    """Return whether the device of a failed rank can still be used, as tried in a separate process.

    A device that is still held is tried again after a wait, as often as a start would be.
    """
    runtime = runtime_of(plan.device)
    if runtime.shares:
        return True  # the CPU
    number = plan.devices[failure.local_rank]
    for attempt in range(1, ATTEMPTS + 1):
        answer = run_module(
            "shufflenet_fn.run.launching", [plan.device, str(number)], timeout_s=_ANSWERS_WITHIN_S
        )
        settling = runtime.settling
        if answer.code == 0 or settling is None or not settling.refused(answer.text):
            return answer.code == 0
        if attempt < ATTEMPTS:
            settling.wait(say)
    return False


def compute_something(kind: str, number: int) -> None:
    """Compute on device ``number``, or end with an error: ``python -m shufflenet_fn.run.launching npu 3``."""
    runtime = runtime_of(kind)
    runtime.prepare()
    runtime.set_device(number)
    total = torch.ones(64, 64, device=runtime.device(number)).sum()
    runtime.synchronize()
    if float(total) != 64 * 64:
        raise SystemExit(f"{kind} {number} computes nonsense")


if __name__ == "__main__":
    compute_something(sys.argv[1], int(sys.argv[2]))
