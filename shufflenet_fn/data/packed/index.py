"""Reading ``packed.json`` of a folder."""

from __future__ import annotations

import os
from pathlib import Path

from shufflenet_fn.data.packed.format import INDEX_NAME, PackedIndex, index_from_fields
from shufflenet_fn.data.packed.sealed import read_sealed
from shufflenet_fn.data.packed.unfinished import PLAN_NAME
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UsageError, UserError


def is_packed(folder: Path) -> bool:
    """Whether a folder holds packed data, complete or not."""
    return any(os.path.exists(folder / name) for name in (INDEX_NAME, PLAN_NAME))


def read_index(folder: Path) -> PackedIndex:
    """The index of a packed data set.

    Raises:
      UsageError: the folder does not exist or is not packed, or not completely.
      UserError: the index is damaged or of another version.
    """
    path = folder / INDEX_NAME
    if not path.exists():
        raise UsageError(_why_not_packed(folder))
    fields = read_sealed(path)
    try:
        return index_from_fields(fields)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{printable(path)} makes no sense: {reason}. Pack the data again."
        ) from error


def _why_not_packed(folder: Path) -> str:
    shown = printable(folder)
    if not folder.is_dir():
        return f"{shown} is not a folder. Pass one that `data pack` wrote."
    if (folder / PLAN_NAME).exists():
        return (
            f"{shown} is only half packed: `data pack` was interrupted. Run it again with the "
            "same arguments; it goes on from the last finished shard."
        )
    return f"{shown} is not packed: it has no {INDEX_NAME}. Pass a folder that `data pack` wrote."
