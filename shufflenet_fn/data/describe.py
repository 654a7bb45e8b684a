"""``data info``: describe a data set, packed or a folder, without reading an image."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shufflenet_fn.data.folder import ImageFolder, open_train_val
from shufflenet_fn.data.packed.index import PackSettings, is_packed, read_index
from shufflenet_fn.data.packed.read import PackedSplit, open_packed
from shufflenet_fn.data.paths import printable


class Sizes(NamedTuple):
    """Short sides of the images, in pixels."""

    smallest: int
    median: int
    largest: int


class SplitFacts(NamedTuple):
    """A split.

    Attributes:
      images: number of images.
      classes: number of classes with at least one image.
      fewest, most: number of images of the smallest and the largest of these classes.
      bytes: total size of the image files, or of the shards.
      short_sides: short sides of the images; ``None`` for a folder, whose images are not opened.
      shards, kept: for a packed split, number of shards, and of images that were kept byte for byte.
      left_out: source images that a packed split lacks.
    """

    images: int
    classes: int
    fewest: int
    most: int
    bytes: int
    short_sides: Sizes | None = None
    shards: int | None = None
    kept: int | None = None
    left_out: tuple[str, ...] = ()


class Description(NamedTuple):
    """A data set. ``settings`` and ``provenance`` are of a packed one."""

    folder: str
    packed: bool
    classes: tuple[str, ...]
    splits: dict[str, SplitFacts]
    settings: PackSettings | None
    provenance: dict[str, str]


def describe(folder: str | Path) -> Description:
    """Describe a data set.

    Raises:
      UsageError, UserError: as ``open_train_val``.
    """
    folder = Path(folder)
    splits: tuple[PackedSplit | ImageFolder, ...]
    if is_packed(folder):
        index = read_index(folder)
        splits = (open_packed(folder, "train"), open_packed(folder, "val"))
    else:
        index, splits = None, open_train_val(folder)
    return Description(
        folder=os.fspath(folder),
        packed=index is not None,
        classes=splits[0].classes,
        splits={samples.split: _facts(samples) for samples in splits},
        settings=index.settings if index else None,
        provenance={key: printable(text) for key, text in index.provenance.items()} if index else {},
    )


def _facts(samples: PackedSplit | ImageFolder) -> SplitFacts:
    counts = np.unique(samples.labels, return_counts=True)[1]
    common = (len(samples), len(counts), int(counts.min()), int(counts.max()))
    if not isinstance(samples, PackedSplit):
        return SplitFacts(*common, bytes=_bytes_of(samples))
    short = np.minimum(samples.entries.heights, samples.entries.widths)
    return SplitFacts(
        *common,
        bytes=sum(shard.bytes for shard in samples.files.shards),
        short_sides=Sizes(int(short.min()), int(np.median(short)), int(short.max())),
        shards=len(samples.files.shards),
        kept=samples.files.kept,
        left_out=tuple(map(printable, samples.files.left_out)),
    )


def _bytes_of(folder: ImageFolder) -> int:
    total = 0
    for index in range(len(folder)):
        with contextlib.suppress(OSError):  # `data check` reports unreadable files
            total += os.stat(folder.path(index)).st_size
    return total
