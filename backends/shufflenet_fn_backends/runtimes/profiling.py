"""Profiles by torch's own profiler, for devices that it supports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from shufflenet_fn_backends.runtimes.base import Profiler, Profiling, Window


def torch_profiling(activities: Sequence[ProfilerActivity]) -> Profiling:
    """Return a ``torch.profiler`` for ``activities``. It writes a Chrome or TensorBoard trace per process."""

    @contextmanager
    def profiling(folder: Path, name: str, window: Window) -> Iterator[Profiler]:
        with torch.profiler.profile(
            activities=list(activities),
            schedule=torch.profiler.schedule(
                skip_first=window.skip,
                wait=0,
                warmup=window.warm_up,
                active=window.record,
                repeat=1,
            ),
            on_trace_ready=torch.profiler.tensorboard_trace_handler(str(folder), name),
            record_shapes=True,
        ) as profiler:
            yield profiler

    return profiling
