"""The CPU: any number of processes share its cores."""

from __future__ import annotations

import os
import resource
import sys

import torch

from shufflenet_fn_backends.runtimes.base import Runtime


def usable_cores() -> int:
    """Cores that this process may run on (affinity and cpusets respected)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def runtime() -> Runtime:
    return Runtime(
        name="cpu",
        dist_backend="gloo",
        memory_format=torch.channels_last,
        device_count=usable_cores,
        set_device=lambda index: None,
        synchronize=lambda: None,
        memory_peak=_peak_resident_set,
    )


def _peak_resident_set() -> int:
    # Kilobytes on Linux, bytes on macOS (getrusage(2) of each).
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
