"""Describe and compare checkpoints, for the commands that list, show and compare them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.checkpoint.format import (
    EMA,
    FILES,
    MANIFEST,
    OWN_HASH,
    WEIGHTS,
    DamagedCheckpoint,
    NewerCheckpoint,
    epochs_done,
)
from shufflenet_fn.checkpoint.inventory import (
    BEST,
    LATEST,
    accuracy,
    checkpoints,
    checkpoints_of,
    newest_good,
    pointed_to,
)
from shufflenet_fn.checkpoint.read import Content, read_checkpoint, read_manifest, verify
from shufflenet_fn.checkpoint.torchvision import not_finite
from shufflenet_fn_backends.support.errors import UsageError

_YEAR_10000: Final = 253_402_214_400.0
"""Seconds since the epoch, before the year 10000 in every time zone: no date is later."""


class Listed(NamedTuple):
    """A checkpoint in a list. ``problem``: what is wrong with it; other fields may be ``None`` then."""

    name: str
    bytes: int
    latest: bool
    best: bool
    step: int | None = None
    epoch: float | None = None
    saved_at: float | None = None
    accuracy1: float | None = None
    problem: str | None = None


class TensorFacts(NamedTuple):
    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]


def list_checkpoints(run_dir: Path) -> list[Listed]:
    """Return every checkpoint of a run, oldest first, each of them verified.

    Raises:
        UsageError: there is no such run.
    """
    folder = checkpoints_of(run_dir)
    if not folder.is_dir():
        raise UsageError(f"{run_dir} is no run directory: it has no folder {folder.name}.")
    latest, best = pointed_to(folder, LATEST), pointed_to(folder, BEST)
    return [
        _with_contents(Listed(path.name, _size(path), path == latest, path == best), path)
        for path in reversed(checkpoints(folder))
    ]


def find_one(path: Path) -> tuple[Content, list[str]]:
    """Return the checkpoint at ``path``, or the newest good one of the run there; and notes.

    They tell what was skipped, or which weights of a checkpoint at ``path`` itself are not finite.

    Raises:
        UsageError: there is neither.
        DamagedCheckpoint, NewerCheckpoint: it is damaged, or of a newer format.
    """
    if (path / MANIFEST).is_file():
        content = read_checkpoint(path, finite=False)
        found_in = {name: not_finite(content.files.get(name, {})) for name in (WEIGHTS, EMA)}
        return content, [
            f"warning: {path}: {name} holds values that are not finite (NaN or infinite): {wrong}"
            for name, wrong in found_in.items()
            if wrong
        ]
    if path.is_dir():
        found, notes = newest_good(checkpoints_of(path))
        if found is not None:
            return found, notes
        if notes:
            raise UsageError(f"no checkpoint of {path} can be used. " + " ".join(notes))
    raise UsageError(f"no checkpoint at {path}. Give a folder that holds {MANIFEST}, or a run directory.")


def tensors_in(content: Content) -> list[TensorFacts]:
    """Return every tensor in a checkpoint, by file and name."""
    return [
        TensorFacts(file, name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for file in FILES
        for name, tensor in sorted(content.files.get(file, {}).items())
    ]


def _size(checkpoint: Path) -> int:
    try:
        return sum(file.lstat().st_size for file in checkpoint.iterdir())
    except OSError:  # not a folder, or unreadable: ``problem`` says so
        return 0


def _with_contents(listed: Listed, path: Path) -> Listed:
    try:
        manifest = read_manifest(path)
        saved_at = manifest.get("saved_at")
        listed = listed._replace(
            step=manifest["step"],
            epoch=epochs_done(manifest),
            saved_at=saved_at if type(saved_at) is float and 0 <= saved_at < _YEAR_10000 else None,
            accuracy1=accuracy(manifest),
        )
        verify(path)
    except (DamagedCheckpoint, NewerCheckpoint) as error:
        return listed._replace(problem=error.reason)
    return listed


_OF_THE_OCCASION: Final = dict.fromkeys(("saved_at", "files", OWN_HASH))
"""Manifest entries that differ between any two saves, and are not compared."""


class ValueDifference(NamedTuple):
    """A manifest entry that differs: its dotted path and both values, ``None`` where it is absent."""

    name: str
    first: Any
    second: Any


class TensorDifference(NamedTuple):
    """A tensor that differs. ``how``: ``missing in the first`` and the like, or ``values``.

    ``largest``: largest absolute difference of a value, NaN where only one has a NaN; ``None`` if they
    cannot be compared. ``elements``: how many differ.
    """

    file: str
    name: str
    how: str
    largest: float | None
    elements: int | None


class Comparison(NamedTuple):
    """Result of ``compare``. ``tensors``: number of tensors compared."""

    values: list[ValueDifference]
    different: list[TensorDifference]
    tensors: int

    @property
    def identical(self) -> bool:
        """Whether all tensors are in both, with the same bytes."""
        return not self.different


def compare(first: Content, second: Content) -> Comparison:
    """Return the differences between two checkpoints."""
    left, right = (_flat_tensors(content) for content in (first, second))
    keys = sorted(left.keys() | right.keys())
    found = (_tensor(key, left.get(key), right.get(key)) for key in keys)
    values = _values("", *({**content.manifest, **_OF_THE_OCCASION} for content in (first, second)))
    return Comparison(list(values), [item for item in found if item is not None], len(keys))


def _flat_tensors(content: Content) -> dict[tuple[str, str], Tensor]:
    return {
        (file, name): tensor for file, tensors in content.files.items() for name, tensor in tensors.items()
    }


def _values(prefix: str, first: object, second: object) -> Iterator[ValueDifference]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            yield from _values(f"{prefix}.{key}" if prefix else key, first.get(key), second.get(key))
    elif first != second:
        yield ValueDifference(prefix, first, second)


def _tensor(key: tuple[str, str], first: Tensor | None, second: Tensor | None) -> TensorDifference | None:
    if first is None or second is None:
        which = "first" if first is None else "second"
        return TensorDifference(*key, f"missing in the {which}", None, None)
    if first.shape != second.shape or first.dtype != second.dtype:
        how = f"{_kind(first)} and {_kind(second)}"
        return TensorDifference(*key, how, None, None)
    unequal = (_bytes(first) != _bytes(second)).reshape(-1, first.element_size()).any(dim=1)
    if not unequal.any():
        return None
    left, right = (tensor.flatten()[unequal].double() for tensor in (first, second))
    # Equal values of other bits, such as two NaNs, are no distance apart.
    same = (left == right) | (left.isnan() & right.isnan())
    largest = torch.where(same, 0.0, (left - right).abs()).max()
    return TensorDifference(*key, "values", largest.item(), int(unequal.sum()))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
