"""``bench step``: a whole training step against torchvision's."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from shufflenet_fn.bench.contenders import OURS, PEERS, build_step
from shufflenet_fn.bench.ratios import interval, paired_ratios
from shufflenet_fn.bench.settings import StepBenchSettings
from shufflenet_fn.bench.turns import peak_memory, take_turns
from shufflenet_fn.model.config import canonical_name
from shufflenet_fn.run.directory import environment
from shufflenet_fn.run.options import declared
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes.cpu import usable_cores


def run_step_bench(
    settings: StepBenchSettings, *, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure and return the JSON object of ``bench step --json``.

    ``ours_img_s`` and ``peers`` are medians over rounds in images per second. ``ratios`` are medians of the
    rounds' ratios ours ÷ peer in speed, ``ratio_intervals`` their 90 % bootstrap intervals, and
    ``ratio_best_peer`` the one to the fastest peer. Peak memory is that of the process, see ``peak_memory``.
    """
    for item in declared(StepBenchSettings):
        item.option.check(item.name, getattr(settings, item.name))
    settings = replace(settings, arch=canonical_name(settings.arch))
    backend = select_backend(settings.backend, "cpu")
    progress(backend.reason)
    threads = settings.threads or usable_cores()
    names = [OURS, *PEERS]
    seconds = take_turns(
        names,
        build_step,
        settings,
        threads=threads,
        rounds=settings.rounds,
        steps=settings.steps,
        progress=progress,
    )
    images = settings.batch_size * settings.steps
    columns = list(zip(*seconds, strict=True))
    rates = [images / statistics.median(column) for column in columns]
    peers = dict(zip(names[1:], rates[1:], strict=True))
    ratios = {
        name: paired_ratios(columns[0], column)
        for name, column in zip(names[1:], columns[1:], strict=True)
    }
    best = max(peers, key=lambda name: peers[name])
    progress("peak memory of each contender, in a fresh process")
    peaks = dict(zip(names, peak_memory(names, build_step, settings, threads=threads), strict=True))
    return {
        "arch": settings.arch,
        "image_size": settings.image_size,
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "backend": backend.backend.name,
        "threads": threads,
        "rounds": settings.rounds,
        "torch": torch.__version__,
        "environment": environment(),
        "ours_img_s": rates[0],
        "peers": peers,
        "ratios": {name: statistics.median(values) for name, values in ratios.items()},
        "ratio_intervals": {name: interval(values) for name, values in ratios.items()},
        "best_peer": best,
        "ratio_best_peer": statistics.median(ratios[best]),
        "ours_peak_bytes": peaks[OURS],
        "peer_peak_bytes": {name: peaks[name] for name in peers},
        "memory_ratio_best_peer": peaks[OURS] / peaks[best],
    }
