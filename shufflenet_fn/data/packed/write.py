"""``data pack``: packs an image folder into tar shards, with several threads, resumably."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.decode import LONGEST_SIDE, decode_rgb, read_jpeg_header
from shufflenet_fn.data.folder import ImageFolder, Note, open_train_val, silent
from shufflenet_fn.data.geometry import resize, resized_shape
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
from shufflenet_fn.data.packed.entries import Row, entries_bytes, entries_of, joined, record_checksum
from shufflenet_fn.data.packed.files import ShardWriter
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
from shufflenet_fn.io import explained, replace_file
from shufflenet_fn_backends.support.errors import UserError

# Grey JPEGs decode to RGB like the others; CMYK ones need Pillow and are re-encoded.
_PLAIN_COLOURS = ("Gray", "YCbCr", "RGB")

Report = Callable[[str, int, int], None]
"""``report(split, done, total)``, in source images."""


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
    report: Report = lambda split, done, total: None,
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
    source, folder = settled_paths(source, folder)
    splits = open_train_val(source, note=note)
    plan = plan_fields(settings, splits[0].classes)
    fix = (
        "Check that path and its disk, free some space there or make the folder writable, and run the same "
        "command again: it goes on from the last finished shard."
    )
    with explained(f"write packed data to {printable(folder)}", fix), claimed(folder):
        if not overwrite:
            complete = finished_index(folder, settings, splits, skip_bad_images=skip_bad_images)
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
            _provenance(source, plan["libraries"]),
        )
        write_sealed(folder / INDEX_NAME, index_fields(index))
        remove_parts(folder)
    resumed = sum(part.shard.images for parts in finished.values() for part in parts)
    return Packed(index, resumed, was_complete=False)


def _provenance(source: Path, libraries: Mapping[str, str]) -> dict[str, str]:
    made_by = {"shufflenet-fn": version("shufflenet-fn"), **libraries}
    return {
        "source": str(source),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "made by": ", ".join(f"{name} {number}" for name, number in made_by.items()),
    }


class _Job(NamedTuple):
    """Packing of one split. ``fingerprint``: of the source, to record what a shard was made from."""

    samples: ImageFolder
    folder: Path
    settings: PackSettings
    skip_bad_images: bool
    workers: int
    report: Report
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

    def encoded_from(self, first: int) -> Generator[tuple[int, Record | None], None, None]:
        """Iterate over the source images from ``first``, encoded, and report each."""
        samples = self.samples
        encoded = ordered_map(self.encode, range(first, len(samples)), workers=self.workers)
        with contextlib.closing(encoded):
            for item in encoded:
                yield item
                self.report(samples.split, item[0] + 1, len(samples))


def _pack_split(job: _Job, finished: Sequence[Part]) -> SplitIndex:
    """Write the shards that follow the finished ones, and the entries of all."""
    samples, parts = job.samples, list(finished)
    left_out: Sequence[str] = ()
    with contextlib.closing(job.encoded_from(parts[-1].next_source if parts else 0)) as images:
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
    name, data = entries_name(samples.split), entries_bytes(entries)
    replace_file(job.folder / name, data)
    return SplitIndex(
        entries=FileFacts(name, len(data), len(entries.labels), hashlib.sha256(data).hexdigest()),
        shards=tuple(part.shard for part in parts),
        kept=sum(part.kept for part in parts),
        left_out=(*(name for part in parts for name in part.left_out), *left_out),
    )


def _write_shard(
    job: _Job, images: Iterator[tuple[int, Record | None]], before: Sequence[Part]
) -> tuple[Part | None, Sequence[str]]:
    """Write the shard after ``before``, until it is full or the source images run out.

    Return it and ``()``, or ``None`` if no image was left, and the names of those that were left out.
    """
    samples, settings = job.samples, job.settings
    name = shard_name(samples.split, len(before))
    first = sum(part.shard.images for part in before)
    rows: list[Row] = []
    left_out: list[str] = []
    held = kept = stop = 0
    with ShardWriter(job.folder / name) as writer:
        for source, record in images:
            path, stop = samples.paths[source], source + 1
            if record is None:
                left_out.append(path)
                continue
            label, (data, height, width, as_it_was) = int(samples.labels[source]), record
            index = first + len(rows)
            shape = (height, width) if settings.format == "raw" else None
            offset = writer.write(index, label, data, shape)
            checksum = record_checksum(data, index, label, height, width)
            rows.append(Row(label, offset, len(data), checksum, height, width, path))
            held, kept = held + len(data), kept + as_it_was
            if held >= settings.shard_bytes:
                break
        if not rows:
            return None, left_out
        digest = writer.publish()
        shard = FileFacts(name, writer.bytes, len(rows), digest)
    source_sha256, full = job.fingerprint.upto(stop), held >= settings.shard_bytes
    return Part(shard, entries_of(rows), kept, tuple(left_out), stop, source_sha256, full), ()


class Record(NamedTuple):
    """A JPEG file, or uint8 RGB pixels in (H, W, 3) order. ``kept``: it is the source file, byte for byte."""

    data: bytes
    height: int
    width: int
    kept: bool


def encode_record(data: bytes, settings: PackSettings, *, name: str) -> Record:
    """Shrink an image to the settings' short side and encode it. The same input gives the same bytes.

    A JPEG is kept as it is if it is not larger than requested, is RGB or grey, and decodes without a warning.
    As in training, EXIF orientation is ignored. ``name`` is of the image in messages.

    Raises:
      BadImage: it cannot be decoded, or is too long for a JPEG.
    """
    import simplejpeg

    if settings.format == "jpeg":
        size = _size_of_plain_jpeg(data, settings.short_side, name)
        if size is not None:
            return Record(data, *size, kept=True)
    image = decode_rgb(data, path=name)
    height, width = image.shape[:2]
    if 0 < settings.short_side < min(height, width):
        image = resize(image, *resized_shape(height, width, settings.short_side))
        height, width = image.shape[:2]
    if settings.format == "raw":
        return Record(image.tobytes(), height, width, kept=False)
    if max(height, width) > LONGEST_SIDE:
        raise BadImage(
            name,
            f"it is {width} x {height} pixels; a JPEG has at most {LONGEST_SIDE} pixels a side; "
            "--format raw takes it",
        )
    encoded = simplejpeg.encode_jpeg(
        image, quality=settings.quality, colorspace="RGB", colorsubsampling="420", fastdct=False
    )
    return Record(encoded, height, width, kept=False)


def _size_of_plain_jpeg(data: bytes, short_side: int, name: str) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG that can be kept as it is, else None."""
    import simplejpeg

    try:
        header = read_jpeg_header(data, name)
        if header.colours not in _PLAIN_COLOURS or not header.can_be_reduced:
            return None
        if 0 < short_side < min(header.height, header.width):
            return None
        simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
    return header.height, header.width
