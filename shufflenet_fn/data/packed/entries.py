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

import functools
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.paths import printable

_COLUMNS = (
    ("labels", "<i8"),
    ("name_ends", "<u8"),
    ("offsets", "<u8"),
    ("sizes", "<u8"),
    ("checksums", "<u4"),
    ("heights", "<u4"),
    ("widths", "<u4"),
)
# As `record_checksum` packs them.
_FACTS = np.dtype([("index", "<i8"), ("label", "<i8"), ("height", "<u4"), ("width", "<u4")])
_ENTRY_BYTES = sum(np.dtype(dtype).itemsize for _, dtype in _COLUMNS)


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

    def matches(self, index: int, data: bytes) -> bool:
        """Return whether ``data`` is what was packed as image ``index``, with its label and size."""
        found = record_checksum(
            data, index, int(self.labels[index]), int(self.heights[index]), int(self.widths[index])
        )
        return found == int(self.checksums[index])

    def name(self, index: int) -> str:
        """Return the original path of an image, for messages."""
        start = int(self.name_ends[index - 1]) if index else 0
        # A damaged file may contain any numbers; slicing clamps them.
        return printable(os.fsdecode(bytes(self.names[start : int(self.name_ends[index])])))


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
    """Return the columns of these entries."""
    names = [os.fsencode(row.name) for row in rows]
    ends = np.cumsum([len(name) for name in names])
    columns = ([row[field] for row in rows] for field in range(len(Row._fields) - 1))
    labels, *others = columns
    values = zip((labels, ends, *others), _COLUMNS, strict=True)
    arrays = (np.array(column, dtype=dtype) for column, (_, dtype) in values)
    return Entries._make((*arrays, np.frombuffer(b"".join(names), dtype=np.uint8)))


def joined(parts: Sequence[Entries]) -> Entries:
    """Concatenate the entries of all parts."""
    if not parts:
        return entries_of([])
    columns: dict[str, npt.NDArray[Any]] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in Entries._fields
    }
    lengths = [len(part.names) for part in parts]
    shifts = np.cumsum([0, *lengths[:-1]], dtype=np.uint64)
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
    size = os.path.getsize(path)
    if count * _ENTRY_BYTES > size:
        raise ValueError(f"{count} entries take {count * _ENTRY_BYTES} bytes and it has {size}")
    if count == 0:
        return entries_of([])
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    columns: dict[str, npt.NDArray[Any]] = {}
    start = 0
    for name, dtype in _COLUMNS:
        stop = start + count * np.dtype(dtype).itemsize
        columns[name] = np.asarray(whole[start:stop]).view(dtype)
        start = stop
    return Entries(**columns, names=np.asarray(whole[start:]))


def checksum_seeds(
    indices: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    heights: npt.NDArray[np.uint32],
    widths: npt.NDArray[np.uint32],
) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each image's place, label and size, which its record's checksum continues."""
    facts = np.empty(len(indices), dtype=_FACTS)
    facts["index"], facts["label"] = indices, labels
    facts["height"], facts["width"] = heights, widths
    # A CRC-32 is linear up to a constant: every byte adds its own term, by place and value.
    terms, zeros = _terms()
    places = np.arange(_FACTS.itemsize)
    seeds: npt.NDArray[np.uint32] = np.bitwise_xor.reduce(
        terms[places, facts.view(np.uint8).reshape(-1, _FACTS.itemsize)], axis=1
    )
    return seeds ^ zeros


@functools.cache
def _terms() -> tuple[npt.NDArray[np.uint32], np.uint32]:
    """Return what each byte adds, (places, values), and the CRC-32 of zeros alone."""
    zeros = zlib.crc32(bytes(_FACTS.itemsize))
    terms = np.empty((_FACTS.itemsize, 256), dtype=np.uint32)
    for place in range(_FACTS.itemsize):
        for value in range(256):
            facts = bytearray(_FACTS.itemsize)
            facts[place] = value
            terms[place, value] = zlib.crc32(facts) ^ zeros
    return terms, np.uint32(zeros)
