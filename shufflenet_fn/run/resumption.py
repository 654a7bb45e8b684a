"""What a resume reads from a manifest: whether it can go on, and what is no longer as it was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shufflenet_fn.checkpoint.format import DamagedCheckpoint
from shufflenet_fn.data.paths import printable
from shufflenet_fn.run.evaluation import Scores
from shufflenet_fn.run.identity import compare
from shufflenet_fn.run.meters import EpochSums
from shufflenet_fn_backends.support.errors import UsageError


def differences(
    manifest: Mapping[str, Any],
    identity: Mapping[str, Any],
    *,
    steps_per_epoch: int,
    bn_stats: str,
) -> list[str]:
    """Warnings about what is no longer as it was when the checkpoint was written.

    Args:
        manifest: of the checkpoint, checked.
        identity: of this start.
        steps_per_epoch: now.
        bn_stats: the setting of this name.
    """
    warnings = compare(manifest["identity"], identity, bn_stats=bn_stats)
    before = manifest["steps_per_epoch"]
    if steps_per_epoch != before:
        warnings.append(
            f"steps_per_epoch is {steps_per_epoch}, and was {before} when the checkpoint was written: the "
            "run goes on, but epochs and learning rates are counted by the new number from here on"
        )
    return warnings


def check_classes(manifest: Mapping[str, Any], classes: Sequence[str]) -> None:
    """See that labels still mean what the weights learned. ``classes``: of the data.

    Raises:
        UsageError: the classes of the data changed.
    """
    if list(classes) != manifest["classes"]:
        changed = list(map(printable, sorted(set(classes) ^ set(manifest["classes"]))))
        raise UsageError(
            f"the data has other classes than the run had ({', '.join(changed[:5]) or 'their order'}). "
            "Restore the data, or start a new run with --pretrained."
        )


def unfinished_epoch(manifest: Mapping[str, Any]) -> EpochSums | None:
    """What the epoch that a checkpoint lies in had come to; ``None`` at the end of one."""
    sums = manifest["unfinished"]
    return None if sums is None else EpochSums(**sums)


def last_scores(manifest: Mapping[str, Any]) -> Scores | None:
    """What the evaluation of a checkpoint's own weights gave; ``None`` if there was none."""
    scores = manifest["scores"]
    if scores is None or set(scores) != set(Scores._fields):
        return None
    values: dict[str, Any] = {
        name: math.nan if value is None else value for name, value in scores.items()
    }
    return Scores(**values) if all(type(v) in (int, float) for v in values.values()) else None


_OF_A_RUN: Mapping[str, tuple[type, ...]] = {
    "arch": (str,),
    "classes": (list,),
    "epoch": (int,),
    "steps_per_epoch": (int,),
    "unfinished": (dict, type(None)),
    "skipped_in_a_row": (int,),
    "best": (dict, type(None)),
    "scores": (dict, type(None)),
    "device": (str,),
    "backend": (str,),
    "lanes": (int,),
    "global_batch": (int,),
    "threads": (int,),
    "identity": (dict,),
    "settings": (dict,),
    "origin": (dict,),
    "preset": (str, type(None)),
}


def checked_manifest(manifest: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """``manifest``, if it has what a run goes on from.

    Raises:
        DamagedCheckpoint: it lacks something, or has it in another form. Hashes do not tell: anyone can
            compute them.
    """
    wrong = [
        name
        for name, types in _OF_A_RUN.items()
        if name not in manifest or type(manifest[name]) not in types
    ]
    wrong += [
        name
        for name, fields in (
            ("unfinished", ("steps", "skipped", "loss", "accuracy1", "accuracy5")),
            ("best", ("accuracy1", "epoch")),
        )
        if isinstance(part := manifest.get(name), dict)
        and (set(part) != set(fields) or not all(type(v) in (int, float) for v in part.values()))
    ]
    if "classes" not in wrong and not all(type(name) is str for name in manifest["classes"]):
        wrong.append("classes")
    wrong += [
        name
        for name in ("steps_per_epoch", "lanes", "global_batch", "threads")
        if name not in wrong and manifest[name] < 1
    ]
    if wrong:
        raise DamagedCheckpoint(
            checkpoint, f"it is not of a training run, as {', '.join(wrong)} in its manifest shows"
        )
    return manifest
