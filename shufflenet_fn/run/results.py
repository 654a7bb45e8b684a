"""The results of a run: ``results.json``, ``results.md`` and curves, written at its end."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shufflenet_fn.config.derived import precision_name
from shufflenet_fn.io import replace_file, to_json
from shufflenet_fn.run.bottleneck import mean_bottleneck
from shufflenet_fn.run.directory import METRICS, RESULTS
from shufflenet_fn.run.events import RunFinished
from shufflenet_fn.run.saving import Costs
from shufflenet_fn.run.training import Training
from shufflenet_fn.streams import escaping


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
            "curves.png was not drawn: matplotlib is not installed (pip install 'shufflenet-fn[report]')"
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
    for axes, key, label in ((loss_axes, "loss", "loss"), (accuracy_axes, "accuracy1", "top-1 accuracy (%)")):
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


def finish(run: Training, fps: list[float], started: float, costs: Costs) -> dict[str, Any]:
    """Write and report the results of a run that has come to its end; return them.

    Args:
        run: what was trained.
        fps: images per second of each epoch of this start.
        started: when, by ``time.time``.
        costs: of its checkpoints.
    """
    assert run.last is not None
    if run.world.is_main and not costs.written:
        # Such a start has trained nothing, and would put its own lack of speed in place of the run's.
        kept = kept_results(run.plan.run_dir, int(run.state.step))
        if kept is not None:
            run.reporter.note(_nothing_left(run))
            run.reporter.event(RunFinished(kept._asdict(), results_table(kept)))
            return kept._asdict()
    memory, bottleneck = run.runtime.memory(), mean_bottleneck(run)
    results = Results(
        name=f"{run.world.size}p-{run.plan.device.upper()}",
        arch=run.plan.settings.arch,
        accuracy1=run.last.accuracy1,
        accuracy5=run.last.accuracy5,
        loss=run.last.loss,
        num_images=run.last.num_images,
        best_accuracy1=run.best.accuracy1 if run.best else run.last.accuracy1,
        best_epoch=run.best.epoch + 1 if run.best else 0,
        fps=sum(fps) / len(fps) if fps else None,
        epochs=run.plan.settings.epochs,
        steps=int(run.state.step),
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
        table, notes = write_results(run.plan.run_dir, results)
        for note in notes:
            run.reporter.note(note)
        run.reporter.event(RunFinished(results._asdict(), table))
    return results._asdict()


def _nothing_left(run: Training) -> str:
    settings, (epochs, _) = run.plan.settings, run.epochs.place(int(run.state.step))
    if epochs < settings.epochs:
        why = f"--max-steps is {settings.max_steps}. To train on, leave it out or give a higher one"
    else:
        why = f"--epochs is {settings.epochs}. To train on, resume with --epochs {epochs + 1} or more"
    return f"{run.state.step} updates are done and their results are there: nothing is left to do, as {why}."
