"""The network interface that collectives between machines use.

By themselves gloo and HCCL take the address of the host's name or the first interface that they find: often
the loopback or a container's bridge. The network on which the machines met is known to work.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from shufflenet_fn.distributed.world import World
from shufflenet_fn_backends.support.errors import UserError

_SIOCGIFCONF: Final = 0x8912
_ENTRY: Final = 40  # struct ifreq of 64-bit Linux
_ROOM: Final = 512

_VARIABLES: Final = {
    "gloo": ("GLOO_SOCKET_IFNAME",),
    "hccl": ("HCCL_IF_IP", "HCCL_SOCKET_IFNAME"),
}
"""Variables that name the network; the first one is set. NCCL finds the fastest networks itself."""


class Store(Protocol):
    """A key-value store of all ranks. Any thread may use it."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...

    def delete_key(self, key: str) -> bool: ...


def use_the_network_between_machines(
    world: World, store: Store, backend: str, host: str, port: int
) -> tuple[str, ...]:
    """Set the interface of this process's collectives where the user has not; return notes on it.

    Every rank must call it. Machine 0 cannot find out by which of its addresses the others reach it, so the
    first rank of machine 1 tells.

    Args:
        world: the ranks.
        store: of the ranks.
        backend: of the collectives.
        host, port: where rank 0's machine is reached.

    Raises:
        UserError: ``host`` cannot be reached.
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


def route_to(host: str, port: int, *, timeout_s: float = 10.0) -> tuple[str, str]:
    """Return the addresses of both ends of a connection to ``host``: this machine's and the other's.

    Raises:
        OSError: it cannot be reached.
    """
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        return _plain(connection.getsockname()[0]), _plain(connection.getpeername()[0])


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has ``address``; ``None`` if this machine has no such one."""
    return addresses().get(address)


def addresses() -> Mapping[str, str]:
    """Return the interface of every address of this machine; on other systems than Linux nothing."""
    return {**_version_6(), **_version_4()}


def _version_4() -> dict[str, str]:
    room = array.array("B", bytes(_ROOM * _ENTRY))
    where, size = room.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked.fileno(), _SIOCGIFCONF, struct.pack("iL", size, where))
        except OSError:
            return {}
    filled, found = struct.unpack("iL", answer)[0], {}
    for start in range(0, filled, _ENTRY):
        entry = room[start : start + _ENTRY].tobytes()
        # An alias, such as eth0:1, is an address more of eth0.
        name = entry[:16].partition(b"\0")[0].decode().partition(":")[0]
        found[socket.inet_ntoa(entry[20:24])] = name
    return found


def _version_6() -> dict[str, str]:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return {}
    return {
        str(ipaddress.IPv6Address(int(fields[0], 16))): fields[-1]
        for fields in map(str.split, lines)
    }


def _plain(address: str) -> str:
    """Remove the zone of a link-local address, and the IPv6 form of an IPv4 address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
