"""Who this process is among all."""

from __future__ import annotations

import os
from typing import NamedTuple


class World(NamedTuple):
    """``rank`` of ``size`` processes over all machines; ``local_rank`` of ``local_size`` on this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def world_from_environment() -> World | None:
    """What torchrun or our launcher says in the environment; ``None`` when started by hand."""
    env = os.environ
    if "RANK" not in env or "WORLD_SIZE" not in env or "MASTER_ADDR" not in env:
        return None
    return World(
        rank=int(env["RANK"]),
        size=int(env["WORLD_SIZE"]),
        local_rank=int(env.get("LOCAL_RANK", env["RANK"])),
        local_size=int(env.get("LOCAL_WORLD_SIZE", env["WORLD_SIZE"])),
    )
