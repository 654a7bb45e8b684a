"""What torch elastic's agent is to start, and where it meets those of other machines."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters
from torch.distributed.elastic.rendezvous import registry as rendezvous

_ROLE = "rank"
_MONITOR_S = 0.1


def alone() -> RendezvousHandler:
    """Of a machine that meets no other."""
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint="localhost:0",
        run_id="shufflenet-fn",
        min_nodes=1,
        max_nodes=1,
    )
    return rendezvous.get_rendezvous_handler(parameters)


def spec_of(
    entry: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    processes: int,
    meeting: RendezvousHandler,
    max_restarts: int,
) -> WorkerSpec:
    """What elastic's agent has to start on this machine."""
    # The agent's handlers are not wanted: see Agent. Older versions of torch do not ask.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    # All machines start equally many ranks, so nobody need be asked who has which: a question to a machine
    # that has just gone would not come back.
    os.environ["TORCH_ELASTIC_WORKER_IDENTICAL"] = "1"
    return WorkerSpec(
        role=_ROLE,
        local_world_size=processes,
        entrypoint=entry,
        args=arguments,
        rdzv_handler=meeting,
        max_restarts=max_restarts,
        monitor_interval=_MONITOR_S,
    )
