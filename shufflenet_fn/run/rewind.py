"""Bringing a run directory back to where it was at a checkpoint."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from shufflenet_fn.checkpoint.disk import RealDisk, replace_file
from shufflenet_fn.checkpoint.format import REPLACED, step_of
from shufflenet_fn.checkpoint.inventory import (
    BEST,
    checkpoints,
    checkpoints_of,
    lies_in,
    links,
    point_to,
    pointed_to,
    tidy,
)
from shufflenet_fn.checkpoint.read import read_manifest
from shufflenet_fn.run.files import LOG, METRICS
from shufflenet_fn_backends.support.errors import UserError


class Rewound(NamedTuple):
    """Where ``checkpoint`` lies now, ``None`` for the very beginning, and notes on what was set aside."""

    checkpoint: Path | None
    notes: list[str]


def rewind_to(checkpoint: Path | None, run_dir: Path) -> Rewound:
    """``rewind`` to ``checkpoint``, by its manifest; to the very beginning without one."""
    if checkpoint is None:
        return Rewound(None, rewind(run_dir, 0, 1, 1))
    manifest = read_manifest(checkpoint)
    # As often as lines were written, which may be changed from here on.
    print_freq = manifest["settings"].get("print_freq", 1)
    folder = checkpoints_of(run_dir)
    # Of the same step as one that was set aside before, there may be one of the branch that is left now.
    is_own = lies_in(folder, checkpoint)
    is_aside = is_own and step_of(checkpoint.name) is None
    notes = rewind(
        run_dir, manifest["step"], manifest["steps_per_epoch"], print_freq, same_step=not is_aside
    )
    if not checkpoint.exists():
        # It was being replaced when the process was killed, and has its own name again.
        checkpoint = checkpoint.with_name(checkpoint.name.removesuffix(REPLACED))
    if is_own and not is_aside and _is_the_best(manifest):
        # A process that was killed right after writing it may not have come to saying so.
        point_to(folder, BEST, checkpoint)
    return Rewound(checkpoint, notes)


def _is_the_best(manifest: dict[str, Any]) -> bool:
    """Whether a checkpoint is of the best evaluation up to itself."""
    best, scores = manifest["best"], manifest["scores"]
    return bool(best and scores and best["epoch"] == manifest["epoch"])


def rewind(
    run_dir: Path, step: int, steps_per_epoch: int, print_freq: int, *, same_step: bool = True
) -> list[str]:
    """Bring ``run_dir`` back to where it was after ``step`` updates; returns notes on what was set aside.

    ``same_step``: whether a checkpoint of ``step`` itself stays.
    Checkpoints of later steps, of a branch that the resume leaves or damaged, are renamed to
    ``superseded-…``. ``metrics.jsonl`` is cut to what an uninterrupted run would have written by then.
    ``log.txt`` may say why the run had ended, so it is kept, and a line in it tells what is no longer true.
    What a killed process left half written is removed. Only for the one who holds the run.

    Raises:
        UserError: the disk is full or not writable. What was there is still there.
    """
    try:
        return _rewind(run_dir, step, steps_per_epoch, print_freq, same_step)
    except OSError as error:
        raise UserError(
            f"cannot bring the run directory {run_dir} back to {step} updates: {error.strerror or error}. "
            "Free some space or make it writable, then give the same command again."
        ) from error


def _rewind(
    run_dir: Path, step: int, steps_per_epoch: int, print_freq: int, same_step: bool
) -> list[str]:
    folder, disk = checkpoints_of(run_dir), RealDisk()
    tidy(folder, disk=disk)
    notes = []
    best = pointed_to(folder, BEST)
    # A link is no checkpoint, but it would be in the way of one.
    for checkpoint in (*checkpoints(folder), *links(folder)):
        number = step_of(checkpoint.name) or 0
        if number < step or (number == step and same_step):
            continue
        if checkpoint == best:
            disk.unlink(folder / f"{BEST}.json")
        aside = _free(folder, f"superseded-{checkpoint.name}")
        disk.rename(checkpoint, aside)
        of = "a later step" if number > step else "another branch"
        notes.append(f"{checkpoint.name} is of {of} and was renamed to {aside.name}")
    if notes:
        disk.flush(folder)
    metrics = run_dir / METRICS
    if metrics.exists():
        lines = metrics.read_bytes().decode(errors="replace").splitlines()
        kept = [line for line in lines if _is_kept(line, step, steps_per_epoch, print_freq)]
        replace_file(disk, metrics, "".join(line + "\n" for line in kept).encode())
    _mark(run_dir / LOG, step)
    return notes


def _mark(log: Path, step: int) -> None:
    """Tell a reader of ``log`` where the run goes on, if there is one."""
    if not log.exists() or not log.stat().st_size:
        return
    with open(log, "rb") as written:
        written.seek(-1, os.SEEK_END)
        whole = written.read() == b"\n"
    with open(log, "a") as file:
        if not whole:  # the last line of a run that was killed while writing it
            print(file=file)
        print(
            f"===== {time.strftime('%Y-%m-%d %H:%M:%S')}: going on after {step} updates. What is told above "
            "of later ones was not kept, and is done and told again below. =====",
            file=file,
        )


def _is_kept(line: str, step: int, steps_per_epoch: int, print_freq: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:  # the last line of a run that was killed while writing it
        return False
    match record:
        case {"kind": "train", "step": int(number), "step_in_epoch": int(within)}:
            # Where a start ended it reported its last step, which no other would have.
            due = within % print_freq == 0 or within == steps_per_epoch - 1
            return number < step and due
        case {"kind": "eval", "in_turn": False}:
            return False
        case {"kind": "epoch" | "eval", "epoch": int(epoch)}:
            return (epoch + 1) * steps_per_epoch <= step
        case {"kind": "checkpoint", "step": int(number)}:
            return number <= step
        case {"kind": "end"}:
            return False
        case {"kind": str()}:
            return True
    return False


def _free(folder: Path, name: str) -> Path:
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path
