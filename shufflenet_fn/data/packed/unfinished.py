"""What a killed ``data pack`` leaves, so that the next one goes on from it.

While packing, the folder holds ``packing.json`` (what is packed, and how) and, beside every finished
shard, ``train-00000.part.npz`` with the shard's facts and entries. The part is written after the
shard has its name, so that a part implies its shard; a shard without one is of a killed run.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shufflenet_fn.data.packed.entries import Entries
from shufflenet_fn.data.packed.files import TEMPORARY, write_file
from shufflenet_fn.data.packed.format import (
    INDEX_NAME,
    SHARD_SUFFIX,
    FileFacts,
    is_packed_file,
    shard_name,
)

PLAN_NAME = "packing.json"
LOCK_NAME = "packing.lock"
_PART = ".part.npz"


class Part(NamedTuple):
    """A finished shard.

    Attributes:
      shard: the file.
      entries: of its images.
      kept: how many of them are the source's own bytes.
      left_out: source images that were left out while it was written.
      next_source: the first source image after it.
      source_sha256: ``Fingerprint`` of the source images before that.
      full: it was closed because of its size, not because there were no more images.
    """

    shard: FileFacts
    entries: Entries
    kept: int
    left_out: tuple[str, ...]
    next_source: int
    source_sha256: str
    full: bool


def write_part(folder: Path, part: Part) -> None:
    """Record that a shard is finished. Raises ``OSError``."""
    fields = {name: value for name, value in part._asdict().items() if name != "entries"}
    facts = json.dumps({**fields, "shard": part.shard._asdict()})
    buffer = io.BytesIO()
    columns = {f"entries_{name}": column for name, column in part.entries._asdict().items()}
    np.savez(buffer, facts=np.frombuffer(facts.encode(), dtype=np.uint8), **columns)
    write_file(_part_path(folder, part.shard.name), buffer.getvalue())


def finished_parts(folder: Path, split: str) -> list[Part]:
    """The finished shards of a split from the first on, up to one that is missing or damaged."""
    parts: list[Part] = []
    while (part := _read_part(folder, shard_name(split, len(parts)))) is not None:
        parts.append(part)
    return parts


def remove_leftovers(folder: Path, finished: Mapping[str, list[Part]]) -> None:
    """Remove what packing wrote, except the plan, the lock and the finished shards."""
    shards = {part.shard.name for parts in finished.values() for part in parts}
    keep = {PLAN_NAME, LOCK_NAME, *shards, *(_part_path(folder, name).name for name in shards)}
    for path in list(folder.iterdir()):
        if is_packing_file(path.name) and path.name not in keep:
            path.unlink()


def remove_parts(folder: Path) -> None:
    """Remove what is of use only while packing."""
    for path in [*folder.glob(f"*{_PART}"), folder / PLAN_NAME]:
        path.unlink(missing_ok=True)


def is_packing_file(name: str) -> bool:
    """Whether packing writes a file of this name, at some time."""
    name = name.removesuffix(TEMPORARY)
    shard = f"{name.removesuffix(_PART)}{SHARD_SUFFIX}"
    part = name.endswith(_PART) and is_packed_file(shard)
    return part or is_packed_file(name) or name in (INDEX_NAME, PLAN_NAME, LOCK_NAME)


def _part_path(folder: Path, shard: str) -> Path:
    return folder / (shard.removesuffix(SHARD_SUFFIX) + _PART)


def _read_part(folder: Path, shard: str) -> Part | None:
    """The part of a shard, or None if there is none or it does not fit what is there."""
    try:
        # The zip file's checksums are verified as its arrays are read.
        with np.load(_part_path(folder, shard), allow_pickle=False) as arrays:
            facts: dict[str, Any] = json.loads(bytes(arrays["facts"]))
            entries = Entries(*(arrays[f"entries_{name}"] for name in Entries._fields))
        facts["left_out"] = tuple(facts["left_out"])
        part = Part(**{**facts, "shard": FileFacts(**facts["shard"]), "entries": entries})
        complete = os.path.getsize(folder / shard) == part.shard.bytes
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return part if complete and part.shard.name == shard else None
