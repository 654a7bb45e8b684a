"""What a run writes for people and programs: facts at its start, its logs, and results at its end."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import torch

from shufflenet_fn.config.derived import microbatches_of, precision_name
from shufflenet_fn.config.options import declared
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.bad_images import BadImages
from shufflenet_fn.data.paths import printable
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.io import replace_file, to_json
from shufflenet_fn.model.count import count_macs, count_params
from shufflenet_fn.run.bottleneck import mean_bottleneck
from shufflenet_fn.run.directory import LOG, METRICS, RESULTS
from shufflenet_fn.run.events import (
    CheckpointSaved,
    EpochTrained,
    Evaluated,
    Event,
    LineReporter,
    RunFinished,
    RunStarted,
    StepDone,
)
from shufflenet_fn.streams import escaping

if TYPE_CHECKING:
    from shufflenet_fn.run.saving import Costs
    from shufflenet_fn.run.training import Training

_NAMED = 5
"""Bad images that a warning names."""


def run_facts(run: Training) -> list[tuple[str, str]]:
    """Return the labels and values that a user wants to check before a long run."""
    plan, settings, config = run.plan, run.plan.settings, run.config
    microbatches = microbatches_of(settings, plan.world_size)
    macs = count_macs(config, height=settings.image_size, width=settings.image_size)
    return [
        ("run directory", printable(plan.run_dir)),
        (
            "model",
            f"{settings.arch}, {config.num_classes} classes, {count_params(config):,} parameters, "
            f"{macs / 1e6:.1f} M multiply-accumulates at {settings.image_size}²",
        ),
        ("data", f"{printable(str(settings.data))}, {len(run.train_set):,} training images"),
        ("devices", f"{plan.world_size} × {plan.device}, {run.threads} loader threads each"),
        (
            "batch",
            f"{run.global_batch} images per update in {microbatches} microbatches of "
            f"{run.global_batch // microbatches}, {microbatches // plan.world_size} per device",
        ),
        ("precision", precision_name(settings)),
        *_settings_by_origin(settings, plan.resolved.origin),
    ]


def _settings_by_origin(settings: TrainSettings, origins: dict[str, str]) -> list[tuple[str, str]]:
    groups: dict[str, list[str]] = {}
    for item in declared(TrainSettings):
        origin = origins.get(item.name, "default")
        groups.setdefault(origin, []).append(f"{item.name}={getattr(settings, item.name)}")
    defaults = groups.pop("default", [])
    named = [(f"from {origin}", " ".join(values)) for origin, values in groups.items()]
    return [*named, ("defaults", " ".join(defaults))]


# ------------------------------------------------------------------------------------------- the logs


class RankLog(LineReporter):
    """The log of a rank: what it ran on, what was said, and how it ended."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._log = _appended(path)

    def note(self, text: str) -> None:
        print(text, file=self._log)

    def warning(self, text: str) -> None:
        print(f"warning: {text}", file=self._log)

    def close(self) -> None:
        self._log.close()


class RunFiles(RankLog):
    """Appends every event to ``log.txt`` (for people) and ``metrics.jsonl`` (for programs).

    One JSON object per line; ``kind`` is ``start``, ``train``, ``epoch``, ``eval``, ``checkpoint`` or
    ``end``, and ``time`` seconds since the epoch.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir / LOG)
        self._metrics = _appended(run_dir / METRICS)

    def event(self, event: Event) -> None:
        super().event(event)
        record = {"kind": _KINDS[type(event)], "time": time.time(), **_plain(event)}
        print(to_json(record), file=self._metrics)

    def close(self) -> None:
        try:
            super().close()
        finally:  # on a full disk closing the first one fails
            self._metrics.close()


def _appended(path: Path) -> TextIO:
    return open(path, "a", buffering=1, encoding="utf-8", errors=escaping())


_KINDS: dict[type, str] = {
    RunStarted: "start",
    StepDone: "train",
    EpochTrained: "epoch",
    Evaluated: "eval",
    CheckpointSaved: "checkpoint",
    RunFinished: "end",
}


def _plain(event: Any) -> dict[str, Any]:
    return {
        name: _plain(value) if hasattr(value, "_asdict") else value for name, value in event._asdict().items()
    }


def replaced_line(bad: BadImages | None, n: int, run_dir: Path, world: World) -> str | None:
    """Return a line on how many of ``n`` training images all ranks have replaced so far; ``None`` if none.

    A collective if ``bad`` is not ``None``: all ranks must call it.
    """
    count = len(bad_names(bad, world))
    if not count:
        return None
    return (
        f"{count} of {n:,} training images are bad and were replaced by others so far; they are named in "
        f"{run_dir}/bad_images*.jsonl"
    )


def left_out_line(n: int, num_images: int, names: Sequence[str] = ()) -> str | None:
    """Return a line on how many of ``n`` images an evaluation left out; ``None`` if none.

    ``names``: their names, of which the first few are shown; empty if they are reported elsewhere.
    """
    if num_images == n:
        return None
    line = (
        f"{n - num_images} of {n:,} images to evaluate are bad and were left out: the scores are over "
        f"{num_images:,} images"
    )
    if not names:
        return line
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{line}. They are: {', '.join(names[:_NAMED])}{rest}"


def bad_names(bad: BadImages | None, world: World) -> tuple[str, ...]:
    """Return the names of the bad images that any rank has met, in their split's order.

    A collective if ``bad`` is not ``None``: all ranks must call it.
    """
    if bad is None:
        return ()
    names: dict[int, str] = {}
    for share in gather({sample.index: sample.name for sample in bad.met}, world):
        names |= share
    return tuple(names[index] for index in sorted(names))


# ----------------------------------------------------------------------------------------- the results


class Results(NamedTuple):
    """``results.json``. Accuracies in percent over exactly ``num_images`` images.

    ``accuracy1`` is that of the last evaluation, not of the best: ``best_accuracy1`` is picked on the
    validation set and so flattered. ``best_epoch`` counts from 1. Memory is rank 0's: what tensors took at
    most, what the allocator holds at the end, and what the device has. ``step_seconds`` is rank 0's mean
    ``StepTimes`` and ``verdict`` a ``Bottleneck``, both ``None`` for a run of 10 steps or fewer.
    ``checkpoints``: how many this start wrote and what they cost, a ``Costs``.
    """

    name: str
    arch: str
    accuracy1: float
    accuracy5: float
    loss: float
    num_images: int
    best_accuracy1: float
    best_epoch: int
    fps: float | None
    epochs: int
    steps: int
    precision: str
    torch_version: str
    seconds: float
    memory_peak_bytes: int
    memory_reserved_bytes: int
    memory_total_bytes: int
    step_seconds: dict[str, float] | None
    verdict: dict[str, Any] | None
    checkpoints: dict[str, float]

    @property
    def table(self) -> str:
        """The original's results table with one row."""
        fps = "-" if self.fps is None else f"{self.fps:.3f}"
        return (
            "| NAME | Acc@1 | FPS | Epochs | AMP_Type | Torch_version |\n"
            "| ---- | ----- | --- | ------ | -------- | ------------- |\n"
            f"| {self.name} | {self.accuracy1:.3f} | {fps} | {self.epochs} "
            f"| {self.precision} | {self.torch_version} |"
        )


