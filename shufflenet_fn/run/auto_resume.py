"""What ``--resume auto`` goes on with, so that the same command works in a job that is started again."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from shufflenet_fn.checkpoint.inventory import checkpoints, checkpoints_of, newest_good
from shufflenet_fn.checkpoint.read import read_manifest
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.model.config import PREFIX
from shufflenet_fn_backends.support.errors import UserError

RESULTS = "results.json"


def find_run(settings: TrainSettings) -> tuple[Path | None, list[str]]:
    """The run directory to go on with, ``None`` to start afresh; and notes that say which and why.

    With ``--run-dir`` that one, if it has a checkpoint: where none of them can be used, going on is refused
    with the reason, as a start would silently give up what was trained. Else the newest ``OUTPUT/ARCH-NNN``
    that has a good one and is not done; those passed over are named.
    """
    if settings.run_dir is not None:
        path = Path(settings.run_dir)
        found, _, passed_over = newest_good(checkpoints_of(path))
        if found is not None or passed_over:
            return path, [f"--resume auto: going on with {path}"]
        return None, [f"--resume auto: there is no checkpoint in {path} yet, so this is a start"]
    name = settings.arch.removeprefix(PREFIX)
    notes: list[str] = []
    for path in _newest_first(Path(settings.output), name):
        if _is_done(path, settings.max_steps):
            continue
        try:
            found, _, passed_over = newest_good(checkpoints_of(path))
        except UserError as error:
            found, passed_over = None, [str(error)]
        if found is not None:
            return path, [*notes, f"--resume auto: going on with {path}"]
        if passed_over:
            notes.append(
                f"--resume auto: no checkpoint of {path} can be used. {' '.join(passed_over)}"
            )
    return None, [
        *notes,
        f"--resume auto: no run {name}-NNN in {settings.output} is unfinished and has a good checkpoint, so "
        "this is a start",
    ]


def _is_done(run_dir: Path, max_steps: int | None) -> bool:
    """Whether there is nothing left to do in a run up to ``max_steps``.

    One that an earlier start's ``--max-steps`` has cut short has results, but goes on.
    """
    try:
        results = json.loads((run_dir / RESULTS).read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    match results, _steps_per_epoch(run_dir):
        case {"epochs": int(epochs), "steps": int(steps)}, int(length):
            planned = epochs * length
            return steps >= min(planned, max_steps or planned)
    return True  # nothing can be added to it


def _steps_per_epoch(run_dir: Path) -> int | None:
    """As the newest checkpoint says whose manifest can be read."""
    with contextlib.suppress(UserError):  # where the folder itself cannot be read
        for checkpoint in checkpoints(checkpoints_of(run_dir)):
            with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
                return int(read_manifest(checkpoint)["steps_per_epoch"])
    return None


def _newest_first(output: Path, name: str) -> list[Path]:
    if not output.is_dir():
        return []
    numbered = [
        (int(match.group(1)), entry)
        for entry in output.iterdir()
        if (match := re.fullmatch(re.escape(name) + r"-(\d+)", entry.name)) and entry.is_dir()
    ]
    return [entry for _, entry in sorted(numbered, reverse=True)]
