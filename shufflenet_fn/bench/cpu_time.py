"""CPU time of a process with its children, those still alive included."""

from __future__ import annotations

import os
import time
from pathlib import Path


def cpu_seconds(pid: int | None = None) -> float:
    """User and system seconds of this process, or of ``pid``, with all that descend from it.

    ``resource.getrusage`` counts a child only when it has ended, and a data loader's workers do not end.
    Others are read from /proc, in hundredths of a second; where there is none they count when they end.
    """
    own = time.process_time() if pid is None else 0.0
    if not Path("/proc/self/stat").exists():
        spent = os.times()
        return own + spent.children_user + spent.children_system
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may hold spaces, from the third field on (proc(5)).
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended; its parent counts it from now on
            continue
        child = int(path.parent.name)
        parents[child] = int(fields[1])
        # utime, stime and those of ended children, cutime and cstime.
        ticks[child] = sum(
            map(int, fields[13:15] if own and child == os.getpid() else fields[11:15])
        )
    family = {os.getpid() if pid is None else pid}
    while joining := {one for one in parents if parents[one] in family} - family:
        family |= joining
    return own + sum(ticks.get(one, 0) for one in family) / os.sysconf("SC_CLK_TCK")


def settle(pid: int | None = None, *, quiet: float = 0.1, longest: float = 10.0) -> None:
    """Return when a process and its children have used no CPU for ``quiet`` seconds, or after ``longest``."""
    end = time.monotonic() + longest
    before = cpu_seconds(pid)
    while time.monotonic() < end:
        time.sleep(quiet)
        now = cpu_seconds(pid)
        if now - before < 0.25 * quiet:
            return
        before = now
