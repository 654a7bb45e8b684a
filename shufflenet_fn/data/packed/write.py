"""``data pack``: an image folder into ArrayRecord shards, by threads, resumable after a kill."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shufflenet_fn.data.ordered import ordered_map
from shufflenet_fn.data.packed.destination import (
    claimed,
    finished_index,
    prepare,
    settled_paths,
)
from shufflenet_fn.data.packed.entries import entries_bytes, joined
from shufflenet_fn.data.packed.files import sha256_of, write_file
from shufflenet_fn.data.packed.format import (
    INDEX_NAME,
    FileFacts,
    PackedIndex,
    PackSettings,
    SplitIndex,
    entries_name,
    index_fields,
)
from shufflenet_fn.data.packed.plan import Fingerprint, plan_fields
from shufflenet_fn.data.packed.sealed import write_sealed
from shufflenet_fn.data.packed.shard_writing import Packable, encode_source, write_shards
from shufflenet_fn.data.packed.unfinished import Part, remove_parts
from shufflenet_fn.data.packed.write_errors import explained
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.sources import ImageFolder, open_train_val
from shufflenet_fn_backends.support.errors import UsageError, UserError


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
) -> Packed:
    """Pack ``source/train`` and ``source/val`` into ``folder``, in the source's order.

    Shards and entries depend on the source and the settings only: not on the number of workers, nor
    on how often packing was interrupted. A run goes on where one with the same settings was
    interrupted; images after its last finished shard may have been mended meanwhile.

    Args:
      source: an image folder.
      folder: where the packed data set goes; created if it does not exist.
      settings: how to pack.
      workers: threads that decode and encode.
      skip_bad_images: leave images out that cannot be decoded, and list them in the index.
      overwrite: remove a packed or half packed data set of other settings or another source.
      report: told of the progress, by the calling thread, after every image.

    Raises:
      UsageError: a folder is not what it must be, or holds other settings or another source.
      UserError: an image cannot be read or decoded; the folder cannot be written.
    """
    if workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}.")
    source, folder = settled_paths(source, folder)
    splits = open_train_val(source)
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
    with closing(ordered_map(encode, range(first, len(samples)), workers=workers)) as encoded:
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
        located=int(np.count_nonzero(entries.offsets)),
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
