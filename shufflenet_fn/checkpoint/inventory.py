"""The checkpoints of a run: which one to resume from, which are marked, and which may be removed.

``latest.json`` and ``best.json`` name a checkpoint for people and other programs. A resume does not depend on
them: it uses the newest checkpoint that passes verification.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from shufflenet_fn.checkpoint.format import REPLACED, DamagedCheckpoint, NewerCheckpoint, epochs_done, step_of
from shufflenet_fn.checkpoint.read import Content, read_checkpoint, read_manifest, verify
from shufflenet_fn.checkpoint.write import retire
from shufflenet_fn.io import (
    DISK,
    Disk,
    explained,
    parse_json,
    read_regular,
    remove_tree,
    replace_file,
    to_json,
)
from shufflenet_fn_backends.support.errors import UserError

CHECKPOINTS = "checkpoints"
LATEST = "latest"
BEST = "best"


class Retention(NamedTuple):
    """Which checkpoints to keep besides the latest and the best one.

    ``last``: number of newest ones. ``best``: number of those with the highest top-1 accuracy. ``every``:
    keep those at the end of every ``every``-th epoch; 0 for none.
    """

    last: int = 2
    best: int = 1
    every: int = 0


def checkpoints_of(run_dir: Path) -> Path:
    """Return the folder of a run's checkpoints.

    Raises:
        UserError: it is a symbolic link out of the run directory, where nothing is to be read or removed.
    """
    folder = run_dir / CHECKPOINTS
    if folder.is_symlink() and not folder.resolve().is_relative_to(run_dir.resolve()):
        raise UserError(
            f"{folder} is a symbolic link that leads out of the run directory, to {folder.resolve()}. "
            "Checkpoints there are neither read nor removed. Move them into the run directory; to keep "
            "a run on another disk, link the whole run directory."
        )
    return folder


def checkpoints(folder: Path) -> list[Path]:
    """Return all checkpoints in ``folder``, newest first, damaged ones included, without symbolic links.

    Raises:
        UserError: the folder cannot be read.
    """
    found = []
    for path in _entries(folder):
        step = step_of(path.name)
        if step is not None and not path.is_symlink():
            found.append((step, not path.name.endswith(REPLACED), path))
    return [path for *_, path in sorted(found, reverse=True)]


def links(folder: Path) -> list[Path]:
    """Return the symbolic links in ``folder`` that are named like checkpoints."""
    return sorted(path for path in _entries(folder) if step_of(path.name) is not None and path.is_symlink())


def lies_in(folder: Path, checkpoint: Path) -> bool:
    """Return whether ``checkpoint`` is in ``folder``, under any name."""
    return checkpoint.resolve().parent == folder.resolve()


def _entries(folder: Path) -> list[Path]:
    with explained(f"look for checkpoints in {folder}", "Make it readable."):
        return list(folder.iterdir()) if folder.is_dir() else []


def newest_good(folder: Path, *, known: Content | None = None) -> tuple[Content | None, list[str]]:
    """Read and return the newest undamaged checkpoint, and a note on each that was skipped.

    ``known``: a checkpoint that this process has already read, and does not read again.
    """
    notes = [f"skipped: {path} is a symbolic link, and is not followed." for path in links(folder)]
    for path in checkpoints(folder):
        try:
            if known is not None and read_manifest(path) == known.manifest:
                return known._replace(path=path), notes
            return read_checkpoint(path), notes
        except (DamagedCheckpoint, NewerCheckpoint) as error:
            notes.append(f"skipped: {error}")
    return None, notes


def point_to(folder: Path, name: str, checkpoint: Path, *, disk: Disk = DISK) -> None:
    """Point ``folder/name.json`` to ``checkpoint``, atomically."""
    content = to_json({"checkpoint": checkpoint.name}).encode()
    fix = "Free some space or make the run directory writable, then go on with --resume."
    with explained(f"write {folder / name}.json", fix):
        replace_file(folder / f"{name}.json", content, disk=disk)


def pointed_to(folder: Path, name: str) -> Path | None:
    """Return the checkpoint that ``folder/name.json`` points to; ``None`` if there is none in ``folder``."""
    try:
        pointer = parse_json(read_regular(folder / f"{name}.json", limit=4096))
        named = pointer["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(named, str) or step_of(named) is None:
        return None
    # While a checkpoint of the same step replaces it, it briefly has another name.
    for path in (folder / named, folder / (named + REPLACED)):
        if path.is_dir() and not path.is_symlink():
            return path
    return None


def prune(folder: Path, retention: Retention, *, disk: Disk = DISK) -> None:
    """Remove what ``retention`` does not keep. Unreadable checkpoints are neither counted nor removed.

    Raises:
        UserError: a checkpoint cannot be removed.
    """
    kept = {pointed_to(folder, BEST), pointed_to(folder, LATEST)}
    known: list[tuple[Path, dict[str, Any]]] = []
    for path in checkpoints(folder):
        try:
            known.append((path, read_manifest(path)))
        except UserError:
            kept.add(path)
    kept.update(path for path, _ in known[: retention.last])
    scored = [(score, path) for path, manifest in known if (score := accuracy(manifest)) is not None]
    # Among equal scores, prefer the earlier checkpoint, as for the best one.
    ranked = sorted(scored, key=lambda item: (-item[0], item[1].name))
    kept.update(path for _, path in ranked[: retention.best])
    kept.update(path for path, manifest in known if _is_milestone(manifest, retention.every))
    fix = "Make the run directory writable, then go on with --resume."
    with explained(f"remove an old checkpoint in {folder}", fix):
        for path, _ in known:
            if path not in kept:
                retire(disk, path)


def tidy(folder: Path, *, disk: Disk = DISK) -> None:
    """Clean up what a killed process left behind. The caller must hold the lock of the run."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and path.name.endswith((".partial", ".removed")):
            if path.is_dir() and not path.is_symlink():
                remove_tree(disk, path)
            else:
                disk.unlink(path)
        elif step_of(path.name) is not None and path.name.endswith(REPLACED):
            final = path.with_name(path.name.removesuffix(REPLACED))
            if final.exists() and _is_good(final):
                retire(disk, path)
            elif not final.exists():
                disk.rename(path, final)
                disk.flush(folder)


def accuracy(manifest: dict[str, Any]) -> float | None:
    """Return the top-1 accuracy of a checkpoint's weights; ``None`` if they were not evaluated."""
    match manifest.get("scores"):
        case {"accuracy1": float(value) | int(value)} if 0 <= value <= 100:
            return float(value)
    return None


def _is_milestone(manifest: dict[str, Any], every: int) -> bool:
    done = epochs_done(manifest)
    return bool(every) and done is not None and done % every == 0


def _is_good(checkpoint: Path) -> bool:
    try:
        verify(checkpoint)
    except UserError:
        return False
    return True
