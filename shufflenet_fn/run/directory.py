"""The directory of a run: made once, by rank 0, and described by two files.

``config.json`` holds every setting and where it came from, ``env.json`` the software and the machine.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shufflenet_fn.checkpoint.inventory import checkpoints, checkpoints_of
from shufflenet_fn.config.resolve import Resolved
from shufflenet_fn.model.config import PREFIX
from shufflenet_fn.run.lock import LOCK
from shufflenet_fn_backends.support.errors import UsageError, UserError

CONFIG = "config.json"
_PACKAGES = ("shufflenet-fn", "torch", "torchvision", "torch_npu", "numpy", "grain", "safetensors")


def create_run_dir(resolved: Resolved) -> Path:
    """Make the run's directory: ``--run-dir``, or the next free ``OUTPUT/ARCH-NNN``.

    Raises:
        UsageError: it holds another run, or cannot be made or written.
    """
    settings = resolved.settings
    try:
        if settings.run_dir is not None:
            path = Path(settings.run_dir)
            path.mkdir(parents=True, exist_ok=True)
            if (path / CONFIG).exists() and not checkpoints(checkpoints_of(path)):
                raise UsageError(
                    f"in the run directory {path} is a run without a checkpoint yet. If it has ended, start "
                    "it again there with --resume auto; or choose another --run-dir."
                )
            if any(entry.name != LOCK for entry in path.iterdir()):
                raise UsageError(
                    f"the run directory {path} is not empty. Choose another --run-dir, or go on with "
                    f"what is in it by --resume {path}."
                )
        else:
            path = _next_free(Path(settings.output), settings.arch.removeprefix(PREFIX))
        (path / "checkpoints").mkdir(exist_ok=True)
    except OSError as error:
        where = settings.run_dir or settings.output
        raise UsageError(
            f"cannot write the run directory {where}: {error.strerror or error}. Choose a writable "
            "--run-dir (or --output)."
        ) from None
    return path


def check_links(run_dir: Path) -> None:
    """See that nothing in ``run_dir`` leads out of it, so that no file elsewhere is written.

    Raises:
        UserError: a symbolic link does.
    """
    inside = run_dir.resolve()
    for entry in sorted(run_dir.iterdir()):
        if entry.is_symlink() and not entry.resolve().is_relative_to(inside):
            raise UserError(
                f"{entry} is a symbolic link that leads out of the run directory, to {entry.resolve()}, "
                "where nothing is to be written. Remove it; to keep a run on another disk, link the "
                "whole run directory."
            )


def write_description(path: Path, resolved: Resolved, argv: Sequence[str]) -> None:
    """Write ``config.json`` and ``env.json``."""
    config = {
        "command": list(argv),
        "preset": resolved.preset,
        "settings": dataclasses.asdict(resolved.settings),
        "origin": resolved.origin,
    }
    try:
        (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        (path / "env.json").write_text(json.dumps(environment(), indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write in the run directory {path}: {error.strerror or error}. Free some space, or "
            "choose another --run-dir."
        ) from error


def environment() -> dict[str, Any]:
    """Software versions and the machine, for bug reports and for comparing runs."""
    return {
        "python": sys.version.split()[0],
        "packages": {name: version_of(name) for name in _PACKAGES},
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "processor": processor(),
    }


def _next_free(output: Path, name: str) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    taken = [
        int(match.group(1))
        for entry in output.iterdir()
        if (match := re.fullmatch(re.escape(name) + r"-(\d+)", entry.name))
    ]
    number = max(taken, default=0) + 1
    while True:
        path = output / f"{name}-{number:03d}"
        try:
            path.mkdir()
        except FileExistsError:  # another run took the number between the look and the leap
            number += 1
        else:
            return path


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
