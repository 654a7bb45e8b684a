"""What the manifest of a checkpoint tells a resume, after it has been checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shufflenet_fn.checkpoint.format import DamagedCheckpoint
from shufflenet_fn.data.paths import printable
from shufflenet_fn.run.epochs import Epochs
from shufflenet_fn.run.fingerprint import compare
from shufflenet_fn.run.timing import Scores
from shufflenet_fn_backends.support.errors import UsageError


def differences(
    manifest: Mapping[str, Any], identity: Mapping[str, Any], *, epochs: Epochs, bn_stats: str
) -> list[str]:
    """Return warnings about what has changed since the checkpoint was written.

    Args:
        manifest: of the checkpoint, checked.
        identity: of this start.
        epochs: as they are counted now.
        bn_stats: the setting of this name.
    """
    warnings = compare(manifest["identity"], identity, bn_stats=bn_stats)
    before = manifest["steps_per_epoch"]
    if epochs.length != before:
        done, _ = epochs.place(manifest["step"])
        warnings.append(
            f"steps_per_epoch is {epochs.length}, and was {before} when the checkpoint was written: "
            f"epochs from {done} on have the new number"
        )
    return warnings


def check_classes(manifest: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Check that labels still mean what the weights learned. ``classes``: of the data.

    Raises:
        UsageError: the classes of the data changed.
    """
    if list(classes) != manifest["classes"]:
        changed = list(map(printable, sorted(set(classes) ^ set(manifest["classes"]))))
        raise UsageError(
            f"the data has other classes than the run had ({', '.join(changed[:5]) or 'their order'}). "
            "Restore the data, or start a new run with --pretrained."
        )


def last_scores(manifest: Mapping[str, Any]) -> Scores | None:
    """Return the scores of a checkpoint's own weights; ``None`` if they were not evaluated."""
    scores = manifest["scores"]
    if scores is None or set(scores) != set(Scores._fields):
        return None
    values: dict[str, Any] = {name: math.nan if value is None else value for name, value in scores.items()}
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
    """Return ``manifest`` after checking that a run can resume from it.

    Raises:
        DamagedCheckpoint: it lacks something, or has it in another form. Hashes do not tell: anyone can
            compute them.
    """
    wrong = [
        name for name, types in _OF_A_RUN.items() if name not in manifest or type(manifest[name]) not in types
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
        if name not in wrong and not 1 <= manifest[name] < 10**18
    ]
    if wrong:
        raise DamagedCheckpoint(
            checkpoint, f"it is not of a training run, as {', '.join(wrong)} in its manifest shows"
        )
    return manifest
