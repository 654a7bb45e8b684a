"""``data pack``: packs an image folder into tar shards, with several threads, resumably."""

from __future__ import annotations

import contextlib
import errno
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
from shufflenet_fn.data.packed.entries import Row, entries_bytes, entries_of, joined, record_checksum
from shufflenet_fn.data.packed.files import Sample, ShardWriter, publish, sha256_of, temporary, write_file
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
      index: index of the packed data set.
      images_resumed: how many images an earlier, interrupted run had packed.
      was_complete: whether it had been packed before, so there was nothing to do.
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
      overwrite: remove a complete or incomplete packed data set of other settings or another source.
      report: called after every image, by the calling thread.
      note: as for ``open_train_val``.

    Raises:
      UsageError: a folder is not usable, or was packed with other settings or from another source.
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
        finished = prepare(folder, plan, splits, skip_bad_images=skip_bad_images, overwrite=overwrite)
        jobs = [
            _Job(samples, folder, settings, skip_bad_images, workers, report, Fingerprint(samples))
            for samples in splits
        ]
        index = PackedIndex(
            settings,
            splits[0].classes,
            {job.samples.split: _pack_split(job, finished[job.samples.split]) for job in jobs},
            {job.samples.split: job.fingerprint.upto(len(job.samples)) for job in jobs},
            _provenance(source, plan),
        )
        write_sealed(folder / INDEX_NAME, index_fields(index))
        remove_parts(folder)
    resumed = sum(part.shard.images for parts in finished.values() for part in parts)
    return Packed(index, resumed, was_complete=False)


class _Job(NamedTuple):
    """Packing of one split. ``fingerprint``: of the source, to record what a shard was made from."""

    samples: ImageFolder
    folder: Path
    settings: PackSettings
    skip_bad_images: bool
    workers: int
    report: Callable[[Progress], None]
    fingerprint: Fingerprint

    def encode(self, index: int) -> tuple[int, Record | None]:
        """Read and encode a source image. Return ``None`` for one that is left out. Raises ``UserError``."""
        try:
            data, name = bytes(self.samples.read(index).data), self.samples.name(index)
            return index, encode_record(data, self.settings, name=name)
        except BadImage:
            if not self.skip_bad_images:
                raise
        return index, None


def _pack_split(job: _Job, finished: Sequence[Part]) -> SplitIndex:
    """Write the shards that follow the finished ones, and the entries of all."""
    samples, parts = job.samples, list(finished)
    first = finished[-1].next_source if finished else 0
    encoded = ordered_map(job.encode, range(first, len(samples)), workers=job.workers)

    def reported() -> Iterator[tuple[int, Record | None]]:
        for done, item in enumerate(encoded, first + 1):
            yield item
            job.report(Progress(samples.split, done, len(samples)))

    left_out: list[str] = []
    with contextlib.closing(encoded):
        images = reported()
        while not parts or parts[-1].full:
            part, left_out = _write_shard(job, images, parts)
            if part is None:
                break
            parts.append(part)
            write_part(job.folder, part)
    if not parts:
        raise UserError(
            f"none of the {len(samples)} images of {printable(samples.root / samples.split)} can be "
            "decoded. See them with `data check`."
        )
    entries = joined([part.entries for part in parts])
    path = job.folder / entries_name(samples.split)
    data = entries_bytes(entries)
    write_file(path, data)
    return SplitIndex(
        entries=FileFacts(path.name, len(data), len(entries.labels), sha256_of(path)),
        shards=tuple(part.shard for part in parts),
        kept=sum(part.kept for part in parts),
        left_out=(*(name for part in parts for name in part.left_out), *left_out),
    )


def _write_shard(
    job: _Job, images: Iterator[tuple[int, Record | None]], before: Sequence[Part]
) -> tuple[Part | None, list[str]]:
    """Write the shard after ``before``, until it is full or the source images run out.

    Return it and ``[]``, or ``None`` if no image was left, and the names of those that were left out.

    Raises:
      OSError: the folder cannot be written.
      UserError: from ``images``.
    """
    samples, settings = job.samples, job.settings
    path = job.folder / shard_name(samples.split, len(before))
    first = sum(part.shard.images for part in before)
    rows: list[Row] = []
    left_out: list[str] = []
    held = kept = stop = 0
    with contextlib.ExitStack() as open_file:
        writer: ShardWriter | None = None
        for source, record in images:
            name, stop = samples.paths[source], source + 1
            if record is None:
                left_out.append(name)
                continue
            if writer is None:
                writer = ShardWriter(temporary(path))
                open_file.callback(writer.discard)
            label, (data, height, width, as_it_was) = int(samples.labels[source]), record
            shape = (height, width) if settings.format == "raw" else None
            index = first + len(rows)
            offset = writer.write(Sample(index, label, data, shape))
            checksum = record_checksum(data, index, label, height, width)
            rows.append(Row(label, offset, len(data), checksum, height, width, name))
            held, kept = held + len(data), kept + as_it_was
            if held >= settings.shard_bytes:
                break
        if writer is None:
            return None, left_out
        digest = writer.close()
        facts = FileFacts(path.name, writer.bytes, len(rows), digest)
        publish(writer.path, path)
    source_sha256, full = job.fingerprint.upto(stop), held >= settings.shard_bytes
    entries = entries_of(rows)
    return Part(facts, entries, kept, tuple(left_out), stop, source_sha256, full), []


def _provenance(source: Path, plan: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    made_by = {"shufflenet-fn": version("shufflenet-fn"), **plan["libraries"]}
    return {
        "source": str(source),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "made by": ", ".join(f"{name} {number}" for name, number in made_by.items()),
    }


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Convert write errors to a ``UserError`` with advice."""
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
