"""How much memory a step takes, read off the resident set of a process of its own.

glibc keeps freed memory for later unless told otherwise, so the resident set of an ordinary process says
little about what is alive in it. ``LIVE`` makes it follow: blocks of 64 KiB and more come from the kernel
one by one and go back when they are freed.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

ALLOCATORS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "default": MappingProxyType({}),
        # No block is mapped, the heap is never trimmed: whatever was freed is there for the next step.
        "keep": MappingProxyType(
            {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)},
        ),
    }
)
"""Environments of the candidates' processes, by the name of ``--allocator`` (glibc)."""

LIVE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "MALLOC_MMAP_THRESHOLD_": str(2**16),
        "MALLOC_TRIM_THRESHOLD_": str(2**16),
        "MALLOC_TOP_PAD_": "0",
    }
)
"""The environment of a process whose memory is measured."""

METHOD: Final = (
    "resident set: its peak during a step (VmHWM, reset through /proc/self/clear_refs) minus its size "
    "between two steps; blocks of 64 KiB and more go back to the kernel when freed"
)
NO_METHOD: Final = (
    "not measured: this system cannot reset a process's peak resident set (/proc/self/clear_refs)"
)


class Memory(NamedTuple):
    """In bytes. ``peak``: resident at most during a step, or since the start of the process where that
    cannot be told. ``activation``: ``peak`` minus what was resident before the step, or ``None`` there.
    """

    peak: int
    activation: int | None


def measure_memory(step: Callable[[], object], *, steps: int) -> Memory:
    """The memory of ``steps`` steps in this process; one should have been taken before."""
    gc.collect()
    rest = _status("VmRSS")
    can_reset = _reset_peak()
    for _ in range(steps):
        step()
    peak = _status("VmHWM")
    if peak is None or rest is None or not can_reset:
        return Memory(peak or _peak_since_start(), None)
    return Memory(peak, peak - rest)


def _reset_peak() -> bool:
    # proc(5): writing 5 sets the peak resident set to the present one. A read-only /proc refuses.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def _peak_since_start() -> int:
    # Kilobytes on Linux, bytes on macOS (getrusage(2) of each).
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
