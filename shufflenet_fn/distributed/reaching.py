"""Having collectives between machines use the network by which the machines reach each other.

By themselves gloo and HCCL take the address that the machine's own name has, or the first interface that they
find: the loopback on many machines, a container's bridge on others. The network on which the machines met is
known to work.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Final

from shufflenet_fn.distributed.interfaces import interface_of, route_to
from shufflenet_fn.distributed.store import Store
from shufflenet_fn.distributed.world import World
from shufflenet_fn_backends.support.errors import UserError

_VARIABLES: Final = {
    "gloo": ("GLOO_SOCKET_IFNAME",),
    "hccl": ("HCCL_IF_IP", "HCCL_SOCKET_IFNAME"),
}
"""What says which network to use; the first is set. NCCL is left alone: it takes the fastest networks that it
finds, and the name of one would keep it to that."""


def use_the_network_between_machines(
    world: World, store: Store, backend: str, host: str, port: int
) -> tuple[str, ...]:
    """Set the interface of this process's collectives, where the user has not; notes on what was set.

    Every rank must call it. Machine 0 cannot find out by itself by which of its addresses the others reach
    it (its own name is the loopback, often), so one of them tells.

    Args:
        world: the ranks.
        store: theirs.
        backend: of the collectives.
        host, port: where rank 0's machine is reached.

    Raises:
        UserError: there is no way to ``host``.
    """
    variables = _VARIABLES.get(backend, ())
    if world.size == world.local_size or not variables:
        return ()
    machine, key = world.rank // world.local_size, "the address of machine 0"
    if machine == 0:
        address = store.get(key).decode()
    else:
        try:
            address, reached = route_to(host, port)
        except OSError as error:
            raise UserError(
                f"rank {world.rank} does not reach machine 0 at {host}:{port}: {error.strerror or error}."
            ) from error
        if world.rank == world.local_size:
            store.set(key, reached)
    given = [f"{name}={os.environ[name]}" for name in variables if os.environ.get(name)]
    if given:
        return (f"{backend} between machines: {', '.join(given)}, as the environment says",)
    if ipaddress.ip_address(address).is_loopback:
        return ()  # all on one machine, where every address leads to it
    interface = interface_of(address)
    if interface is None:
        return (
            f"{backend} between machines: none of this machine's interfaces has the address {address}, by "
            f"which the others reach it, so {backend} chooses one itself. Set {variables[0]} if ranks do not "
            "find each other.",
        )
    os.environ[variables[0]] = address if variables[0] == "HCCL_IF_IP" else interface
    return (
        f"{backend} between machines: {interface} ({address}), on which they met; {variables[0]} names "
        "another",
    )
