"""The stage of two processes that tell each other something."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from shufflenet_fn.distributed.group import process_group
from shufflenet_fn.distributed.launch import launch
from shufflenet_fn.distributed.world import World
from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, Finding
from shufflenet_fn_backends.runtimes.select import runtime_of

_SIZE = 2_300_000
"""Float32 values: the gradient of x1_0."""

_FIX = "Update the driver and CANN (or CUDA) to versions that go together."


def collective(facts: dict[str, Any]) -> Finding:
    """A sum over two ranks, by the collectives that training uses on this device."""
    kind, count = facts["devices"]["kind"], facts["devices"]["count"]
    runtime = runtime_of(kind)
    if count < 2 and not runtime.shares:
        return Finding(SKIPPED, f"{runtime.dist_backend} needs two devices, and there is one")
    wrong, seconds = launch(_rank, kind, processes=2)
    details = {"backend": runtime.dist_backend, "seconds": seconds}
    if wrong:
        return Finding(FAILED, f"{runtime.dist_backend}: the sum over two ranks is wrong", _FIX)
    text = (
        f"{runtime.dist_backend}: two ranks sum {_SIZE * 4 / 1e6:.1f} MB in {1000 * seconds:.1f} ms"
    )
    return Finding(OK, text, details=details)


def _rank(kind: str, world: World) -> tuple[bool, float]:
    """Whether the sum is wrong, and the seconds of a second one."""
    runtime = runtime_of(kind)
    runtime.prepare()
    runtime.set_device(world.local_rank)
    device = runtime.device(world.local_rank)
    with process_group(world, runtime.dist_backend, timeout_s=300.0):
        values = torch.full((_SIZE,), float(world.rank + 1), device=device)
        dist.all_reduce(values)
        wrong = bool((values != sum(range(1, world.size + 1))).any())
        runtime.synchronize()
        start = time.perf_counter()
        dist.all_reduce(values)
        runtime.synchronize()
        return wrong, time.perf_counter() - start
