"""The processes of a session and their resources, from /proc."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process. ``state``: its letter in /proc. ``started``: clock ticks since boot."""

    pid: int
    parent: int
    state: str
    started: int


def session(leader: int) -> list[Process]:
    """Return the live processes of the session of ``leader``, oldest first, without zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may hold spaces, from the third field on (proc(5)).
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == leader and fields[0] not in "ZX":
            pid = int(path.parent.name)
            found.append(Process(pid, int(fields[1]), fields[0], int(fields[19])))
    return sorted(found, key=lambda process: (process.started, process.pid))


def ranks_of(launcher: int) -> list[int]:
    """Return the processes of a launcher's ranks, rank 0 first; empty if it is the only process."""
    return [
        process.pid
        for process in session(launcher)
        if process.parent == launcher and b"spawn_main" in _read(process.pid, "cmdline")
    ]


def listening_ports(pids: Iterable[int]) -> set[int]:
    """Return the TCP ports on which any of ``pids`` listens."""
    held = {link for pid in pids for link in _links(pid)}
    return {port for port, inode in _listeners() if f"socket:[{inode}]" in held}


def still_listening(ports: set[int]) -> set[int]:
    """Return those of ``ports`` on which any process listens."""
    return ports & {port for port, _ in _listeners()}


def shared_memory(pids: Iterable[int]) -> set[str]:
    """Return the paths below /dev/shm that any of ``pids`` has mapped or open."""
    found = set()
    for pid in pids:
        found |= set(re.findall(r"/dev/shm/\S+", _read(pid, "maps").decode(errors="replace")))
        found |= {link for link in _links(pid) if link.startswith("/dev/shm/")}
    return found


class Use(NamedTuple):
    """Resources of one or more processes. ``anonymous`` and ``resident`` are in bytes."""

    resident: int
    anonymous: int
    threads: int
    files: int


def use_of(pid: int) -> Use | None:
    """Return memory, threads and file descriptors of a process; ``None`` if it has ended."""
    status = _read(pid, "status").decode()
    fields = dict(re.findall(r"^(\w+):\s*(\d+)", status, re.MULTILINE))
    links = _links(pid)
    if "VmRSS" not in fields or not links:
        return None
    return Use(int(fields["VmRSS"]) * 1024, int(fields["RssAnon"]) * 1024, int(fields["Threads"]), len(links))


def _listeners() -> Iterator[tuple[int, str]]:
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", name).read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for fields in map(str.split, lines):
            if fields[3] == "0A":  # LISTEN
                yield int(fields[1].rpartition(":")[2], 16), fields[9]


def _links(pid: int) -> list[str]:
    found = []
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found.append(str(entry.readlink()))
            except OSError:  # closed since
                continue
    except OSError:  # ended, or not ours
        pass
    return found


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
