"""How the launchers of a run's machines find each other, in torch elastic's terms."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous import registry as rendezvous

from shufflenet_fn.distributed.nodes import JOIN_TIMEOUT_S, Nodes

_ROLE = "rank"
_MONITOR_S = 0.1


def spec_of(
    entry: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    processes: int,
    nodes: Nodes,
    max_restarts: int,
) -> WorkerSpec:
    """What elastic's agent has to start on this machine, and where it meets the others."""
    single = nodes.num_nodes == 1
    # The agent's handlers are not wanted: see Agent. Older versions of torch do not ask.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    own: dict[str, Any] = {} if single else {"rank": nodes.rank, "timeout": JOIN_TIMEOUT_S}
    parameters = RendezvousParameters(
        backend="c10d" if single else "static",
        endpoint="localhost:0" if single else str(nodes.endpoint),
        run_id="shufflenet-fn",
        min_nodes=nodes.num_nodes,
        max_nodes=nodes.num_nodes,
        **own,
    )
    address, port = (None, None) if single else _host_and_port(str(nodes.endpoint))
    return WorkerSpec(
        role=_ROLE,
        local_world_size=processes,
        entrypoint=entry,
        args=arguments,
        rdzv_handler=rendezvous.get_rendezvous_handler(parameters),
        max_restarts=max_restarts,
        monitor_interval=_MONITOR_S,
        master_addr=address,
        master_port=port,
    )


def _host_and_port(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)
