"""What checkpoints are, told without loading them: for listing and for looking at one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from shufflenet_fn.checkpoint.files import read_regular
from shufflenet_fn.checkpoint.format import FILES, MANIFEST, DamagedCheckpoint, NewerCheckpoint
from shufflenet_fn.checkpoint.inventory import (
    BEST,
    LATEST,
    accuracy,
    checkpoints,
    checkpoints_of,
    newest_good,
    pointed_to,
)
from shufflenet_fn.checkpoint.read import read_manifest, verify
from shufflenet_fn.checkpoint.safetensors_header import read_header
from shufflenet_fn_backends.support.errors import UsageError

_YEAR_10000: Final = 253_402_214_400.0
"""A day before its beginning anywhere, in seconds since the epoch: no date is later."""


class Listed(NamedTuple):
    """A checkpoint in a list. ``problem``: what is wrong with it; all but the name is unknown then."""

    name: str
    step: int | None
    epoch: float | None
    saved_at: float | None
    accuracy1: float | None
    bytes: int
    latest: bool
    best: bool
    problem: str | None


class TensorFacts(NamedTuple):
    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]


def list_checkpoints(run_dir: Path) -> list[Listed]:
    """Every checkpoint of a run, oldest first, each of them verified.

    Raises:
        UsageError: there is no such run.
    """
    folder = checkpoints_of(run_dir)
    if not folder.is_dir():
        raise UsageError(f"{run_dir} is no run directory: it has no folder {folder.name}.")
    latest, best = pointed_to(folder, LATEST), pointed_to(folder, BEST)
    return [_listed(path, path == latest, path == best) for path in reversed(checkpoints(folder))]


def find_one(path: Path) -> tuple[Path, list[str]]:
    """The checkpoint at ``path``, or the newest good one of the run there; a note on each passed over.

    Raises:
        UsageError: there is neither.
    """
    if (path / MANIFEST).is_file():
        return path, []
    if path.is_dir():
        found, _, notes = newest_good(checkpoints_of(path))
        if found is not None:
            return found, notes
        if notes:
            raise UsageError(f"no checkpoint of {path} can be used. " + " ".join(notes))
    raise UsageError(
        f"no checkpoint at {path}. Give a folder that holds {MANIFEST}, or a run directory."
    )


def tensors_in(checkpoint: Path, manifest: dict[str, Any]) -> list[TensorFacts]:
    """Every tensor in an undamaged checkpoint, by its headers."""
    found = []
    for file in FILES:
        if file in manifest["files"]:
            size = manifest["files"][file]["bytes"]
            try:
                content = read_regular(checkpoint / file, limit=size, exactly=size)
                entries = read_header(content, size)
            except (OSError, ValueError) as error:
                raise DamagedCheckpoint(checkpoint, f"{file}: {error}") from None
            found += [
                TensorFacts(file, name, str(entry.dtype).removeprefix("torch."), entry.shape)
                for name, entry in sorted(entries.items())
            ]
    return found


def _size(checkpoint: Path) -> int:
    try:
        return sum(file.lstat().st_size for file in checkpoint.iterdir())
    except OSError:  # it is no folder, or one that cannot be read: that is told of it
        return 0


def _listed(path: Path, latest: bool, best: bool) -> Listed:
    size = _size(path)
    try:
        manifest = read_manifest(path)
    except (DamagedCheckpoint, NewerCheckpoint) as error:
        return Listed(path.name, None, None, None, None, size, latest, best, error.reason)
    problem = None
    try:
        verify(path)
    except DamagedCheckpoint as error:
        problem = error.reason
    saved_at, length = manifest.get("saved_at"), manifest.get("steps_per_epoch")
    return Listed(
        name=path.name,
        step=manifest["step"],
        epoch=manifest["step"] / length if type(length) is int and length > 0 else None,
        saved_at=saved_at if type(saved_at) is float and 0 <= saved_at < _YEAR_10000 else None,
        accuracy1=accuracy(manifest),
        bytes=size,
        latest=latest,
        best=best,
        problem=problem,
    )
