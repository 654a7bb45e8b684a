"""Opening a data set, whether it is a folder of images or packed, and describing it (``data info``)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.folder import ImageFolder, Note, open_image_folder, silent
from shufflenet_fn.data.folder import open_train_val as open_folders
from shufflenet_fn.data.packed.index import SPLITS, PackSettings, is_packed, read_index
from shufflenet_fn.data.packed.read import PackedSplit, open_packed
from shufflenet_fn.data.paths import printable


def open_train_val(root: str | Path, *, note: Note = silent) -> tuple[Dataset, Dataset]:
    """Open the training and the validation split of ``root``; labels of both index the same classes.

    ``note`` is called with a line of text on what is odd about a folder.

    Raises:
      UsageError: ``root`` is not a data set, or is not completely packed.
      UserError: a packed data set is damaged.
    """
    if is_packed(Path(root)):
        return open_packed(root, "train"), open_packed(root, "val")
    return open_folders(root, note=note)


def open_split(
    root: str | Path, split: str, classes: Sequence[str] | None = None, known_by: str = "the training split"
) -> Dataset:
    """Open one split, ``"train"`` or ``"val"``, of an image folder or a packed data set.

    Labels index ``classes``, which ``known_by`` describes in messages; by default those of the split's own
    folders, or all of a packed data set. The split may lack some of them but may have no others.

    Raises:
      UsageError, UserError: as ``open_train_val``, and for a class that is not among ``classes``.
    """
    if is_packed(Path(root)):
        return open_packed(root, split, classes)
    return open_image_folder(root, split, classes=classes, known_by=known_by)


class SplitFacts(NamedTuple):
    """A split.

    Attributes:
      images: number of images.
      classes: number of classes with at least one image.
      fewest, most: number of images of the smallest and the largest of these classes.
      bytes: total size of the image files, or of the shards.
      short_sides: smallest, median and largest short side of the images in pixels; ``None`` for a folder,
        whose images are not opened.
      shards, kept: for a packed split, number of shards, and of images that were kept byte for byte.
      left_out: source images that a packed split lacks.
    """

    images: int
    classes: int
    fewest: int
    most: int
    bytes: int
    short_sides: dict[str, int] | None = None
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
    """Describe a data set, without reading an image.

    Raises:
      UsageError, UserError: as ``open_train_val``.
    """
    splits: Sequence[PackedSplit | ImageFolder]
    if is_packed(Path(folder)):
        index, splits = read_index(Path(folder)), [open_packed(folder, split) for split in SPLITS]
    else:
        index, splits = None, open_folders(folder)
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
    if isinstance(samples, PackedSplit):
        short = np.minimum(samples.entries.heights, samples.entries.widths)
        return SplitFacts(
            *common,
            bytes=sum(shard.bytes for shard in samples.files.shards),
            short_sides={
                "smallest": int(short.min()),
                "median": int(np.median(short)),
                "largest": int(short.max()),
            },
            shards=len(samples.files.shards),
            kept=samples.files.kept,
            left_out=tuple(map(printable, samples.files.left_out)),
        )
    total = 0
    for index in range(len(samples)):
        with contextlib.suppress(OSError):  # `data check` reports unreadable files
            total += os.stat(samples.path(index)).st_size
    return SplitFacts(*common, bytes=total)
