"""``bench step``: a whole training step, compared with a peer's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shufflenet_fn.bench.device_step import check_device_settings, run_device_case
from shufflenet_fn.bench.peers import OURS, OURS_COMPILED, available, torchvision_models
from shufflenet_fn.bench.rounds import Progress, against_peers, ratio, reported, run_rounds, silent
from shufflenet_fn.bench.settings import StepBenchSettings, architectures, counts
from shufflenet_fn.bench.step_candidates import PEERS, build_step
from shufflenet_fn.bench.workers import (
    ALLOCATORS,
    LIVE,
    METHOD,
    NO_METHOD,
    Memory,
    measure_memory,
    timed,
    workers,
)
from shufflenet_fn.config.options import check_options
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.select import select_runtime
from shufflenet_fn_backends.support.errors import UsageError


def run_step_bench(settings: StepBenchSettings, *, progress: Progress = silent) -> dict[str, Any]:
    """Measure and return the JSON object of ``bench step --json``.

    With several architectures or batch sizes it is ``{"results": [...]}``, with an object for each. On a CPU,
    an object has

    * ``ours_img_s`` and ``peers``: images per second, medians over rounds;
    * ``ratios``: speed of ours relative to each peer, medians over rounds, with their 90 % bootstrap
      intervals ``ratio_intervals``; ``ratio_best_peer``: the ratio to the fastest peer;
    * ``conclusive``: whether the interval of ``ratio_best_peer`` is within ±4 % of it; if not, ``advice``
      says what to do;
    * ``ours_compiled``: the same for our step under ``torch.compile``, or ``null``; ``speedup``: its speed
      relative to our step without;
    * ``ours_peak_bytes`` and ``peer_peak_bytes``: largest resident set of the process during a step;
    * ``activation_bytes``: additional memory during a step, by candidate (``bench.workers``), and
      ``activation_ratios``, ours ÷ peer; ``null`` if it cannot be measured, see ``activation_method``;
    * ``left_out``: peers that were not measured, with the reasons.

    On other devices, it has

    * the case: ``device``, ``chip``, ``emulated``, ``versions``, ``arch``, ``precision``, ``batch_per_card``,
      ``image_size``; and ``warning``, set if the times are not meaningful;
    * ``contenders``: for each candidate, in medians over rounds, ``img_s``, ``step_ms`` from one
      synchronisation to the next, ``host_ms`` until all launches returned, ``device_ms`` between events on
      the device, and ``ratio``, the speed relative to ``baseline`` (the best peer), with its interval;
    * ``fastest``: the fastest of our variants; ``fastest_over_next``: its ratio to the next; ``conclusive``
      and ``advice`` on the ratio of the fastest;
    * ``kernels`` with ``--profile``, by candidate (``kernel_table``); ``kept``, the file of ``--keep``;
    * ``left_out``: candidates that were not measured or failed, with the reasons.

    Raises:
        UsageError: a setting is not allowed, or torchvision is missing.
        DeviceError: the device is not available.
        UserError: none of our variants can be measured there.
    """
    check_options(settings)
    archs = architectures(settings.arch)
    batches = counts("--batch-size", settings.batch_size, minimum=2)
    runtime, reason = select_runtime(settings.device)
    settings = replace(settings, device=runtime.name)
    if runtime.name == "cpu":
        _check_cpu(settings)
    else:
        progress(reason)
        check_device_settings(settings, runtime)
    results = []
    for arch in archs:
        for batch in batches:
            progress(f"{arch}, batch {batch}")
            one = replace(settings, arch=arch, batch_size=str(batch))
            results.append(
                _one(one, progress) if runtime.name == "cpu" else run_device_case(one, runtime, progress)
            )
    return results[0] if len(results) == 1 else {"results": results}


def _check_cpu(settings: StepBenchSettings) -> None:
    torchvision_models("bench step")
    for given, flag in ((settings.keep, "--keep"), (settings.profile, "--profile")):
        if given:
            raise UsageError(
                f"{flag} is for --device cuda and npu: on a CPU one backend is measured, the one that auto "
                "takes there anyway. Leave it out."
            )
    if settings.precision not in ("fp32", "bf16"):
        raise UsageError(
            f"--precision {settings.precision} is not measured on a CPU. Choose one of: fp32, bf16."
        )
    select_backend(settings.backend, "cpu", compiled=settings.ours_compile)  # raises if it cannot be used


def _one(settings: StepBenchSettings, progress: Progress) -> dict[str, Any]:
    backend = select_backend(settings.backend, "cpu")
    progress(backend.reason)
    threads = settings.threads or usable_cores()
    field = available(PEERS, compiled=settings.compile)
    for warning in field.warnings():
        progress(warning)
    names = [OURS, *([OURS_COMPILED] if settings.ours_compile else []), *field.present]
    environment = ALLOCATORS[settings.allocator]
    with workers(names, build_step, settings, threads=threads, environment=environment) as candidates:
        progress("building and warming up (a compiled candidate takes a minute)")
        seconds = run_rounds(candidates, rounds=settings.rounds, steps=settings.steps or 1, progress=progress)
    rates = {name: int(settings.batch_size) / statistics.median(column) for name, column in seconds.items()}
    peers = {name: seconds[name] for name in field.present}
    compared = against_peers(seconds[OURS], peers, settings.rounds)
    best = compared["best_peer"]
    return {
        **reported(settings, "arch", "image_size", "precision", "allocator", "rounds"),
        "batch_size": int(settings.batch_size),
        "backend": backend.backend.name,
        "threads": threads,
        "ours_img_s": rates[OURS],
        "peers": {name: rates[name] for name in field.present},
        "left_out": field.left_out,
        **compared,
        "ours_compiled": _compiled(settings, seconds, rates, best),
        **_memory(settings, names, threads, best, progress),
    }


def _compiled(
    settings: StepBenchSettings, seconds: Mapping[str, list[float]], rates: Mapping[str, float], best: str
) -> dict[str, Any] | None:
    if OURS_COMPILED not in seconds:
        return None
    speedup = ratio(seconds[OURS_COMPILED], seconds[OURS])
    return {
        "backend": select_backend(settings.backend, "cpu", compiled=True).backend.name,
        "img_s": rates[OURS_COMPILED],
        "speedup": speedup.median,
        "speedup_interval": (speedup.low, speedup.high),
        "ratio_best_peer": ratio(seconds[OURS_COMPILED], seconds[best]).median,
    }


def _memory(
    settings: StepBenchSettings, names: list[str], threads: int, best: str, progress: Progress
) -> dict[str, Any]:
    """Measure peak and activation memory of each candidate, alone in a new process."""
    progress("memory of each candidate, in a fresh process")
    found: dict[str, Memory] = {}
    for name in names:
        with workers([name], build_step, settings, threads=threads, environment=LIVE) as alone:
            alone[0].ask(timed, "", 2, "cpu")  # warms up
            found[name] = alone[0].ask(measure_memory, "", 2)
    peers = [name for name in names if name in PEERS]
    ours, activations = found[OURS], {name: memory.activation for name, memory in found.items()}
    ratios = {name: _quotient(ours.activation, activations[name]) for name in peers}
    return {
        "ours_peak_bytes": ours.peak,
        "peer_peak_bytes": {name: found[name].peak for name in peers},
        "memory_ratio_best_peer": ours.peak / found[best].peak,
        "activation_bytes": activations,
        "activation_ratios": ratios,
        "activation_ratio_best_peer": ratios[best],
        "activation_method": NO_METHOD if ours.activation is None else METHOD,
    }


def _quotient(ours: int | None, theirs: int | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
