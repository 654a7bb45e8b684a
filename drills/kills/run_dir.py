"""What a drill reads from a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from shufflenet_fn.checkpoint.format import FILES, step_of
from shufflenet_fn.checkpoint.inventory import checkpoints, checkpoints_of, newest_good
from shufflenet_fn.run.directory import METRICS, RESULTS

# Times differ between runs.
_TIMES = {"time", "times", "mean_times", "fps", "eta_s", "seconds"}


class Ending(NamedTuple):
    """What must not depend on kills: the files of the last checkpoint, and the log records."""

    step: int
    files: dict[str, bytes]
    records: list[dict[str, Any]]


def ending_of(run: Path) -> Ending:
    """Return the ``Ending`` of a finished run."""
    last = checkpoints(checkpoints_of(run))[0]
    records = [
        {name: value for name, value in record.items() if name not in _TIMES}
        for record in _records(run)
        if record["kind"] in ("train", "epoch", "eval")
    ]
    files = {name: (last / name).read_bytes() for name in FILES}
    return Ending(step_of(last.name) or 0, files, records)


def differences(ending: Ending, reference: Ending) -> list[str]:
    """Return the differences from the uninterrupted run."""
    if ending.step != reference.step:
        return [f"it ended after step {ending.step} instead of {reference.step}"]
    wrong = [
        f"{name} is not byte-identical to the uninterrupted run's"
        for name in FILES
        if ending.files[name] != reference.files[name]
    ]
    if ending.records != reference.records:
        wrong.append("metrics.jsonl does not hold the uninterrupted run's lines")
    return wrong


def left_in(run: Path) -> list[str]:
    """Return leftover temporary files of a finished run."""
    return sorted(
        str(path.relative_to(run))
        for path in run.rglob("*")
        if path.name.startswith(".") or path.name.endswith(".replaced")
    )


def is_done(run: Path) -> bool:
    return (run / RESULTS).exists()


def newest_step(run: Path) -> int:
    """Return the step of the checkpoint to resume from; 0 if there is none."""
    found, _ = newest_good(checkpoints_of(run))
    return 0 if found is None else step_of(found.path.name) or 0


def reported_step(run: Path) -> int:
    """Return the step of the latest checkpoint that the run reported as saved."""
    return max((r["step"] for r in _records(run) if r["kind"] == "checkpoint"), default=0)


def starts(run: Path) -> list[int]:
    """Return the first step of each start of training so far, in order."""
    return [record["first_step"] for record in _records(run) if record["kind"] == "start"]


def _records(run: Path) -> list[dict[str, Any]]:
    try:
        lines = (run / METRICS).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # it is being written
            continue
    return found
