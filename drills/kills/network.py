"""Two emulated machines on one: network namespaces with their own addresses, and a cable to unplug.

Each has its own loopback, interfaces, ports and host name; files are shared, as on a cluster with a common
file system. The namespaces have no names and end with the process that created them, however it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

_TOOLS: Final = ("unshare", "nsenter", "ip")
_READY_S: Final = 10.0


class NoNamespaces(RuntimeError):
    """This machine or user cannot create network namespaces. The text says why."""


class Machines:
    """Two machines, 0 and 1, created by ``two_machines``.

    Args:
        holders: the processes that hold their namespaces.
        users: whether they also have a user namespace, which must be entered first.
    """

    def __init__(self, holders: Sequence[int], *, users: bool) -> None:
        self._holders, self._users = holders, users

    def address(self, number: int) -> str:
        """Return the address of a machine that the other machine can reach."""
        return f"10.77.31.{number + 1}"

    def on(self, number: int) -> list[str]:
        """Return the command prefix that runs a command on one of the machines."""
        users = ["--user", "--preserve-credentials"] if self._users else []
        return ["nsenter", "--target", str(self._holders[number]), *users, "--net", "--uts"]

    def pull(self) -> None:
        """Unplug the cable: packets are lost without an error."""
        self._ip(1, "link", "set", "cable1", "down")

    def plug(self) -> None:
        """Plug the cable in again."""
        self._ip(1, "link", "set", "cable1", "up")

    def _ip(self, number: int, *arguments: str) -> None:
        _run([*self.on(number), "ip", *arguments])

    def join(self) -> None:
        """Connect the two machines by a cable."""
        cable = ("link", "add", "cable0", "type", "veth", "peer", "name", "cable1")
        self._ip(0, *cable, "netns", str(self._holders[1]))
        for number in (0, 1):
            self._ip(number, "addr", "add", f"{self.address(number)}/24", "dev", f"cable{number}")
            self._ip(number, "link", "set", "lo", "up")
            self._ip(number, "link", "set", f"cable{number}", "up")


@contextmanager
def two_machines() -> Iterator[Machines]:
    """Yield two machines. Needs root, or a user who may create user namespaces.

    Raises:
        NoNamespaces: neither is possible here.
    """
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise NoNamespaces(f"no {', '.join(missing)} (util-linux and iproute2) on this machine")
    users = os.geteuid() != 0
    with ExitStack() as held:
        if users:
            first = _holder(held, ["unshare", "--user", "--map-root-user", "--net", "--uts"], 0)
            enter = ["nsenter", "--target", str(first), "--user", "--preserve-credentials"]
            second = _holder(held, [*enter, "unshare", "--net", "--uts"], 1)
        else:
            first, second = (_holder(held, ["unshare", "--net", "--uts"], n) for n in (0, 1))
        machines = Machines((first, second), users=users)
        machines.join()
        yield machines


def _holder(held: ExitStack, unshare: Sequence[str], number: int) -> int:
    """Start a process in new namespaces. It ends with this process, or when ``held`` is exited."""
    # It reads from a pipe whose write end is in this process.
    script = f"hostname machine-{number} 2>/dev/null; echo ready; read _"
    process = subprocess.Popen(
        [*unshare, "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    held.callback(_end, process)
    assert process.stdout is not None and process.stderr is not None
    if process.stdout.readline() != "ready\n":
        raise NoNamespaces(f"cannot make a network namespace: {process.stderr.read().strip()}")
    return process.pid


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_READY_S, check=False)
    if done.returncode:
        raise NoNamespaces(f"{' '.join(command)}: {done.stderr.strip()}")
