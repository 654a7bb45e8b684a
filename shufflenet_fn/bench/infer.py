"""``bench infer``: logits of a batch, ours against torchvision's model in every way of running it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from shufflenet_fn.bench.contenders import (
    ONNX,
    OURS,
    Field,
    announced,
    available,
    torchvision_models,
)
from shufflenet_fn.bench.infer_contenders import PEERS, InferCase, build_pass, onnx_is_missing
from shufflenet_fn.bench.memory import ALLOCATORS
from shufflenet_fn.bench.ratios import advice, ratio
from shufflenet_fn.bench.settings import InferBenchSettings, check, counts
from shufflenet_fn.bench.turns import take_turns
from shufflenet_fn.bench.workers import workers
from shufflenet_fn.model.config import canonical_name
from shufflenet_fn.run.directory import environment
from shufflenet_fn_backends.registry import select_backend

Progress = Callable[[str], None]


def _silent(text: str) -> None:
    pass


def run_infer_bench(
    settings: InferBenchSettings, *, progress: Progress = _silent
) -> dict[str, Any]:
    """Measure and return the JSON object of ``bench infer --json``.

    ``cases`` holds an object for each batch size and number of threads:

    * ``ours_ms`` and ``peers_ms``: medians over rounds of the milliseconds of a pass;
    * ``ratios``, ``ratio_intervals``, ``best_peer``, ``ratio_best_peer``, ``conclusive`` and ``advice``: as
      of ``bench step``;
    * ``onnxruntime``: the same of ONNX Runtime on torchvision's export, which is shown beside the peers and
      never the best of them, or ``null``.

    ``left_out`` names the contenders that were not measured, and why.

    Raises:
        UsageError: a setting is not allowed, or torchvision is missing.
    """
    check(settings)
    settings = replace(settings, arch=canonical_name(settings.arch))
    batch_sizes = counts("--batch-size", settings.batch_size)
    threads = counts("--threads", settings.threads)
    torchvision_models("bench infer")
    backend = select_backend(settings.backend, "cpu")
    progress(backend.reason)
    field = _field(settings)
    for warning in announced(field):
        progress(warning)
    return {
        "arch": settings.arch,
        "image_size": settings.image_size,
        "precision": settings.precision,
        "backend": backend.backend.name,
        "allocator": settings.allocator,
        "rounds": settings.rounds,
        "turn_seconds": settings.turn_seconds,
        "torch": torch.__version__,
        "onnxruntime_version": None if ONNX in field.left_out else version(ONNX),
        "environment": environment(),
        "left_out": field.left_out,
        "cases": [
            _case(InferCase(settings, size, count), field, progress)
            for size in batch_sizes
            for count in threads
        ],
    }


def _field(settings: InferBenchSettings) -> Field:
    field = available(PEERS, compiled=settings.compile)
    if not settings.onnx:
        reason: str | None = "--no-onnx"
    elif settings.precision != "fp32":
        reason = f"--precision {settings.precision}"
    else:
        reason = onnx_is_missing()
    return field if reason is None else field._replace(left_out={**field.left_out, ONNX: reason})


def _case(chosen: InferCase, field: Field, progress: Progress) -> dict[str, Any]:
    settings = chosen.settings
    names = [OURS, *field.present, *([] if ONNX in field.left_out else [ONNX])]
    progress(f"batch {chosen.batch_size}, {chosen.threads} threads: building and warming up")
    started = dict(ALLOCATORS[settings.allocator])
    with workers(
        names, build_pass, chosen, threads=chosen.threads, environment=started
    ) as contenders:
        columns = take_turns(
            contenders,
            rounds=settings.rounds,
            turn_seconds=settings.turn_seconds,
            progress=progress,
        )
    seconds = dict(zip(names, columns, strict=True))
    ratios = {name: ratio(seconds[OURS], seconds[name]) for name in names[1:]}
    milliseconds = {name: 1000 * statistics.median(column) for name, column in seconds.items()}
    best = min(field.present, key=lambda name: milliseconds[name])
    return {
        "batch_size": chosen.batch_size,
        "threads": chosen.threads,
        "ours_ms": milliseconds[OURS],
        "peers_ms": {name: milliseconds[name] for name in field.present},
        "ratios": {name: ratios[name].median for name in field.present},
        "ratio_intervals": {name: (ratios[name].low, ratios[name].high) for name in field.present},
        "best_peer": best,
        "ratio_best_peer": ratios[best].median,
        "conclusive": ratios[best].conclusive,
        "advice": advice(ratios[best], settings.rounds),
        "onnxruntime": None
        if ONNX not in seconds
        else {
            "ms": milliseconds[ONNX],
            "ratio": ratios[ONNX].median,
            "ratio_interval": (ratios[ONNX].low, ratios[ONNX].high),
        },
    }
