"""What a run writes for people and programs: facts at its start, its logs, and results at its end."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from shufflenet_fn.config.derived import lanes_of, precision_name
from shufflenet_fn.config.options import declared
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import replace_file, to_json
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.count import count_macs, count_params
from shufflenet_fn.run.directory import LOG, METRICS, RESULTS
from shufflenet_fn.run.events import (
    CheckpointSaved,
    EpochTrained,
    Evaluated,
    Event,
    RunFinished,
    RunStarted,
    StepDone,
    event_lines,
)
from shufflenet_fn.run.plan import RunPlan
from shufflenet_fn.streams import escaping


def run_facts(
    plan: RunPlan, config: ShuffleNetConfig, global_batch: int, threads: int, train_images: int
) -> list[tuple[str, str]]:
    """Return label and value of what a user wants to see confirmed before a long run."""
    settings = plan.settings
    lanes = lanes_of(settings, plan.world_size)
    macs = count_macs(config, height=settings.image_size, width=settings.image_size)
    return [
        ("run directory", printable(plan.run_dir)),
        (
            "model",
            f"{settings.arch}, {config.num_classes} classes, {count_params(config):,} parameters, "
            f"{macs / 1e6:.1f} M multiply-accumulates at {settings.image_size}²",
        ),
        ("data", f"{printable(str(settings.data))}, {train_images:,} training images"),
        (
            "devices",
            f"{plan.world_size} × {plan.device}, {threads} loader threads each",
        ),
        (
            "batch",
            f"{global_batch} images per update in {lanes} lanes of {global_batch // lanes}, "
            f"{lanes // plan.world_size} per device",
        ),
        ("precision", precision_name(settings)),
        *_settings_by_origin(plan),
    ]


def _settings_by_origin(plan: RunPlan) -> list[tuple[str, str]]:
    groups: dict[str, list[str]] = {}
    for item in declared(TrainSettings):
        origin = plan.resolved.origin.get(item.name, "default")
        groups.setdefault(origin, []).append(f"{item.name}={getattr(plan.settings, item.name)}")
    return [
        (f"from {origin}", " ".join(values))
        for origin, values in groups.items()
        if origin != "default"
    ] + [("defaults", " ".join(groups.get("default", [])))]


class RankLog:
    """A rank's log file: what it ran on and how it ended. Lines are flushed as they are written."""

    def __init__(self, path: Path) -> None:
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
        self._device, self._steps_per_epoch = "cpu", 1

    def event(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._device, self._steps_per_epoch = event.device, event.steps_per_epoch
        for line in event_lines(event, device=self._device, steps_per_epoch=self._steps_per_epoch):
            self.note(line)
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
        name: _plain(value) if hasattr(value, "_asdict") else value
        for name, value in event._asdict().items()
    }


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


def write_results(run_dir: Path, results: Results) -> tuple[str, list[str]]:
    """Write the files; returns the table and notes on what was not written."""
    table, notes = results_table(results), []
    (run_dir / "results.md").write_text(table + "\n", encoding="utf-8", errors=escaping())
    if importlib.util.find_spec("matplotlib") is None:
        notes.append(
            "curves.png was not drawn: matplotlib is not installed "
            "(pip install 'shufflenet-fn[report]')"
        )
    else:
        draw_curves(run_dir)
    # Last, and whole or not at all: a run that has it has come to where it was to go.
    content = to_json(results._asdict(), indent=2) + "\n"
    replace_file(run_dir / RESULTS, content.encode())
    return table, notes


def kept_results(run_dir: Path, steps: int) -> Results | None:
    """Return the results of a run that has ended after ``steps`` updates; ``None`` if there are none."""
    try:
        results = Results(**json.loads((run_dir / RESULTS).read_text()))
    except (OSError, ValueError, TypeError):  # none, or of another version
        return None
    return results if results.steps == steps else None


def forget_results(run_dir: Path) -> None:
    """Remove the results of a run that continues."""
    (run_dir / RESULTS).unlink(missing_ok=True)


def results_table(results: Results) -> str:
    """Return the original's results table with one row."""
    fps = "-" if results.fps is None else f"{results.fps:.3f}"
    return "\n".join(
        [
            "| NAME | Acc@1 | FPS | Epochs | AMP_Type | Torch_version |",
            "| ---- | ----- | --- | ------ | -------- | ------------- |",
            f"| {results.name} | {results.accuracy1:.3f} | {fps} | {results.epochs} "
            f"| {results.precision} | {results.torch_version} |",
        ]
    )


def draw_curves(run_dir: Path) -> Path:
    """Draw loss and accuracy over epochs, from ``metrics.jsonl``. Needs matplotlib (extra ``report``)."""
    from matplotlib.figure import Figure

    records = _records(run_dir / METRICS)
    trained = [r for r in records if r["kind"] == "epoch"]
    evaluated = [r for r in records if r["kind"] == "eval"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, key, label in (
        (loss_axes, "loss", "loss"),
        (accuracy_axes, "accuracy1", "top-1 accuracy (%)"),
    ):
        _line(axes, trained, key, "training")
        for weights in sorted({r["weights"] for r in evaluated}, reverse=True):
            name = "validation" if weights == "raw" else f"validation, {weights} weights"
            _line(axes, [r for r in evaluated if r["weights"] == weights], key, name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    path = run_dir / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def _line(axes: Any, records: list[dict[str, Any]], key: str, label: str) -> None:
    # A resumed run repeats no epoch, but an epoch cut short by a crash is there twice: the last counts.
    by_epoch = {r["epoch"]: r[key] for r in records}
    axes.plot([e + 1 for e in by_epoch], list(by_epoch.values()), marker=".", label=label)


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
