"""Which machines and devices a run has: from its settings, or from the torchrun that started it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from shufflenet_fn.config.options import declared
from shufflenet_fn.config.resolve import Resolved
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.distributed.world import DEFAULT_PORT, Nodes, World
from shufflenet_fn_backends.support.errors import UsageError, UserError

_PORTS: Final = 65535


def under_torchrun(resolved: Resolved, given: Mapping[str, Any], world: World) -> tuple[Resolved, list[str]]:
    """Return the settings with torchrun's numbers of machines and processes, and notes on unused options."""
    listed = resolved.settings.device_list
    if listed is not None and len(listed.split(",")) != world.local_size:
        raise UsageError(
            f"--device-list {listed} does not name {world.local_size} devices, one for each process that "
            "torchrun started on this machine (--nproc-per-node)."
        )
    restarts = resolved.settings.max_restarts
    if restarts:
        raise UsageError(
            f"--max-restarts {restarts} has no effect below torchrun, which restarts processes itself. Give "
            "--max-restarts to torchrun, and --max-restarts 0 here."
        )
    settings = replace(
        resolved.settings,
        devices=world.local_size,
        num_nodes=world.size // world.local_size,
        node_rank=world.rank // world.local_size,
    )
    own = {name: getattr(settings, name) for name in ("devices", "num_nodes", "node_rank")}
    meeting = ("rdzv_endpoint", "master_addr", "join_timeout")
    unused = [name for name in given if name in meeting or own.get(name, given[name]) != given[name]]
    flags = [item.option.flags[0] for item in declared(TrainSettings) if item.name in unused]
    notes = [f"{', '.join(flags)} not used: torchrun has started the processes"] if flags else []
    origin = {**resolved.origin, "devices": "torchrun", "num_nodes": "torchrun"}
    return resolved._replace(settings=settings, origin=origin), notes


def nodes_of(settings: TrainSettings) -> Nodes:
    """Return the machines of a run, which our launcher brings together. Raises ``UsageError``."""
    if settings.num_nodes == 1:
        return Nodes()
    if settings.max_restarts:
        raise UsageError(
            f"--max-restarts {settings.max_restarts} works on one machine only, and --nnodes is "
            f"{settings.num_nodes}. Use --max-restarts 0, and after a failure start the same command again "
            "on all machines with --resume auto, as a scheduler does."
        )
    endpoint = (settings.rdzv_endpoint or "").removeprefix("tcp://")
    if not endpoint and settings.master_addr:
        endpoint = f"{settings.master_addr}:{DEFAULT_PORT}"
    if not endpoint:
        raise UsageError(
            f"--nnodes {settings.num_nodes} needs to know where the machines meet: give "
            "--rdzv-endpoint HOST:PORT (or --addr HOST) of machine 0 on all of them."
        )
    form = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+):(\d{1,5})", endpoint)
    if form is None or not 1 <= int(form[2]) <= _PORTS:
        raise UsageError(
            f"--rdzv-endpoint {endpoint!r} is not HOST:PORT. Give machine 0's name or address and a free "
            f"port on it, 1 to {_PORTS}, such as host0:29500."
        )
    return Nodes(settings.num_nodes, settings.node_rank, endpoint, settings.join_timeout)


def device_numbers(settings: TrainSettings, available: int) -> tuple[int, ...]:
    """Return the devices of this machine to use, of the ``available`` ones. Raises ``UsageError``."""
    if settings.device_list is not None:
        try:
            numbers = tuple(int(part) for part in settings.device_list.split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
            raise UsageError(
                f"--device-list {settings.device_list!r} must be different device numbers with commas "
                "between them, such as 0,1,2."
            )
        return numbers
    if settings.devices is None and settings.multiprocessing_distributed:
        return tuple(range(max(1, available)))
    return tuple(range(settings.devices or 1))


@contextlib.contextmanager
def naming_node_rank(missing: bool) -> Iterator[None]:
    """Add to errors of the run directory that it may belong to another machine."""
    try:
        yield
    except UserError as error:
        if missing:
            raise type(error)(
                f"{error} (Without --node-rank this is machine 0: every other one needs its own number.)"
            ) from error
        raise
