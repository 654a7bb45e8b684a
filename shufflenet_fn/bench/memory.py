"""Memory of a step, measured as the resident set of a separate process.

By default, glibc keeps freed memory, so the resident set is larger than the memory in use. With the settings
``LIVE`` it follows the memory in use: glibc maps each block of 64 KiB or more separately and returns it to
the kernel when it is freed.
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
        # No block is mapped and the heap is never trimmed, so freed memory is available for the next step.
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
    """Memory of a step in bytes.

    ``peak``: largest resident set during the step, or since the start of the process on systems that cannot
    reset it. ``activation``: ``peak`` minus the resident set before the step; ``None`` on such systems.
    """

    peak: int
    activation: int | None


def measure_memory(step: Callable[[], object], *, steps: int) -> Memory:
    """Measure the memory of ``steps`` steps in this process. Take at least one step before."""
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
    # proc(5): writing 5 resets the peak resident set to the current one. It fails if /proc is read-only.
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
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS (getrusage(2)).
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
