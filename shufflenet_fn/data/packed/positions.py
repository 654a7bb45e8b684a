"""Where the bytes of each record lie in an ArrayRecord file, for readers that go to them directly.

ArrayRecord writes Riegeli/records files. Their format is described in ``doc/riegeli_records_file_format.md``
of google/riegeli; of it, this is what a file with one uncompressed record per chunk uses:

- Every 64 KiB, the file's start included, stand 24 bytes of a block header, whatever they interrupt.
- A chunk has 40 bytes of header (hash, size of its data, hash of its data, kind and number of records,
  bytes of all records) and then its data. Chunks follow one another; the first is a signature.
- The data of a chunk of records are the kind of compression in a byte (0: none), how many bytes the sizes
  take, the size of each record, then the records. Those numbers are varints.

After the records ArrayRecord writes one more chunk, its footer, with an entry of its own for each of them.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.packed.shards import ShardError

BLOCK_BYTES = 1 << 16
BLOCK_HEADER_BYTES = 24

_USABLE_BYTES = BLOCK_BYTES - BLOCK_HEADER_BYTES
_HEADER = struct.Struct("<8xQ8xQQ")
_VARINT_BYTES = 10  # the longest, of 64 bits
_PREFIX_BYTES = 1 + 2 * _VARINT_BYTES
_SIGNATURE, _RECORDS = ord("s"), ord("r")


class LayoutError(ShardError):
    """The file is damaged, or laid out otherwise than this module knows."""


class Positions(NamedTuple):
    """Of a shard's records, ``(records,)`` each.

    Attributes:
      offsets: where the first byte is in the file. Never 0.
      sizes: in bytes, the block headers in between not counted.
    """

    offsets: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint64]


class _Chunk(NamedTuple):
    """A chunk's header; ``first`` is the position of its first byte."""

    first: int
    data_bytes: int
    kind: int
    records: int
    record_bytes: int


def record_positions(path: Path, records: int) -> Positions:
    """The positions of all records, told from the headers of a finished file.

    Args:
      path: a file of one uncompressed record per chunk.
      records: how many it must have, at least 1.

    Raises:
      LayoutError: it is another kind of file, is damaged there, or has another number of records.
      ShardError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ShardError(str(error.strerror)) from error
    try:
        return _positions(descriptor, records)
    finally:
        os.close(descriptor)


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """The record of ``size`` bytes that begins at ``offset`` of an open file, without block headers.

    What is read is not checked: compare its checksum. For any number of threads.

    Raises:
      LayoutError: no record can lie there.
      ShardError: it cannot be read.
    """
    if offset % BLOCK_BYTES < BLOCK_HEADER_BYTES:
        raise LayoutError(f"offset {offset} is in a block header")
    stop = _after(offset, size)
    try:
        end = os.fstat(descriptor).st_size
        if stop > end:
            raise LayoutError(f"{size} bytes from offset {offset} end behind the file's {end}")
        data = _read_whole(descriptor, offset, stop - offset)
    except OSError as error:
        raise ShardError(str(error.strerror)) from error
    before = min(size, BLOCK_BYTES - offset % BLOCK_BYTES)
    if len(data) == before:
        return data
    pieces = [data[:before]]
    for block in range(before, len(data), BLOCK_BYTES):
        pieces.append(data[block + BLOCK_HEADER_BYTES : block + BLOCK_BYTES])
    return b"".join(pieces)


def _positions(descriptor: int, records: int) -> Positions:
    signature = _chunk(descriptor, 0)
    if signature != (_past_header(0), 0, _SIGNATURE, 0, 0):
        raise LayoutError("it does not begin with the signature of Riegeli/records")
    found = np.zeros((2, records), dtype="<u8")
    begin = _after(signature.first, _HEADER.size)
    for record in range(records):
        chunk = _chunk(descriptor, begin)
        found[:, record] = _place(descriptor, chunk, record)
        begin = _after(chunk.first, _HEADER.size + chunk.data_bytes)
    footer = _chunk(descriptor, begin)
    if footer.kind != _RECORDS or footer.records <= records:
        raise LayoutError(f"no footer of {records} records follows them")
    return Positions(found[0], found[1])


def _chunk(descriptor: int, begin: int) -> _Chunk:
    first = _past_header(begin)
    data_bytes, kind_and_records, record_bytes = _HEADER.unpack(
        read_at(descriptor, first, _HEADER.size)
    )
    return _Chunk(first, data_bytes, kind_and_records & 0xFF, kind_and_records >> 8, record_bytes)


def _place(descriptor: int, chunk: _Chunk, record: int) -> tuple[int, int]:
    """Offset and size of a chunk's only record."""
    if chunk.kind != _RECORDS or chunk.records != 1:
        raise LayoutError(f"record {record} is not in a chunk of its own")
    start = _past_header(_after(chunk.first, _HEADER.size))
    prefix = read_at(descriptor, start, min(_PREFIX_BYTES, chunk.data_bytes))
    if prefix[:1] != b"\0":
        raise LayoutError(f"record {record} is compressed")
    sizes_bytes, sizes_start = _varint(prefix, 1)
    size, values_start = _varint(prefix, sizes_start)
    if values_start - sizes_start != sizes_bytes:
        raise LayoutError(f"the chunk of record {record} holds sizes of more than one")
    if not size == chunk.record_bytes == chunk.data_bytes - values_start:
        raise LayoutError(f"the sizes of record {record} contradict each other")
    return _past_header(_after(start, values_start)), size


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """The number that begins at ``start``, seven bits a byte, and where it ends."""
    value = 0
    for place, byte in enumerate(data[start : start + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, start + place + 1
    raise LayoutError("a size does not end")


def _past_header(position: int) -> int:
    """The position of the byte that comes next at ``position``, where a block header may stand."""
    return position if position % BLOCK_BYTES else position + BLOCK_HEADER_BYTES


def _after(first: int, size: int) -> int:
    """The position right behind ``size`` bytes, of which the first is at ``first``."""
    behind_block = max(0, size - (BLOCK_BYTES - first % BLOCK_BYTES))
    return first + size + -(-behind_block // _USABLE_BYTES) * BLOCK_HEADER_BYTES


def _read_whole(descriptor: int, offset: int, size: int) -> bytes:
    """Some systems read 2 GiB at a time at most. Raises ``OSError``, ``LayoutError``."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise LayoutError(f"it ends at {offset + len(data)}, in a record")
        data += more
    return data
