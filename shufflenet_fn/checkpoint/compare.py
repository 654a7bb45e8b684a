"""Two checkpoints beside each other: settings and tensors that are not the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.checkpoint.format import OWN_HASH
from shufflenet_fn.checkpoint.read import Content

_OF_THE_OCCASION = {"saved_at", "files", OWN_HASH}
"""Of a manifest, what differs between any two saves."""


class ValueDifference(NamedTuple):
    """An entry of the manifests, by dotted path, and what it is in each; ``None`` where it is not."""

    name: str
    first: Any
    second: Any


class TensorDifference(NamedTuple):
    """A tensor that is not the same. ``how``: ``missing in the first`` and the like, or ``values``.

    ``largest``: largest absolute difference of a value, NaN where only one has a NaN; ``None`` if they
    cannot be compared. ``elements``: how many differ.
    """

    file: str
    name: str
    how: str
    largest: float | None
    elements: int | None


class Comparison(NamedTuple):
    """``tensors``: how many were compared."""

    values: list[ValueDifference]
    different: list[TensorDifference]
    tensors: int

    @property
    def identical(self) -> bool:
        """Every tensor is in both, with the same bytes."""
        return not self.different


def compare(first: Content, second: Content) -> Comparison:
    """What is different between two checkpoints, both read and so verified."""
    left, right = (_flat_tensors(content) for content in (first, second))
    keys = sorted(left.keys() | right.keys())
    different = [
        difference
        for key in keys
        if (difference := _tensor(key, left.get(key), right.get(key))) is not None
    ]
    return Comparison(
        list(_values("", _told(first.manifest), _told(second.manifest))), different, len(keys)
    )


def _flat_tensors(content: Content) -> dict[tuple[str, str], Tensor]:
    return {
        (file, name): tensor
        for file, tensors in content.files.items()
        for name, tensor in tensors.items()
    }


def _told(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in _OF_THE_OCCASION}


def _values(prefix: str, first: object, second: object) -> Iterator[ValueDifference]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            yield from _values(
                f"{prefix}.{key}" if prefix else key, first.get(key), second.get(key)
            )
    elif first != second:
        yield ValueDifference(prefix, first, second)


def _tensor(
    key: tuple[str, str], first: Tensor | None, second: Tensor | None
) -> TensorDifference | None:
    if first is None or second is None:
        which = "first" if first is None else "second"
        return TensorDifference(*key, f"missing in the {which}", None, None)
    if first.shape != second.shape or first.dtype != second.dtype:
        how = f"{_kind(first)} and {_kind(second)}"
        return TensorDifference(*key, how, None, None)
    if torch.equal(_bytes(first), _bytes(second)):
        return None
    wide = first.double() - second.double()
    unequal = (_bytes(first) != _bytes(second)).reshape(first.numel(), -1).any(dim=1)
    # Equal infinities, or NaNs of other bits, give NaN here and are no distance.
    wide = wide.flatten()[unequal]
    same = (first.flatten()[unequal] == second.flatten()[unequal]) | (
        first.flatten()[unequal].isnan() & second.flatten()[unequal].isnan()
    )
    largest = torch.where(same, 0.0, wide.abs()).max()
    return TensorDifference(*key, "values", largest.item(), int(unequal.sum()))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
