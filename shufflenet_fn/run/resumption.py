"""What a resume has to look at and put in order before the first step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from shufflenet_fn.checkpoint.inventory import checkpoints, pointed_to
from shufflenet_fn_backends.errors import UsageError

METRICS = "metrics.jsonl"


def differences(
    manifest: Mapping[str, Any],
    *,
    classes: Sequence[str],
    steps_per_epoch: int,
    device: str,
    backend: str,
    world_size: int,
) -> list[str]:
    """Warnings about what is no longer as it was when the checkpoint was written.

    Raises:
        UsageError: the classes of the data changed, so labels no longer mean what the weights learned.
    """
    if list(classes) != manifest["classes"]:
        changed = sorted(set(classes) ^ set(manifest["classes"]))
        raise UsageError(
            f"the data has other classes than the run had ({', '.join(changed[:5]) or 'their order'}). "
            "Restore the data, or start a new run with --pretrained."
        )
    now = {
        "steps_per_epoch": steps_per_epoch,
        "torch": torch.__version__,
        "device": device,
        "backend": backend,
        "world_size": world_size,
        "threads": torch.get_num_threads(),
    }
    return [
        f"{name} is {value}, and was {manifest[name]} when the checkpoint was written: the run goes on, but "
        "not as it would have gone on without the interruption"
        for name, value in now.items()
        if manifest.get(name, value) != value
    ]


def rewind(run_dir: Path, step: int, steps_per_epoch: int) -> list[str]:
    """Bring ``run_dir`` back to where it was at ``step``; returns notes on what was set aside.

    Checkpoints of later steps, of a branch that the resume leaves or damaged, are renamed to
    ``superseded-…``. ``metrics.jsonl`` is cut to what happened before ``step``.
    """
    folder = run_dir / "checkpoints"
    notes = []
    best = pointed_to(folder, "best")
    for checkpoint in checkpoints(folder):
        if int(checkpoint.name.removeprefix("step-")) <= step:
            continue
        aside = _free(folder, f"superseded-{checkpoint.name}")
        checkpoint.rename(aside)
        notes.append(f"{checkpoint.name} is of a later step and was renamed to {aside.name}")
        if checkpoint == best:
            (folder / "best.json").unlink()
    metrics = run_dir / METRICS
    if metrics.exists():
        kept = [
            line
            for line in metrics.read_text().splitlines()
            if _before(line, step, steps_per_epoch)
        ]
        partial = metrics.with_name(f".{METRICS}.partial")
        partial.write_text("".join(line + "\n" for line in kept))
        partial.replace(metrics)
    return notes


def _before(line: str, step: int, steps_per_epoch: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:  # the last line of a run that was killed while writing it
        return False
    match record["kind"]:
        case "train":
            return bool(record["step"] < step)
        case "epoch" | "eval":
            return bool((record["epoch"] + 1) * steps_per_epoch <= step)
        case "end":
            return False
        case _:
            return True


def _free(folder: Path, name: str) -> Path:
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path
