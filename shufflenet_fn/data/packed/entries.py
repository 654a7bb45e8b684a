"""Label, place, checksum, size and name of every image of a split, in one memory-mapped file.

Little-endian columns one after the other, each with one number per image, then the original names:

=========== ====== ==============================================================
labels      int64  index into the class names
name_ends   uint64 where the image's name ends in ``names``
offsets     uint64 where the image's first byte is in its shard
sizes       uint64 bytes of the image
checksums   uint32 CRC-32 of what ``record_checksum`` says
heights     uint32 pixels
widths      uint32 pixels
names       bytes  paths relative to the split's folder, joined without separator
=========== ====== ==============================================================

Memory-mapped columns use the page cache and no private memory of the process, whatever their number.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.paths import printable

_DTYPES: dict[str, np.dtype[Any]] = {
    "labels": np.dtype("<i8"),
    "name_ends": np.dtype("<u8"),
    "offsets": np.dtype("<u8"),
    "sizes": np.dtype("<u8"),
    "checksums": np.dtype("<u4"),
    "heights": np.dtype("<u4"),
    "widths": np.dtype("<u4"),
}


class Entries(NamedTuple):
    """The columns of ``n`` images, as described in this module."""

    labels: npt.NDArray[np.int64]
    name_ends: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint64]
    checksums: npt.NDArray[np.uint32]
    heights: npt.NDArray[np.uint32]
    widths: npt.NDArray[np.uint32]
    names: npt.NDArray[np.uint8]

    def name(self, index: int) -> str:
        """Return the original path of an image, for messages."""
        start = int(self.name_ends[index - 1]) if index else 0
        # A damaged file may contain any numbers; slicing clamps them.
        return printable(os.fsdecode(bytes(self.names[start : int(self.name_ends[index])])))

    def seeds(self, indices: npt.NDArray[np.int64]) -> list[int]:
        """Return the CRC-32 of each image's place, label and size, which its record's checksum continues."""
        columns = (indices, *(column[indices] for column in (self.labels, self.heights, self.widths)))
        return [record_checksum(b"", *facts) for facts in zip(*(c.tolist() for c in columns), strict=True)]


def record_checksum(data: bytes, index: int, label: int, height: int, width: int) -> int:
    """Return the CRC-32 of a record together with its place in the split, its label and its size.

    So it detects swapped records and changed labels or sizes as well as changed bytes.
    """
    return zlib.crc32(data, zlib.crc32(struct.pack("<qqII", index, label, height, width)))


class Row(NamedTuple):
    """The entry of one image. See this module."""

    label: int
    offset: int
    size: int
    checksum: int
    height: int
    width: int
    name: str


def entries_of(rows: Sequence[Row]) -> Entries:
    """Return the columns of these entries, of which there is at least one."""
    labels, *places, paths = zip(*rows, strict=True)
    names = [os.fsencode(path) for path in paths]
    columns = (labels, np.cumsum([len(name) for name in names]), *places)
    arrays = (np.array(column, dtype) for column, dtype in zip(columns, _DTYPES.values(), strict=True))
    return Entries._make((*arrays, np.frombuffer(b"".join(names), dtype=np.uint8)))


def joined(parts: Sequence[Entries]) -> Entries:
    """Concatenate the entries of all parts."""
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Entries._fields}
    shifts = np.cumsum([0, *(len(part.names) for part in parts[:-1])], dtype=np.uint64)
    columns["name_ends"] += np.repeat(shifts, [len(part.labels) for part in parts])
    return Entries(**columns)


def entries_bytes(entries: Entries) -> bytes:
    """Return the content of the file of entries."""
    return b"".join(np.ascontiguousarray(column).tobytes() for column in entries)


def map_entries(path: Path, count: int) -> Entries:
    """Map a file of ``count`` entries, read-only.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is too small for ``count`` entries.
    """
    size, needed = os.path.getsize(path), count * sum(dtype.itemsize for dtype in _DTYPES.values())
    if needed > size:
        raise ValueError(f"{count} entries take {needed} bytes and it has {size}")
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    columns: dict[str, npt.NDArray[Any]] = {}
    start = 0
    for name, dtype in _DTYPES.items():
        stop = start + count * dtype.itemsize
        columns[name] = np.asarray(whole[start:stop]).view(dtype)
        start = stop
    return Entries(**columns, names=np.asarray(whole[start:]))
