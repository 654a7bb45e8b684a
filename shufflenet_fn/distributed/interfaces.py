"""By which network interface and address this machine is reached by the other machines of a run."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_SIOCGIFCONF: Final = 0x8912
_ENTRY: Final = 40  # struct ifreq of 64-bit Linux
_ROOM: Final = 512


def route_to(host: str, port: int, *, timeout_s: float = 10.0) -> tuple[str, str]:
    """The addresses of both ends of a connection to ``host``: this machine's and the other's.

    Raises:
        OSError: there is no way to it.
    """
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        return _plain(connection.getsockname()[0]), _plain(connection.getpeername()[0])


def interface_of(address: str) -> str | None:
    """The name of the interface that has ``address``; ``None`` if none of this machine's has."""
    return addresses().get(address)


def addresses() -> Mapping[str, str]:
    """The interface of every address of this machine. Linux only; elsewhere nothing."""
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
    """Without the zone of a link-local address, and an IPv4 address as such."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
