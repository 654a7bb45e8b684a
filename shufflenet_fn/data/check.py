"""``data check``: every image of a data set read and decoded, and all that is wrong listed at once."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shufflenet_fn.data.duplicates import Digests, duplicates
from shufflenet_fn.data.inspection import Finding, inspect
from shufflenet_fn.data.layout import check_split
from shufflenet_fn.data.listing import Listing, is_folder, is_image, list_split
from shufflenet_fn.data.ordered import ordered_map
from shufflenet_fn.data.packed.index import is_packed
from shufflenet_fn.data.packed.read import open_packed
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.samples import Samples
from shufflenet_fn.data.sources import ImageFolder
from shufflenet_fn_backends.support.errors import UsageError

SPLITS = ("train", "val")


class Checked(NamedTuple):
    """What ``check`` found.

    Attributes:
      images: number of images in each split.
      problems: what stops a training run.
      remarks: what does not, but may surprise.
    """

    images: dict[str, int]
    problems: tuple[Finding, ...]
    remarks: tuple[Finding, ...]


def check(
    root: str | Path,
    *,
    workers: int,
    report: Callable[[str, int, int], None] = lambda split, done, total: None,
) -> Checked:
    """Look at every image of both splits of an image folder or a packed data set.

    Args:
      root: the data set.
      workers: threads that read and decode.
      report: ``report(split, done, total)``, called after every image by the calling thread.

    Raises:
      UsageError: there is no data set, or a folder cannot be listed; no worker.
      UserError: the index of a packed data set is damaged.
    """
    if workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}.")
    opened = _open(Path(root))
    problems, remarks = opened.problems, opened.remarks
    digests: list[Digests] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for samples in opened.splits:
            found = Digests(samples)
            digests.append(found)
            look = functools.partial(inspect, samples)
            results = ordered_map(look, range(len(samples)), workers=workers)
            for index, result in enumerate(results):
                problems += [result.problem] if result.problem else []
                remarks += result.remarks
                found.add(index, result.digest)
                report(samples.split, index + 1, len(samples))
    remarks += duplicates(digests)
    images = {samples.split: len(samples) for samples in opened.splits}
    return Checked(images, tuple(problems), tuple(remarks))


class _Opened(NamedTuple):
    """The splits, and what is to be said of the files' places before any is read."""

    splits: list[Samples]
    problems: list[Finding]
    remarks: list[Finding]


def _open(root: Path) -> _Opened:
    if is_packed(root):
        return _Opened([open_packed(root, split) for split in SPLITS], [], [])
    folders = [check_split(root, split) for split in SPLITS]
    listings = [list_split(folder) for folder in folders]  # a kept one would be checked less well
    splits: list[Samples] = [
        ImageFolder(root, split, listing.classes, listing.paths, listing.labels)
        for split, listing in zip(SPLITS, listings, strict=True)
    ]
    remarks = [_passed_over(*pair) for pair in zip(folders, listings, strict=True)]
    return _Opened(splits, list(_layout_problems(folders, listings)), list(chain(*remarks)))


def _layout_problems(folders: Sequence[Path], listings: Sequence[Listing]) -> Iterator[Finding]:
    train = listings[0]
    for folder, listing in zip(folders, listings, strict=True):
        if not listing.classes:
            yield Finding("no class folder", printable(folder), "training needs one for each class")
        for name in np.array(listing.classes, dtype=object)[listing.counts == 0]:
            text = "it has no image with an extension that counts"
            yield Finding("empty class", printable(folder / name), text)
        for name in sorted(set(listing.classes) - set(train.classes)):
            yield Finding("unknown class", printable(folder / name), "train/ has no such class")


def _passed_over(folder: Path, listing: Listing) -> Iterator[Finding]:
    """Names that look like data but are not read: hidden ones, other extensions, images in no class."""
    for directory in listing.directories:
        place = folder / directory.path
        with os.scandir(place) as entries:
            found = sorted((entry.name, is_folder(entry)) for entry in entries)
        for name, below in found:
            shown = printable(place / name)
            if name.startswith("."):
                yield Finding("hidden", shown, "names with a leading dot are passed over")
            elif not below and not directory.path:
                yield Finding("in no class", shown, "only class folders are looked into")
            elif not below and not is_image(name):
                yield Finding("other file", shown, "its extension is not that of an image")
