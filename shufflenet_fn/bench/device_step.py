"""``bench step`` on a GPU or an NPU: all backends of the device, compared with the peer."""

from __future__ import annotations

import csv
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from shufflenet_fn.bench.peers import EMULATED
from shufflenet_fn.bench.rounds import Progress, in_rounds, ratio, ratio_fields, ratio_report
from shufflenet_fn.bench.settings import StepBenchSettings
from shufflenet_fn.bench.step_candidates import VARIANTS, build_candidate, ours_on, peers_on
from shufflenet_fn.bench.workers import Step, Worker, prepared, workers
from shufflenet_fn.run.backend_choice import Kept, keep, step_case
from shufflenet_fn.run.directory import environment
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn_backends.names import STATS_IN_STEP
from shufflenet_fn_backends.runtimes.base import Runtime, Window
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.support.errors import UsageError, UserError

STEPS_PER_SYNC: Final = 20
NO_TABLE: Final = "the profiler left no table of kernels; the emulator records none"
_WINDOW: Final = Window(skip=0, warm_up=1, record=3)


class Turn(NamedTuple):
    """Mean seconds per step of one turn.

    ``step``: between the synchronisations before and after the turn. ``host``: until the last launch
    returned. ``device``: between events in the device's stream around all steps; ``None`` on a CPU, which has
    no events.
    """

    step: float
    host: float
    device: float | None


Turns = Mapping[str, Sequence[Turn]]
TakeTurn = Callable[[str], Turn]


def check_device_settings(settings: StepBenchSettings, runtime: Runtime) -> None:
    """Raise ``UsageError`` unless the device and its candidates support the settings."""
    ours_on(runtime.name, settings)
    runtime.check_dtypes(get_policy(settings.precision).dtypes, f"--precision {settings.precision}")
    if settings.keep and settings.backend != "auto":
        raise UsageError(
            f"--keep needs every backend of the device measured, not --backend {settings.backend} alone. "
            "Leave out one of the two."
        )


