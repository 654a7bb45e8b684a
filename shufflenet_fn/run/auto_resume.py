"""What ``--resume auto`` goes on with, so that the same command works in a job that is started again."""

from __future__ import annotations

import json
import re
from pathlib import Path

from shufflenet_fn.checkpoint.inventory import checkpoints, checkpoints_of, newest_good
from shufflenet_fn.checkpoint.read import read_manifest
from shufflenet_fn.model.config import PREFIX
from shufflenet_fn.run.settings import TrainSettings
from shufflenet_fn_backends.errors import UserError

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
        if _is_done(path):
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


def _is_done(run_dir: Path) -> bool:
    """Whether a run has come to its end. One that ``--max-steps`` has cut short has results, but goes on."""
    try:
        results = json.loads((run_dir / RESULTS).read_text())
        manifest = read_manifest(checkpoints(checkpoints_of(run_dir))[0])
        planned = results["epochs"] * manifest["steps_per_epoch"]
        return bool(results["steps"] >= planned)
    except FileNotFoundError:
        return False
    except (UserError, OSError, ValueError, KeyError, TypeError, IndexError):
        return True  # results that nothing can be added to


def _newest_first(output: Path, name: str) -> list[Path]:
    if not output.is_dir():
        return []
    numbered = [
        (int(match.group(1)), entry)
        for entry in output.iterdir()
        if (match := re.fullmatch(re.escape(name) + r"-(\d+)", entry.name)) and entry.is_dir()
    ]
    return [entry for _, entry in sorted(numbered, reverse=True)]
