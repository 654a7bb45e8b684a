"""The end of a run: ``results.json``, the original's table row in ``results.md``, and ``curves.png``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

from shufflenet_fn.checkpoint.disk import RealDisk, replace_file
from shufflenet_fn.run.auto_resume import RESULTS
from shufflenet_fn.run.json_text import to_json


class Results(NamedTuple):
    """``results.json``. Accuracies in percent over exactly ``num_images`` images.

    ``accuracy1`` is that of the last evaluation, not of the best: ``best_accuracy1`` is picked on the
    validation set and so flattered. ``best_epoch`` counts from 1. Memory is rank 0's: what tensors took at
    most, what the allocator holds at the end, and what the device has. ``step_seconds`` is rank 0's mean
    ``StepTimes`` and ``verdict`` a ``Verdict``, both ``None`` for a run of 10 steps or fewer.
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
    (run_dir / "results.md").write_text(table + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        notes.append(
            "curves.png was not drawn: matplotlib is not installed "
            "(pip install 'shufflenet-fn[report]')"
        )
    else:
        draw_curves(run_dir)
    # Last, and whole or not at all: a run that has it has come to where it was to go.
    content = to_json(results._asdict(), indent=2) + "\n"
    replace_file(RealDisk(), run_dir / RESULTS, content.encode())
    return table, notes


def kept_results(run_dir: Path, steps: int) -> Results | None:
    """What is written of a run that has ended after ``steps`` updates; ``None`` if nothing fit is there."""
    try:
        results = Results(**json.loads((run_dir / RESULTS).read_text()))
    except (OSError, ValueError, TypeError):  # none, or of another version
        return None
    return results if results.steps == steps else None


def forget_results(run_dir: Path) -> None:
    """Remove what says that a run is done, which goes on."""
    (run_dir / RESULTS).unlink(missing_ok=True)


def results_table(results: Results) -> str:
    """The original's results table with one row."""
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
    """Loss and accuracy over epochs, from ``metrics.jsonl``. Needs matplotlib (extra ``report``)."""
    from matplotlib.figure import Figure

    records = _records(run_dir / "metrics.jsonl")
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
