"""The rank of this process among all ranks, and the machines of a run."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from shufflenet_fn_backends.support.errors import UsageError

DEFAULT_PORT: Final = 29688
"""Default port if only an address is given, as hard-coded in the original."""

JOIN_TIMEOUT_S: Final = 300.0
"""Seconds that machines wait for each other if ``--join-timeout`` is not given."""


class Nodes(NamedTuple):
    """``num_nodes`` machines, of which this is number ``node_rank``; they meet at ``endpoint``, HOST:PORT.

    ``join_timeout_s``: how long they wait for each other.
    """

    num_nodes: int = 1
    node_rank: int = 0
    endpoint: str = ":0"
    join_timeout_s: float = JOIN_TIMEOUT_S


class World(NamedTuple):
    """``rank`` of ``size`` processes over all machines; ``local_rank`` of ``local_size`` on this one.

    ``attempt``: how often the processes were restarted after a failure. ``heartbeats``: the path of the
    launcher's heartbeat table (``shufflenet_fn.distributed.heartbeats``); ``None`` without our launcher.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    attempt: int = 0
    heartbeats: str | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def world_from_environment() -> World | None:
    """Return the ``World`` that torchrun or our launcher set in the environment; ``None`` without either.

    Raises:
        UsageError: it is incomplete or not numeric, or machines have different numbers of processes.
    """
    env = os.environ
    if "RANK" not in env or "WORLD_SIZE" not in env or "MASTER_ADDR" not in env:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [env.get(name, "") for name in names]
    if not all(value.isdigit() for value in values):
        given = " ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise UsageError(
            f"the environment says that this is one process of several, but not which ({given}). Start it "
            "with torchrun, set all four to numbers, or unset RANK and WORLD_SIZE."
        )
    attempt = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    rank, size, local_rank, local_size = map(int, values)
    nodes = env.get("GROUP_WORLD_SIZE", "")
    if nodes.isdigit() and int(nodes) * local_size != size:
        raise UsageError(
            f"this machine starts {local_size} of {size} processes on {nodes} machines, but all must start "
            "equally many. Give all the same --devices (under torchrun, the same --nproc-per-node)."
        )
    return World(rank, size, local_rank, local_size, attempt=int(attempt) if attempt.isdigit() else 0)
