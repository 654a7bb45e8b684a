"""The positions of a finished shard's records, kept only if each record can be read there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from shufflenet_fn.data.packed.positions import (
    LayoutError,
    Positions,
    read_at,
    record_positions,
)
from shufflenet_fn.data.packed.shards import ShardError, ShardReaders


def located(path: Path, records: int, is_record: Callable[[int, bytes], bool]) -> Positions:
    """Where the records of a file are. All 0 if ArrayRecord laid it out in a way that is not known.

    Args:
      path: a finished file.
      records: how many it has.
      is_record: whether these bytes are the record of that number, counted from 0.

    Raises:
      ShardError: the file cannot be read, or does not hold what was written.
    """
    try:
        positions = record_positions(path, records)
        _check(path, positions, is_record)
    except LayoutError:
        unknown = np.zeros(records, dtype=np.uint64)
        return Positions(unknown, unknown)
    return positions


def _check(path: Path, positions: Positions, is_record: Callable[[int, bytes], bool]) -> None:
    """Raise ``LayoutError`` if a record is not at its position, and ``ShardError`` if it is nowhere."""
    with open(path, "rb", buffering=0) as file:
        places = zip(positions.offsets.tolist(), positions.sizes.tolist(), strict=True)
        for record, (offset, size) in enumerate(places):
            if is_record(record, read_at(file.fileno(), offset, size)):
                continue
            if is_record(record, ShardReaders([path]).read(0, record)):
                raise LayoutError(f"record {record} is not at {offset}")
            raise ShardError(f"record {record} of {path.name} does not read as it was written")
