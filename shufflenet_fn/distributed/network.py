"""The network interface that ranks and their collectives use.

By default, gloo and HCCL use the address of the host name or the first interface, often the loopback or a
container's bridge. The network on which the machines connected is known to work. The name may
not resolve at all, so ranks of a single machine meet on its loopback.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from shufflenet_fn.distributed.world import World
from shufflenet_fn_backends.support.errors import UserError

LOOPBACK: Final = "127.0.0.1"

_SIOCGIFCONF: Final = 0x8912
_ENTRY: Final = 40  # struct ifreq of 64-bit Linux
_ROOM: Final = 512
_LOOPBACK_S: Final = 5.0

_VARIABLES: Final = {"gloo": ("GLOO_SOCKET_IFNAME",), "hccl": ("HCCL_IF_IP", "HCCL_SOCKET_IFNAME")}
"""Variables that name the network; the first one is set. NCCL finds the fastest networks itself."""


class Store(Protocol):
    """A key-value store of all ranks. Any thread may use it."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...

    def delete_key(self, key: str) -> bool: ...


def check_loopback() -> None:
    """Raise ``UserError`` unless processes of this machine reach each other.

    torch's store and gloo would try again for minutes.
    """
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_LOOPBACK_S).close()
    except OSError as error:
        raise UserError(
            f"the loopback interface of this machine does not work ({LOOPBACK}: {error.strerror or error}), "
            "by which its processes find each other. Bring it up, as root: ip link set lo up. A single "
            "device (--devices 1) needs none."
        ) from error


def master_address(world: World) -> str:
    """Return MASTER_ADDR, or on a single machine the loopback if that does not resolve.

    torchrun sets it to the host's own name. torch's store would wait for it without a word.
    """
    host = os.environ["MASTER_ADDR"]
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        if world.size == world.local_size:
            return LOOPBACK
        print(
            f"rank {world.rank} waits for MASTER_ADDR={host} to resolve: {error.strerror or error}. If "
            "it does not, give an address in place of the name (torchrun: --local-addr or --master-addr).",
            file=sys.stderr,
            flush=True,
        )
    return host


def use_the_network_between_machines(
    world: World, store: Store, backend: str, host: str, port: int
) -> tuple[str, ...]:
    """Set the interface of this process's collectives, unless the user has set it. Return notes for the log.

    Every rank must call it. Machine 0 cannot find out by which of its addresses the others reach it, so the
    first rank of machine 1 reports it. Raises ``UserError`` if ``host``, machine 0, cannot be reached.
    """
    variables = _VARIABLES.get(backend, ())
    several = world.size > world.local_size
    if not variables:
        return ()
    address = _meeting_address(world, store, host, port) if several else LOOPBACK
    given = [f"{name}={os.environ[name]}" for name in variables if os.environ.get(name)]
    if given:
        said = f"{backend} between machines: {', '.join(given)}, as the environment says"
        return (said,) if several else ()
    if ipaddress.ip_address(address).is_loopback:
        # All on one machine, where every address leads to it: gloo need not resolve the host's name.
        loopback = addresses().get(LOOPBACK)
        if backend == "gloo" and loopback is not None:
            os.environ[variables[0]] = loopback
        return ()
    interface = addresses().get(address)
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


def _meeting_address(world: World, store: Store, host: str, port: int) -> str:
    """Return this machine's address on the network on which the machines met."""
    machine, key = world.rank // world.local_size, "the address of machine 0"
    if machine == 0:
        return store.get(key).decode()
    try:
        address, reached = route_to(host, port)
    except OSError as error:
        raise UserError(
            f"rank {world.rank} does not reach machine 0 at {host}:{port}: {error.strerror or error}."
        ) from error
    if world.rank == world.local_size:
        store.set(key, reached)
    return address


def route_to(host: str, port: int, *, timeout_s: float = 10.0) -> tuple[str, str]:
    """Return the addresses of both ends of a connection: this machine's and that of ``host``."""
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        return _plain(connection.getsockname()[0]), _plain(connection.getpeername()[0])


def addresses() -> Mapping[str, str]:
    """Return the name of the interface of every address of this machine."""
    return {**_version_6(), **_version_4()}


def _version_4() -> dict[str, str]:
    room = array.array("B", bytes(_ROOM * _ENTRY))
    where, size = room.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked.fileno(), _SIOCGIFCONF, struct.pack("iL", size, where))
    filled, found = struct.unpack("iL", answer)[0], {}
    for start in range(0, filled, _ENTRY):
        entry = room[start : start + _ENTRY].tobytes()
        # An alias, such as eth0:1, is a further address of eth0.
        name = entry[:16].partition(b"\0")[0].decode().partition(":")[0]
        found[socket.inet_ntoa(entry[20:24])] = name
    return found


def _version_6() -> dict[str, str]:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:  # IPv6 is switched off
        return {}
    return {str(ipaddress.IPv6Address(int(fields[0], 16))): fields[-1] for fields in map(str.split, lines)}


def _plain(address: str) -> str:
    """Remove the zone of a link-local address, and the IPv6 form of an IPv4 address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
