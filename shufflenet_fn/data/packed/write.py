"""``data pack``: an image folder into tar shards, by threads, resumable after a kill."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.folder import ImageFolder, Note, open_train_val, silent
from shufflenet_fn.data.packed.destination import (
    Fingerprint,
    Part,
    claimed,
    finished_index,
    plan_fields,
    prepare,
    remove_parts,
    settled_paths,
    write_part,
)
from shufflenet_fn.data.packed.encode import Record, encode_record
from shufflenet_fn.data.packed.entries import (
    Entries,
    entries_bytes,
    entries_of,
    joined,
    record_checksum,
)
from shufflenet_fn.data.packed.files import (
    Sample,
    ShardWriter,
    publish,
    sha256_of,
    temporary,
    write_file,
)
from shufflenet_fn.data.packed.index import (
    INDEX_NAME,
    FileFacts,
    PackedIndex,
    PackSettings,
    SplitIndex,
    entries_name,
    index_fields,
    shard_name,
    write_sealed,
)
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.threads import ordered_map
from shufflenet_fn_backends.support.errors import UsageError, UserError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}


class Progress(NamedTuple):
    """How far packing is: ``done`` of ``total`` source images of ``split``."""

    split: str
    done: int
    total: int


@dataclass(frozen=True)
class Packed:
    """What ``pack`` did.

    Attributes:
      index: of the packed data set.
      images_resumed: how many images an earlier, interrupted run had packed.
      was_complete: it was packed before, and nothing was to be done.
    """

    index: PackedIndex
    images_resumed: int
    was_complete: bool


def pack(
    source: str | Path,
    folder: str | Path,
    settings: PackSettings,
    *,
    workers: int,
    skip_bad_images: bool = False,
    overwrite: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
    note: Note = silent,
) -> Packed:
    """Pack ``source/train`` and ``source/val`` into ``folder``, in the source's order.

    Shards and entries depend on the source and the settings only: not on the number of workers, nor
    on how often packing was interrupted. An interrupted run with the same settings is continued; images
    after its last finished shard may have changed meanwhile.

    Args:
      source: an image folder.
      folder: where the packed data set goes; created if it does not exist.
      settings: how to pack.
      workers: threads that decode and encode.
      skip_bad_images: leave images out that cannot be decoded, and list them in the index.
      overwrite: remove a packed or half packed data set of other settings or another source.
      report: called after every image, by the calling thread.
      note: as for ``open_train_val``.

    Raises:
      UsageError: a folder is not what it must be, or holds other settings or another source.
      UserError: an image cannot be read or decoded; the folder cannot be written.
    """
    if workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}.")
    source, folder = settled_paths(source, folder)
    splits = open_train_val(source, note=note)
    plan = plan_fields(settings, splits[0].classes)
    with explained(folder), claimed(folder):
        complete = finished_index(
            folder, settings, splits, skip_bad_images=skip_bad_images, overwrite=overwrite
        )
        if complete is not None:
            return Packed(complete, 0, was_complete=True)
        finished = prepare(
            folder, plan, splits, skip_bad_images=skip_bad_images, overwrite=overwrite
        )
        packed: dict[str, SplitIndex] = {}
        fingerprints: dict[str, str] = {}
        for samples in splits:
            encode = functools.partial(encode_source, samples, settings, skip_bad_images)
            fingerprint = Fingerprint(samples)
            packed[samples.split] = _pack_split(
                samples,
                folder,
                settings,
                finished[samples.split],
                fingerprint,
                encode,
                workers,
                report,
            )
            fingerprints[samples.split] = fingerprint.upto(len(samples))
        index = PackedIndex(
            settings, splits[0].classes, packed, fingerprints, _provenance(source, plan)
        )
        write_sealed(folder / INDEX_NAME, index_fields(index))
        remove_parts(folder)
    resumed = sum(part.shard.images for parts in finished.values() for part in parts)
    return Packed(index, resumed, was_complete=False)


def _pack_split(
    samples: ImageFolder,
    folder: Path,
    settings: PackSettings,
    finished: Sequence[Part],
    fingerprint: Fingerprint,
    encode: Callable[[int], Packable],
    workers: int,
    report: Callable[[Progress], None],
) -> SplitIndex:
    first = finished[-1].next_source if finished else 0
    encoded = ordered_map(encode, range(first, len(samples)), workers=workers)
    with contextlib.closing(encoded):
        counted = _counted(encoded, samples.split, first, len(samples), report)
        parts, left_out = write_shards(counted, samples, folder, settings, finished, fingerprint)
    if not parts:
        raise UserError(
            f"none of the {len(samples)} images of {printable(samples.root / samples.split)} can be "
            "decoded. See them with `data check`."
        )
    entries = joined([part.entries for part in parts])
    path = folder / entries_name(samples.split)
    data = entries_bytes(entries)
    write_file(path, data)
    return SplitIndex(
        entries=FileFacts(path.name, len(data), len(entries.labels), sha256_of(path)),
        shards=tuple(part.shard for part in parts),
        kept=sum(part.kept for part in parts),
        left_out=(*(name for part in parts for name in part.left_out), *left_out),
    )


def _counted(
    encoded: Iterator[Packable],
    split: str,
    first: int,
    total: int,
    report: Callable[[Progress], None],
) -> Iterator[Packable]:
    for done, item in enumerate(encoded, first + 1):
        yield item
        report(Progress(split, done, total))


def _provenance(source: Path, plan: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    made_by = {"shufflenet-fn": version("shufflenet-fn"), **plan["libraries"]}
    return {
        "source": str(source),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "made by": ", ".join(f"{name} {number}" for name, number in made_by.items()),
    }


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
      OSError: the folder cannot be written.
      UserError: from ``encoded``.
    """
    parts = list(finished)
    while True:
        name = shard_name(samples.split, len(parts))
        first = sum(part.shard.images for part in parts)
        shard = _Shard(folder / name, first, raw=settings.format == "raw")
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
    offset: int
    size: int
    checksum: int
    height: int
    width: int
    name: str


