"""The run directory: only one run at a time writes to it, and a resume rewinds it to a checkpoint.

Rank 0 creates it. ``config.json`` holds every setting with its source, ``env.json`` the software and the
machine, ``log.txt`` the log, ``metrics.jsonl`` the same events for programs, ``results.json`` the results.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from shufflenet_fn.checkpoint.format import REPLACED, epochs_done, step_of
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
from shufflenet_fn.checkpoint.read import Content
from shufflenet_fn.config.resolve import Resolved
from shufflenet_fn.io import Disk, explained, replace_file, to_json
from shufflenet_fn.model.config import PREFIX
from shufflenet_fn.run.lock import LOCK
from shufflenet_fn_backends.support.errors import UsageError, UserError

CONFIG: Final = "config.json"
LOG: Final = "log.txt"
METRICS: Final = "metrics.jsonl"
RESULTS: Final = "results.json"
_PACKAGES: Final = ("shufflenet-fn", "torch", "torchvision", "torch_npu", "numpy", "safetensors")


def create_run_dir(resolved: Resolved) -> Path:
    """Create the run directory: ``--run-dir``, or the next free ``OUTPUT/ARCH-NNN``.

    Raises:
        UsageError: it holds another run, or cannot be made or written.
    """
    settings = resolved.settings
    where = settings.run_dir or settings.output
    with explained(
        f"write the run directory {where}", "Choose a writable --run-dir (or --output).", UsageError
    ):
        if settings.run_dir is not None:
            path = Path(settings.run_dir)
            path.mkdir(parents=True, exist_ok=True)
            if (path / CONFIG).exists() and not checkpoints(checkpoints_of(path)):
                raise UsageError(
                    f"in the run directory {path} is a run without a checkpoint yet. If it has ended, start "
                    "it again there with --resume auto; or choose another --run-dir."
                )
            if not all(map(_left_by_a_killed_start, path.iterdir())):
                raise UsageError(
                    f"the run directory {path} is not empty. Choose another --run-dir, or go on with "
                    f"what is in it by --resume {path}."
                )
        else:
            path = _next_free(Path(settings.output), settings.arch.removeprefix(PREFIX))
        (path / "checkpoints").mkdir(exist_ok=True)
    return path


def _left_by_a_killed_start(entry: Path) -> bool:
    """Return whether ``entry`` is what a start leaves that is killed before it has written its settings."""
    if entry.name == "checkpoints" and entry.is_dir():
        return not any(entry.iterdir())
    return entry.name in (LOCK, f".{CONFIG}.partial")


def check_links(run_dir: Path) -> None:
    """Check that no link in ``run_dir`` leads out of it, so that no file elsewhere is written.

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
    fix = "Free some space, or choose another --run-dir."
    with explained(f"write in the run directory {path}", fix):
        replace_file(path / CONFIG, f"{to_json(config, indent=2)}\n".encode())
        replace_file(path / "env.json", f"{to_json(environment(), indent=2)}\n".encode())


def environment() -> dict[str, Any]:
    """Return software versions and the machine, for bug reports and for comparing runs."""
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
        except FileExistsError:  # another run has taken the number in the meantime
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


def rewind_to(content: Content | None, run_dir: Path) -> tuple[Content | None, list[str]]:
    """Rewind ``run_dir`` to a checkpoint, or to the beginning without one.

    Returns the checkpoint with its new path, and notes on what was set aside. Raises as ``rewind``.
    """
    if content is None:
        return None, rewind(run_dir, 0, 0.0, 1)
    checkpoint, manifest = content.path, content.manifest
    # As often as lines were written, which may be changed from here on.
    print_freq = manifest["settings"].get("print_freq", 1)
    folder = checkpoints_of(run_dir)
    # Of the same step as one that was set aside before, there may be one of the branch that is left now.
    is_own = lies_in(folder, checkpoint)
    is_aside = is_own and step_of(checkpoint.name) is None
    epochs = epochs_done(manifest) or 0.0
    notes = rewind(run_dir, manifest["step"], epochs, print_freq, same_step=not is_aside)
    if not checkpoint.exists():
        # It was being replaced when the process was killed, and has its own name again.
        checkpoint = checkpoint.with_name(checkpoint.name.removesuffix(REPLACED))
    if is_own and not is_aside and _is_the_best(manifest):
        # A process that was killed right after writing it may not have pointed to it.
        point_to(folder, BEST, checkpoint)
    return content._replace(path=checkpoint), notes


def _is_the_best(manifest: dict[str, Any]) -> bool:
    """Return whether a checkpoint had the best evaluation so far."""
    best, scores = manifest["best"], manifest["scores"]
    return bool(best and scores and best["epoch"] == manifest["epoch"])


def rewind(run_dir: Path, step: int, epochs: float, print_freq: int, *, same_step: bool = True) -> list[str]:
    """Rewind ``run_dir`` to its state after ``step`` updates; return notes on what was set aside.

    ``epochs``: how many they are. ``same_step``: whether a checkpoint of ``step`` itself stays.
    Checkpoints of later steps, abandoned or damaged, are renamed to ``superseded-…``. ``metrics.jsonl`` is
    truncated to what an uninterrupted run would have written by then. ``log.txt`` is kept, because it may say
    why the run ended, and a line in it marks what is superseded. Partial files of a killed process are
    removed. The caller must hold the lock.

    Raises:
        UserError: the disk is full or not writable. What was there is still there.
    """
    fix = "Free some space or make it writable, then give the same command again."
    with explained(f"bring the run directory {run_dir} back to {step} updates", fix):
        folder, disk = checkpoints_of(run_dir), Disk()
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
            kept = "".join(f"{line}\n" for line in _kept(lines, step, epochs, print_freq))
            replace_file(metrics, kept.encode(), disk=disk)
        _mark(run_dir / LOG, step)
        return notes


def _mark(log: Path, step: int) -> None:
    """Add a line to ``log``, if there is one, that says where the run continues."""
    if not log.exists() or not log.stat().st_size:
        return
    with open(log, "rb") as written:
        written.seek(-1, os.SEEK_END)
        whole = written.read() == b"\n"
    with open(log, "a") as file:
        if not whole:  # the last line of a run that was killed while writing it
            print(file=file)
        print(
            f"===== {time.strftime('%Y-%m-%d %H:%M:%S')}: going on after {step} updates. Later updates "
            "above were discarded; they are computed and logged again below. =====",
            file=file,
        )


def _kept(lines: list[str], step: int, epochs: float, print_freq: int) -> Iterator[str]:
    last = 0  # of an epoch's steps, as the start that wrote the lines counted
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a run that was killed while writing it
            continue
        match record:
            case {"kind": "start", "steps_per_epoch": int(length)}:
                last, keep = length - 1, True
            case {"kind": "train", "step": int(number), "step_in_epoch": int(within)}:
                # Where a start ended it reported its last step, which no other would have.
                keep = number < step and (within % print_freq == 0 or within == last)
            case {"kind": "eval", "in_turn": False} | {"kind": "end"}:
                keep = False
            case {"kind": "epoch" | "eval", "epoch": int(epoch)}:
                keep = epoch + 1 <= epochs
            case {"kind": "checkpoint", "step": int(number)}:
                keep = number <= step
            case _:
                keep = isinstance(record, dict) and isinstance(record.get("kind"), str)
        if keep:
            yield line


def _free(folder: Path, name: str) -> Path:
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path