def run_device_case(settings: StepBenchSettings, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Measure one architecture with one batch size. Return the object that ``run_step_bench`` describes.

    All candidates run in one process, because they share the device's memory, and take turns.

    Raises:
        UsageError: as ``ours_on`` and ``peers_on``.
        UserError: none of ours could be measured; the result cannot be kept.
    """
    settings = replace(settings, steps=settings.steps or STEPS_PER_SYNC)
    case = step_case(
        runtime,
        arch=settings.arch,
        precision=settings.precision,
        batch_per_card=int(settings.batch_size),
        image_size=settings.image_size,
    )
    if case.emulated:
        progress(f"WARNING: {EMULATED}")
    wanted, field = ours_on(runtime.name, settings), peers_on(runtime.name, settings)
    for warning in field.warnings():
        progress(warning)
    threads = settings.threads or usable_cores()
    with workers([runtime.name], build_device_step, settings, threads=threads) as (worker,):

        def turn(name: str) -> Turn:
            return worker.ask(take_turn, name, settings.steps, runtime.name)

        failed = _warmed_up(turn, (*wanted, *field.present), progress)
        ours, peers = ([name for name in names if name not in failed] for names in (wanted, field.present))
        if not ours:
            raise UserError(f"no step of ours can be measured: {failed[wanted[0]]}")
        turns = _turns(turn, [*ours, *peers], settings.rounds, progress)
        kernels = _kernels(worker, [*ours, *peers], settings, progress) if settings.profile else None
    result = {
        **case._asdict(),
        "batch_size": case.batch_per_card,
        "warning": EMULATED if case.emulated else None,
        "steps_per_sync": settings.steps,
        "threads": threads,
        "rounds": settings.rounds,
        "environment": environment(),
        "left_out": {**field.left_out, **failed},
        **compared(turns, ours, peers, settings),
        "kernels": kernels,
    }
    kept_in = keep(case, _kept(result)) if settings.keep else None
    return {**result, "kept": None if kept_in is None else str(kept_in)}


def compared(
    turns: Turns, ours: Sequence[str], peers: Sequence[str], settings: StepBenchSettings
) -> dict[str, Any]:
    """Return the times of all candidates, and their speed relative to the best peer or our first variant."""
    steps = {name: [turn.step for turn in column] for name, column in turns.items()}
    medians = {name: statistics.median(column) for name, column in steps.items()}
    by_time = sorted(ours, key=lambda name: medians[name])
    best_peer = min(peers, key=lambda name: medians[name]) if peers else None
    baseline = best_peer or ours[0]
    ratios = {name: ratio(column, steps[baseline]) for name, column in steps.items() if name != baseline}
    fastest = by_time[0]
    against = ratios.get(fastest)
    return {
        "baseline": baseline,
        "contenders": {
            name: {
                "ours": name in ours,
                "img_s": int(settings.batch_size) / medians[name],
                "step_ms": 1000 * medians[name],
                "host_ms": 1000 * statistics.median(turn.host for turn in column),
                "device_ms": _median_ms([turn.device for turn in column]),
                **ratio_fields(ratios.get(name)),
            }
            for name, column in turns.items()
        },
        "best_peer": best_peer,
        "fastest": fastest,
        "fastest_over_next": None
        if len(by_time) == 1
        else {"next": by_time[1], **ratio_fields(ratio(steps[fastest], steps[by_time[1]]))},
        "ratio_best_peer": against.median if against is not None and best_peer else None,
        **(ratio_report(against, settings.rounds) if against else {"conclusive": None, "advice": None}),
    }


def _warmed_up(turn: TakeTurn, names: Sequence[str], progress: Progress) -> dict[str, str]:
    """Build each candidate and take a turn that does not count. Return the failed ones with the reasons."""
    failed: dict[str, str] = {}
    for name in names:
        progress(f"building and warming up {name}")
        try:
            turn(name)
        except UserError as error:
            failed[name] = str(error)
            progress(f"WARNING: not measured: {name} ({error})")
    return failed


def _turns(turn: TakeTurn, names: Sequence[str], rounds: int, progress: Progress) -> Turns:
    def explained(name: str) -> Turn:
        try:
            return turn(name)
        except UserError as error:
            raise UserError(
                f"{name} took a step and failed in a later one: {error} If memory ran out, give a "
                "smaller --batch-size, or name fewer candidates with --backend."
            ) from error

    return in_rounds(names, explained, rounds, lambda turn: f"{1000 * turn.step:.4g} ms", progress)


def _kernels(
    worker: Worker, names: Sequence[str], settings: StepBenchSettings, progress: Progress
) -> dict[str, Any]:
    """Return the table of kernels of each candidate, or the reason why there is none."""
    found: dict[str, Any] = {}
    for name in names:
        progress(f"profiling {name}")
        words = (settings.arch, settings.precision, settings.batch_size, name)
        folder = Path(str(settings.profile)) / "-".join(words).replace(" ", "-").replace("'", "")
        worker.ask(profile, name, folder, settings.device)
        table = kernel_table(folder, _WINDOW.record)
        found[name] = {"folder": str(folder), **(table or {"missing": NO_TABLE})}
    return found


def _kept(result: Mapping[str, Any]) -> Kept:
    """Return the result for later runs: the fastest of our variants that are not compiled."""
    times = {
        name: candidate["step_ms"] for name, candidate in result["contenders"].items() if name in VARIANTS
    }
    if not times:
        raise UserError("nothing to keep: no step of ours without torch.compile was measured.")
    fastest = min(times, key=lambda name: times[name])
    return Kept(fastest, fastest.removesuffix(STATS_IN_STEP), times)


def _median_ms(seconds: Sequence[float | None]) -> float | None:
    present = [value for value in seconds if value is not None]
    return 1000 * statistics.median(present) if present else None


def build_device_step(device: str, name: str, settings: StepBenchSettings) -> Step:
    """Build a candidate (``workers.Build``). The case is its name."""
    return build_candidate(name, settings, prepared(settings.device))


def take_turn(step: Step, steps: int, device: str) -> Turn:
    """Take ``steps`` steps, with one synchronisation before and one after them."""
    runtime = runtime_of(device)
    runtime.synchronize()
    start = time.perf_counter()
    begin = _event(runtime)
    for _ in range(steps):
        step()
    end = _event(runtime)
    host = time.perf_counter() - start
    runtime.synchronize()
    whole = time.perf_counter() - start
    on_device = begin.elapsed_time(end) / 1000 / steps if begin is not None else None
    return Turn(whole / steps, host / steps, on_device)


def profile(step: Step, folder: Path, device: str) -> None:
    """Profile a few steps into ``folder``."""
    runtime = runtime_of(device)
    folder.mkdir(parents=True, exist_ok=True)
    step()
    runtime.synchronize()
    with runtime.profiler(folder, "step", _WINDOW) as profiler:
        for _ in range(_WINDOW.length):
            step()
            # Otherwise kernels of the warm-up would run, and count, in the recorded steps.
            runtime.synchronize()
            profiler.step()


def _event(runtime: Runtime) -> Any:
    """Record a timed event in the current stream and return it, or ``None`` on a CPU."""
    if runtime.name == "cpu":
        return None
    event = torch.get_device_module(runtime.name).Event(enable_timing=True)
    event.record()
    return event


SHARES: Final[Mapping[str, re.Pattern[str]]] = {
    "TransData": re.compile(r"TransData|.*(nchwToNhwc|nhwcToNchw)"),
    "Slice": re.compile(r"(Strided)?Slice(D|V\d)?$|AsStrided"),
    "Fill": re.compile(r"Fill(D|s|V\d)?$|.*FillFunctor|Memset"),
}
"""Kernels that only rearrange or fill memory: name of a share, and pattern for the start of their types.

Slices and AsStrided make a non-contiguous argument contiguous. The last alternative of a pattern matches
CUDA's kernels.
"""

_ON_GPU: Final = ("kernel", "gpu_memcpy", "gpu_memset")
_TOP: Final = 8
_LONGEST_NAME: Final = 80


def kernel_table(folder: Path, steps: int) -> dict[str, Any] | None:
    """Summarise the kernels of a profile of ``steps`` steps; ``None`` if ``folder`` has no table of kernels.

    ``launches`` and ``device_ms`` are per step. ``shares`` are shares of that time, by name (``SHARES``).
    ``top`` lists the types with the longest time, each with its launches per step and its share.
    """
    found: dict[str, list[float]] = {}
    for name, us in _read_kernels(folder):
        found.setdefault(name, []).append(us)
    if not found:
        return None
    times = {name: sum(durations) for name, durations in found.items()}
    total = sum(times.values()) or 1.0
    return {
        "launches": sum(map(len, found.values())) / steps,
        "device_ms": sum(times.values()) / steps / 1000,
        "shares": {
            share: sum(us for name, us in times.items() if pattern.match(name)) / total
            for share, pattern in SHARES.items()
        },
        "top": [
            {"type": name[:_LONGEST_NAME], "launches": len(found[name]) / steps, "share": times[name] / total}
            for name in sorted(times, key=lambda name: -times[name])[:_TOP]
        ],
    }


def _read_kernels(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the type of each kernel (on a GPU, its name) and its time in microseconds."""
    for path in sorted(folder.rglob("kernel_details.csv")):
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                # A number may end with a tab, which makes spreadsheets treat it as text.
                try:
                    duration = float(row["Duration(us)"].strip())
                except ValueError:  # N/A: no time on the device
                    continue
                yield row["Type"].strip(), duration
    for path in sorted(folder.rglob("*.pt.trace.json")):
        for event in json.loads(path.read_text(encoding="utf-8")).get("traceEvents", []):
            if event.get("cat") in _ON_GPU and "dur" in event:
                yield str(event["name"]), float(event["dur"])
