"""What ``--resume auto`` goes on with, so that the same command works in a job that is started again."""

from __future__ import annotations

import re
from pathlib import Path

from shufflenet_fn.checkpoint.inventory import checkpoints_of, newest_good
from shufflenet_fn.model.config import PREFIX
from shufflenet_fn.run.settings import TrainSettings

RESULTS = "results.json"


def find_run(settings: TrainSettings) -> tuple[Path | None, str]:
    """The run directory to go on with, ``None`` to start afresh; and a note that says which and why.

    With ``--run-dir`` that one, if it has a good checkpoint. Else the newest ``OUTPUT/ARCH-NNN`` that has
    one and is not done.
    """
    if settings.run_dir is not None:
        path = Path(settings.run_dir)
        if newest_good(checkpoints_of(path))[0] is not None:
            return path, f"--resume auto: going on with {path}"
        return None, f"--resume auto: there is no good checkpoint in {path} yet, so this is a start"
    name = settings.arch.removeprefix(PREFIX)
    for path in _newest_first(Path(settings.output), name):
        if not (path / RESULTS).exists() and newest_good(checkpoints_of(path))[0] is not None:
            return path, f"--resume auto: going on with {path}"
    return None, (
        f"--resume auto: no run {name}-NNN in {settings.output} is unfinished and has a checkpoint, so this "
        "is a start"
    )


def _newest_first(output: Path, name: str) -> list[Path]:
    if not output.is_dir():
        return []
    numbered = [
        (int(match.group(1)), entry)
        for entry in output.iterdir()
        if (match := re.fullmatch(re.escape(name) + r"-(\d+)", entry.name)) and entry.is_dir()
    ]
    return [entry for _, entry in sorted(numbered, reverse=True)]