class _Shard:
    """A shard as it is written: its file, created with the first image, and its entries."""

    def __init__(self, path: Path, first: int, *, raw: bool) -> None:
        self._path, self._first, self._raw = path, first, raw
        self._writer: ShardWriter | None = None
        self._rows: list[_Row] = []
        self._held = self._kept = self._next_source = 0
        self.left_out: list[str] = []

    @property
    def images(self) -> int:
        return len(self._rows)

    def fill(self, encoded: Iterator[Packable], samples: ImageFolder, size: int) -> bool:
        """Add images until they hold ``size`` bytes. Return False if they ran out before."""
        for source, record in encoded:
            name = samples.paths[source]
            self._next_source = source + 1
            if record is None:
                self.left_out.append(name)
                continue
            self._add(record, int(samples.labels[source]), name)
            if self._held >= size:
                return True
        return False

    def finish(self, fingerprint: Fingerprint, *, full: bool) -> Part:
        """Complete the file and give it its name. Raises ``OSError``."""
        assert self._writer is not None
        digest = self._writer.close()
        facts = FileFacts(self._path.name, self._writer.bytes, self.images, digest)
        publish(self._writer.path, self._path)
        return Part(
            facts,
            self._entries(),
            self._kept,
            tuple(self.left_out),
            self._next_source,
            fingerprint.upto(self._next_source),
            full,
        )

    def discard(self) -> None:
        """Remove what is not finished."""
        if self._writer is not None:
            self._writer.discard()

    def _add(self, record: Record, label: int, name: str) -> None:
        if self._writer is None:
            self._writer = ShardWriter(temporary(self._path))
        data, height, width, kept = record
        index = self._first + self.images
        shape = (height, width) if self._raw else None
        offset = self._writer.write(Sample(index, label, data, shape))
        checksum = record_checksum(data, index, label, height, width)
        self._rows.append(_Row(label, offset, len(data), checksum, height, width, name))
        self._held += len(data)
        self._kept += kept

    def _entries(self) -> Entries:
        return entries_of(*zip(*self._rows, strict=True))


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn a failure to write into advice."""
    try:
        yield
    except OSError as error:
        fix = (
            "Free some space there or make the folder writable"
            if error.errno in _NO_ROOM
            else "Check that path and its disk"
        )
        raise UserError(
            f"cannot write packed data to {printable(folder)}: {error.strerror or error}. {fix}, and run the "
            "same command again: it goes on from the last finished shard."
        ) from error
