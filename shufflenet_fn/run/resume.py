"""Resume: choose what a run continues from, once, under the lock of its run directory.

``find_resume`` and ``find_run`` lock the run directory, then read the checkpoint. Their result is passed down
and pickled to ranks, so no later stage chooses or reads a checkpoint again. Only a restart after a failure
looks for a newer checkpoint (``newest_of``).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, NamedTuple

from shufflenet_fn.checkpoint.format import MANIFEST, DamagedCheckpoint, step_of
from shufflenet_fn.checkpoint.inventory import checkpoints, checkpoints_of, lies_in, links, newest_good
from shufflenet_fn.checkpoint.read import Content, read_checkpoint, read_manifest
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.paths import printable
from shufflenet_fn.model.config import PREFIX
from shufflenet_fn.run.directory import CONFIG, RESULTS, runs_in
from shufflenet_fn.run.epochs import Epochs, epochs_of
from shufflenet_fn_backends.support.errors import UsageError, UserError

AUTO: Final = "auto"

Lock = Callable[[Path], AbstractContextManager[str | None]]
"""Locks a run directory; gives a warning where it cannot."""


class Resume(NamedTuple):
    """The checkpoint that a run continues from: read, hashed and checked once.

    ``run_dir``: the run directory that it lies in; ``None`` for a copy that lies in no run.
    """

    content: Content
    run_dir: Path | None

    @property
    def checkpoint(self) -> Path:
        return self.content.path

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self.content.manifest

    @property
    def step(self) -> int:
        return int(self.content.manifest["step"])


class Found(NamedTuple):
    """What a start found. ``resume``: ``None`` to start from the beginning.

    ``run_dir``: an existing one, which is locked; ``None`` if one has to be made. ``warning``: of its lock.
    """

    resume: Resume | None = None
    run_dir: Path | None = None
    notes: tuple[str, ...] = ()
    warning: str | None = None


# ------------------------------------------------------------------- find the checkpoint and read it


def find_resume(path: Path, lock: Lock, held: contextlib.ExitStack) -> Found:
    """Return what ``--resume path`` continues from; ``path`` is a run directory or a checkpoint.

    For a run directory, the newest undamaged checkpoint is used. A checkpoint outside a run directory, such
    as a copy, gets a new run directory. ``held`` keeps the lock, which is taken before anything is read.

    Raises:
        UsageError: nothing to resume there.
        UserError: another run holds it, or all checkpoints are damaged.
    """
    run_dir = warning = None
    if (path / MANIFEST).exists():
        run_dir = run_of(path)
    elif _has_any(checkpoints_of(path)):
        run_dir = path
    if run_dir is not None:
        warning = held.enter_context(lock(run_dir))
    content, notes = find_checkpoint(path)
    if run_dir is None:
        notes.append(f"{content.path} lies in no run directory, so this run has one of its own")
    return Found(_checked(content, run_dir), run_dir, tuple(notes), warning)


def find_run(settings: TrainSettings, lock: Lock, held: contextlib.ExitStack) -> Found:
    """Return what ``--resume auto`` continues from, so that the same command works when it is given again.

    With ``--run-dir``, the run continues there if it has a checkpoint. If none of its checkpoints is usable,
    an error is raised, because a new start would silently discard the training so far. Otherwise the newest
    unfinished ``OUTPUT/ARCH-NNN`` with an undamaged checkpoint is used, and skipped ones are named.

    Raises:
        UserError: another run holds it, or all checkpoints of ``--run-dir`` are damaged.
    """
    if settings.run_dir is not None:
        return _find_in(Path(settings.run_dir), lock, held)
    notes: list[str] = []
    done: list[Path] = []
    for _, path in runs_in(Path(settings.output), settings.arch):
        try:
            folder = checkpoints_of(path)
            if not _has_any(folder):
                continue
            if _is_done(path, settings.max_steps):
                done.append(path)
                continue
        except UserError as error:
            notes.append(_unusable(path, [str(error)]))
            continue
        with contextlib.ExitStack() as taken:
            warning = taken.enter_context(lock(path))
            # The previous lock holder may have finished the run.
            if _is_done(path, settings.max_steps):
                continue
            content, skipped = newest_good(folder)
            if content is not None:
                notes.append(f"--resume auto: going on with {path}")
                found = Found(_checked(content, path), path, (*notes, *skipped), warning)
                held.push(taken.pop_all())
                return found
            notes.append(_unusable(path, skipped))
    name = settings.arch.removeprefix(PREFIX)
    start = (
        f"--resume auto: no run {name}-NNN in {settings.output} is unfinished and has a good checkpoint, so "
        "this is a start"
    )
    if done:
        start += f"; {done[0]} is done, and goes on with --resume {done[0]} and more --epochs or --max-steps"
    return Found(notes=(*notes, start))


def _find_in(path: Path, lock: Lock, held: contextlib.ExitStack) -> Found:
    folder = checkpoints_of(path)
    start = f"--resume auto: there is no checkpoint in {path} yet, so this is a start"
    if not _has_any(folder) and not (path / CONFIG).exists():
        return Found(notes=(start,))
    warning = held.enter_context(lock(path))
    content, skipped = newest_good(folder)
    if content is not None:
        notes = (f"--resume auto: going on with {path}", *skipped)
        return Found(_checked(content, path), path, notes, warning)
    if skipped:
        raise _none_usable(folder, skipped)
    return Found(None, path, (start,), warning)  # a run that ended before its first checkpoint


def _unusable(path: Path, reasons: Sequence[str]) -> str:
    return f"--resume auto: no checkpoint of {path} can be used. {' '.join(reasons)}"


def _has_any(folder: Path) -> bool:
    return bool(checkpoints(folder) or links(folder))


def run_of(checkpoint: Path) -> Path | None:
    """Return the run directory that ``checkpoint`` lies in, below ``checkpoints/`` or as a dump."""
    whole = checkpoint.resolve() if checkpoint.is_symlink() else checkpoint
    whole = whole if len(whole.parts) > 2 else whole.resolve()
    run_dir = whole.parent.parent
    return run_dir if (run_dir / CONFIG).exists() else None


def find_checkpoint(path: Path, lacking: str = "nothing to resume") -> tuple[Content, list[str]]:
    """Read the newest undamaged checkpoint of a run directory, or ``path`` itself if it is a checkpoint.

    Returns it, and a note on every one that was skipped. Messages begin with what is ``lacking``.
    """
    if not path.is_dir():
        raise UsageError(f"{lacking} at {path}: there is no such directory.")
    if (path / MANIFEST).exists():
        path = path.resolve() if path.is_symlink() else path
        return read_checkpoint(path), []
    folder = checkpoints_of(path)
    content, notes = newest_good(folder)
    if content is not None:
        return content, notes
    if notes:
        raise _none_usable(folder, notes)
    if (path / CONFIG).exists():
        raise UsageError(
            f"{lacking} at {path}: the run there has no checkpoint yet. Give the command that "
            f"started it again, with --run-dir {path} --resume auto."
        )
    raise UsageError(
        f"{lacking} at {path}: it is neither a checkpoint nor a run directory with one below checkpoints/."
    )


def _none_usable(folder: Path, reasons: Sequence[str], before: str = "") -> UserError:
    return UserError(
        f"{before}no checkpoint in {folder} can be used. {' '.join(reasons)} To start from the beginning, "
        "choose another --run-dir."
    )


def _is_done(run_dir: Path, max_steps: int | None) -> bool:
    """Return whether nothing is left to do in a run up to ``max_steps``.

    One that an earlier start's ``--max-steps`` has cut short has results, but goes on.
    """
    try:
        results = json.loads((run_dir / RESULTS).read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    match results, _epochs_in(run_dir):
        case {"epochs": int(epochs), "steps": int(steps)}, Epochs() as counted:
            planned = counted.start(epochs)
            return steps >= min(planned, max_steps or planned)
    return True  # nothing can be added to it


def _epochs_in(run_dir: Path) -> Epochs | None:
    """Return how a run counts, from the newest checkpoint whose manifest can be read."""
    with contextlib.suppress(UserError):  # where the folder itself cannot be read
        for checkpoint in checkpoints(checkpoints_of(run_dir)):
            with contextlib.suppress(UserError):
                return epochs_of(_checked_manifest(read_manifest(checkpoint), checkpoint))
    return None


# ---------------------------------------------------------------------- what its manifest must hold


def check_classes(manifest: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Raise ``UsageError`` unless labels still mean what the weights learned. ``classes``: of the data."""
    if list(classes) != manifest["classes"]:
        changed = list(map(printable, sorted(set(classes) ^ set(manifest["classes"]))))
        raise UsageError(
            f"the data has other classes than the run had ({', '.join(changed[:5]) or 'their order'}). "
            "Restore the data, or start a new run with --pretrained."
        )


