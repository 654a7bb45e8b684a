"""Who this process is among all."""

from __future__ import annotations

import os
from typing import NamedTuple

from shufflenet_fn_backends.support.errors import UsageError


class World(NamedTuple):
    """``rank`` of ``size`` processes over all machines; ``local_rank`` of ``local_size`` on this one.

    ``attempt``: how often the processes were started again after a failure. ``board``: where the launcher's
    board is (``shufflenet_fn.distributed.board``); ``None`` without a launcher of ours.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    attempt: int = 0
    board: str | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def world_from_environment() -> World | None:
    """What torchrun or our launcher says in the environment; ``None`` when started by hand.

    Raises:
        UsageError: it is there in part, or not in numbers.
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
    return World(
        rank, size, local_rank, local_size, attempt=int(attempt) if attempt.isdigit() else 0
    )