def finish(run: Training, fps: list[float], started: float, costs: Costs) -> dict[str, Any]:
    """Write and report the results of a run that has come to its end; return them.

    ``fps``: images per second of each epoch of this start, which began at ``started`` (``time.time``).
    """
    assert run.last is not None
    steps = int(run.state.step)
    if run.world.is_main and not costs.written:
        # Such a start has trained nothing, and would put its own lack of speed in place of the run's.
        kept = _kept_results(run.plan.run_dir, steps)
        if kept is not None:
            run.reporter.note(_nothing_left(run, steps))
            run.reporter.event(RunFinished(kept._asdict(), kept.table))
            return kept._asdict()
    memory, bottleneck = run.runtime.memory(), mean_bottleneck(run)
    results = Results(
        name=f"{run.world.size}p-{run.plan.device.upper()}",
        arch=run.plan.settings.arch,
        **run.last._asdict(),
        best_accuracy1=run.best.accuracy1 if run.best else run.last.accuracy1,
        best_epoch=run.best.epoch + 1 if run.best else 0,
        fps=sum(fps) / len(fps) if fps else None,
        epochs=run.plan.settings.epochs,
        steps=steps,
        precision=precision_name(run.plan.settings),
        torch_version=torch.__version__,
        seconds=time.time() - started,
        memory_peak_bytes=memory.peak,
        memory_reserved_bytes=memory.reserved,
        memory_total_bytes=memory.total,
        step_seconds=run.waits.mean_times._asdict() if bottleneck else None,
        verdict=bottleneck._asdict() if bottleneck else None,
        checkpoints=costs._asdict(),
    )
    if run.world.is_main:
        for note in _write_results(run.plan.run_dir, results):
            run.reporter.note(note)
        run.reporter.event(RunFinished(results._asdict(), results.table))
    return results._asdict()


def _kept_results(run_dir: Path, steps: int) -> Results | None:
    """Return the results of a run that has ended after ``steps`` updates; ``None`` if there are none."""
    try:
        results = Results(**json.loads((run_dir / RESULTS).read_text()))
    except (OSError, ValueError, TypeError):  # none, or of another version
        return None
    return results if results.steps == steps else None


def _nothing_left(run: Training, steps: int) -> str:
    settings, (epochs, _) = run.plan.settings, run.epochs.place(steps)
    if epochs < settings.epochs:
        why = f"--max-steps is {settings.max_steps}. To train on, leave it out or give a higher one"
    else:
        why = f"--epochs is {settings.epochs}. To train on, resume with --epochs {epochs + 1} or more"
    return f"{steps} updates are done and their results are there: nothing is left to do, as {why}."


def _write_results(run_dir: Path, results: Results) -> list[str]:
    """Write the files; returns notes on what was not written."""
    notes = []
    (run_dir / "results.md").write_text(f"{results.table}\n", encoding="utf-8", errors=escaping())
    if importlib.util.find_spec("matplotlib") is None:
        notes.append(
            "curves.png was not drawn: matplotlib is not installed (pip install 'shufflenet-fn[report]')"
        )
    else:
        _draw_curves(run_dir)
    # Last, and whole or not at all: a run that has it has come to where it was to go.
    replace_file(run_dir / RESULTS, f"{to_json(results._asdict(), indent=2)}\n".encode())
    return notes


def _draw_curves(run_dir: Path) -> None:
    """Draw loss and accuracy over epochs, from ``metrics.jsonl``."""
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in (run_dir / METRICS).read_text().splitlines()]
    curves = {"training": [r for r in records if r["kind"] == "epoch"]}
    for record in records:
        if record["kind"] == "eval":
            name = "validation" if record["weights"] == "raw" else f"validation, {record['weights']} weights"
            curves.setdefault(name, []).append(record)
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, key, label in ((loss_axes, "loss", "loss"), (accuracy_axes, "accuracy1", "top-1 accuracy (%)")):
        for name, points in curves.items():
            # An epoch cut short by a crash is there twice: the last counts.
            by_epoch = {r["epoch"] + 1: r[key] for r in points}
            axes.plot(list(by_epoch), list(by_epoch.values()), marker=".", label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(run_dir / "curves.png", dpi=120)