def _checked(content: Content, run_dir: Path | None) -> Resume:
    _checked_manifest(content.manifest, content.path)
    return Resume(content, run_dir)


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


def _checked_manifest(manifest: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return ``manifest`` after checking that a run can resume from it.

    Hashes do not tell: anyone can compute them.
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


# ------------------------------------------------------------------------ restart after a failure


def newest_of(run_dir: Path, resume: Resume | None) -> tuple[Resume | None, list[str]]:
    """Return the checkpoint to continue from after a failure, and notes on those that were skipped.

    It is the newest undamaged one in ``run_dir``, or ``resume``, from which the run was started, if that is
    elsewhere and newer: a copy, one that was set aside, or the state before a dumped step.

    Raises:
        UserError: there are checkpoints, and none can be used.
    """
    folder = checkpoints_of(run_dir)
    content, skipped = newest_good(folder, known=None if resume is None else resume.content)
    listed = resume and lies_in(folder, resume.checkpoint) and step_of(resume.checkpoint.name) is not None
    if resume is not None and not listed:
        if content is None or resume.step > content.manifest["step"]:
            return resume, skipped
    elif content is None and skipped:
        raise _none_usable(folder, skipped, "the run cannot be started again: ")
    return None if content is None else _checked(content, run_dir), skipped


def same_or_read(own: Resume | None, chosen: Chosen | None, run_dir: Path) -> Resume | None:
    """Return the checkpoint that rank 0 has ``chosen``: ``own`` if it is the same, else read it."""
    if chosen is None:
        return None
    if own is not None and own.content.fingerprint == chosen.fingerprint:
        return own._replace(content=own.content._replace(path=chosen.checkpoint))
    return _checked(read_checkpoint(chosen.checkpoint), run_dir)


class Chosen(NamedTuple):
    """What rank 0 tells the other ranks of its ``Resume``."""

    checkpoint: Path
    fingerprint: str
