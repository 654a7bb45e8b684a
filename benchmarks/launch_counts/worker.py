"""One rank of a counted step: ``python -m benchmarks.launch_counts.worker '{"name": "routed", …}'``.

Runs on the emulator and prints its ``StepCounts`` as JSON. ``RANK`` and ``WORLD_SIZE`` set its rank.
"""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

from ascend_emulator.counters import emulated
from shufflenet_fn_backends.support.errors import DeviceError

PEER = "peer"


class Case(NamedTuple):
    """A case to count. ``precision``: fp32 or O2.

    ``name``: ``peer``, or a backend; with ``+step`` the step updates the running statistics, not the kernels.
    """

    name: str
    precision: str
    batch_size: int
    image_size: int
    arch: str = "x1_0"


def counted(case: Case) -> str:
    """Return the counts of this rank's third step as JSON."""
    if not emulated():
        raise DeviceError("launches are counted on the emulator of CANN: see benchmarks/launches.py.")
    import torch

    from benchmarks.launch_counts.counting import count
    from shufflenet_fn.bench.step_candidates import original_step, our_step
    from shufflenet_fn.distributed.group import process_group
    from shufflenet_fn.distributed.world import World, world_from_environment
    from shufflenet_fn.model.config import get_config
    from shufflenet_fn_backends.runtimes.select import runtime_of

    torch.set_num_threads(1)
    runtime = runtime_of("npu")
    world = world_from_environment() or World()
    device = runtime.device(world.local_rank)
    runtime.set_device(world.local_rank)
    config = get_config(case.arch)
    measured: dict[str, Any] = {
        "precision": case.precision,
        "batch_size": case.batch_size,
        "image_size": case.image_size,
    }
    with process_group(world, runtime.dist_backend):
        if case.name == PEER:
            step = original_step(config, device, distributed=world.size > 1, **measured)
        else:
            step = our_step(config, case.name, runtime, world=world, **measured)
        return json.dumps(count(step)._asdict())


def main() -> None:
    print(counted(Case(**json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
