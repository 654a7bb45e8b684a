"""From encoded images to finished shards, each written aside and recorded when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.packed.encode import Record, encode_record
from shufflenet_fn.data.packed.entries import Entries, entries_of, record_checksum
from shufflenet_fn.data.packed.files import publish, sha256_of, temporary
from shufflenet_fn.data.packed.format import FileFacts, PackSettings, shard_name
from shufflenet_fn.data.packed.locating import located
from shufflenet_fn.data.packed.plan import Fingerprint
from shufflenet_fn.data.packed.positions import Positions
from shufflenet_fn.data.packed.shards import ShardWriter
from shufflenet_fn.data.packed.unfinished import Part, write_part
from shufflenet_fn.data.sources import ImageFolder


class Packable(NamedTuple):
    """A source image, encoded, or ``None`` if it is left out."""

    source: int
    record: Record | None


def encode_source(
    samples: ImageFolder, settings: PackSettings, skip_bad_images: bool, index: int
) -> Packable:
    """Read and encode a source image. Raises ``UserError``."""
    try:
        data = bytes(samples.read(index).data)
        return Packable(index, encode_record(data, settings, name=samples.name(index)))
    except BadImage:
        if not skip_bad_images:
            raise
    return Packable(index, None)


def write_shards(
    encoded: Iterator[Packable],
    samples: ImageFolder,
    folder: Path,
    settings: PackSettings,
    finished: Sequence[Part],
    fingerprint: Fingerprint,
) -> tuple[list[Part], tuple[str, ...]]:
    """Write the shards that follow the finished ones.

    Args:
      encoded: the source's images after those in ``finished``, in order.
      samples: the source.
      folder: where to write.
      settings: when a shard is full.
      finished: the split's shards so far.
      fingerprint: of the source, for the record of what a shard was made from.

    Returns:
      All shards of the split, and the images that were left out after the last of them.

    Raises:
      OSError, ShardError: the folder cannot be written.
      UserError: from ``encoded``.
    """
    parts = list(finished)
    while True:
        name = shard_name(samples.split, len(parts))
        first = sum(part.shard.images for part in parts)
        shard = _Shard(folder / name, first)
        try:
            full = shard.fill(encoded, samples, settings.shard_bytes)
            if shard.images == 0:
                return parts, tuple(shard.left_out)
            parts.append(shard.finish(fingerprint, full=full))
        finally:
            shard.discard()
        write_part(folder, parts[-1])
        if not full:
            return parts, ()


class _Row(NamedTuple):
    label: int
    checksum: int
    height: int
    width: int
    name: str


class _Shard:
    """A shard as it is written: its file, created with the first image, and its entries."""

    def __init__(self, path: Path, first: int) -> None:
        self._path, self._first = path, first
        self._writer: ShardWriter | None = None
        self._rows: list[_Row] = []
        self._kept = 0
        self._next_source = 0
        self.left_out: list[str] = []

    @property
    def images(self) -> int:
        return len(self._rows)

    def fill(self, encoded: Iterator[Packable], samples: ImageFolder, size: int) -> bool:
        """Add images until their records hold ``size`` bytes; False if they ran out before."""
        for source, record in encoded:
            name = samples.paths[source]
            self._next_source = source + 1
            if record is None:
                self.left_out.append(name)
            elif self._add(record, int(samples.labels[source]), name) >= size:
                return True
        return False

    def finish(self, fingerprint: Fingerprint, *, full: bool) -> Part:
        """Complete the file and give it its name. Raises ``OSError``, ``ShardError``."""
        assert self._writer is not None
        self._writer.close()
        aside = temporary(self._path)
        positions = located(aside, self.images, self._is_record)
        facts = FileFacts(self._path.name, os.path.getsize(aside), self.images, sha256_of(aside))
        publish(aside, self._path)
        return Part(
            facts,
            self._entries(positions),
            self._kept,
            tuple(self.left_out),
            self._next_source,
            fingerprint.upto(self._next_source),
            full,
        )

    def discard(self) -> None:
        """Remove what is not finished, so that a full disk is not kept full."""
        temporary(self._path).unlink(missing_ok=True)

    def _add(self, record: Record, label: int, name: str) -> int:
        """Append a record; the bytes that all of them hold."""
        if self._writer is None:
            self._writer = ShardWriter(temporary(self._path))
        index = self._first + self.images
        checksum = record_checksum(record.data, index, label, record.height, record.width)
        self._writer.write(record.data)
        self._rows.append(_Row(label, checksum, record.height, record.width, name))
        self._kept += record.kept
        return self._writer.bytes

    def _is_record(self, record: int, data: bytes) -> bool:
        row = self._rows[record]
        index = self._first + record
        return record_checksum(data, index, row.label, row.height, row.width) == row.checksum

    def _entries(self, positions: Positions) -> Entries:
        labels, checksums, heights, widths, names = zip(*self._rows, strict=True)
        return entries_of(labels, *positions, checksums, heights, widths, names)
