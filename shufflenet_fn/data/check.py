"""``data check``: read and decode every image of a data set, and list everything that is wrong."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.bad_images import BadImage, UnreadableImage
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.decode import open_image
from shufflenet_fn.data.folder import ImageFolder, check_split, odd_classes
from shufflenet_fn.data.formats import (
    IMAGE_EXTENSIONS,
    JPEG,
    PNG,
    READ,
    TIFF,
    format_of,
    is_image,
    why_passed_over,
)
from shufflenet_fn.data.listing import Listing, extension_of, is_folder, list_split
from shufflenet_fn.data.packed.index import SPLITS, is_packed
from shufflenet_fn.data.packed.read import open_packed
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.threads import ordered_map
from shufflenet_fn_backends.support.errors import UserError

_ORIENTATION = 0x0112


class Finding(NamedTuple):
    """``kind`` groups findings, ``name`` is the file or folder, ``text`` describes the finding."""

    kind: str
    name: str
    text: str


class Inspected(NamedTuple):
    """``problem``: why the file cannot be used. ``digest``: 64 bits of its content, 0 if unread."""

    problem: Finding | None
    remarks: tuple[Finding, ...]
    digest: int


def inspect(samples: Dataset, index: int) -> Inspected:
    """Read and decode sample ``index`` whole."""
    name = samples.name(index)
    try:
        encoded = samples.read(index)
    except UnreadableImage as error:
        cause = error.__cause__
        dangling = isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ELOOP)
        kind = "dangling link" if dangling else "unreadable"
        return Inspected(Finding(kind, name, error.reason), (), 0)
    except UserError as error:
        return Inspected(Finding("damaged record", name, str(error)), (), 0)
    digest = int.from_bytes(hashlib.blake2b(encoded.data, digest_size=8).digest(), "little")
    try:
        brightest = open_image(encoded, name=name).decode(1).max()
    except BadImage as error:
        return Inspected(Finding(_kind(encoded.data, error), name, error.reason), (), digest)
    if encoded.shape is not None:
        return Inspected(None, (), digest)
    try:
        remarks = tuple(_remarks(encoded.data, name, int(brightest)))
    except Exception as error:  # as of any parser of Pillow; the loader does not need what it failed at
        remarks = (Finding("odd header", name, f"Pillow cannot read it: {error}"),)
    return Inspected(None, remarks, digest)


def _kind(data: bytes | memoryview, error: BadImage) -> str:
    end = {JPEG: b"\xff\xd9", PNG: b"IEND"}.get(format_of(data) or "", b"")
    cut = error.kind == "corrupt" and end not in bytes(data[-64:])
    return "truncated" if cut else error.kind


def _remarks(data: bytes | memoryview, name: str, brightest: int) -> Iterator[Finding]:
    """Find unexpected properties of a usable image."""
    from PIL import Image

    kind = format_of(data)

    with Image.open(io.BytesIO(data)) as image:
        if image.mode == "CMYK":
            yield Finding("CMYK", name, "converted to RGB without a colour profile")
        if image.mode in ("1", "L", "LA"):
            yield Finding("grey", name, "repeated for red, green and blue")
        if image.mode.startswith("I") or (kind == PNG and data[24] == 16):
            text = f"the highest 8 bits are used; the brightest of the image is {brightest} of 255"
            yield Finding("16 bits", name, text)
        if image.mode in ("P", "PA"):
            yield Finding("palette", name, "converted to RGB")
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            yield Finding("alpha", name, "transparency is dropped")
        turn = image.getexif().get(_ORIENTATION, 1)
        if turn != 1:
            # Pillow turns a TIFF as it decodes it.
            done = "is applied, as it is a TIFF" if kind == TIFF else "is not applied"
            yield Finding("EXIF rotation", name, f"orientation {turn} {done}")
    extension = extension_of(name)
    if kind and extension in IMAGE_EXTENSIONS and extension not in READ[kind]:
        yield Finding("wrong extension", name, f"it is {kind}, and read as that")


Digests = npt.NDArray[np.uint64]
"""uint64 (n,): a digest of each sample's content, so eight bytes of memory per image; 0 if it is unread."""


def duplicates(splits: Sequence[Dataset], digests: Sequence[Digests]) -> Iterator[Finding]:
    """Find samples with the same bytes as an earlier sample. Equal digests are confirmed by reading again.

    Kinds: ``in both splits``, ``in two classes`` of a split, or ``duplicate``.
    """
    distinct, counts = np.unique(np.concatenate(digests), return_counts=True)
    repeated = distinct[(counts > 1) & (distinct != 0)]
    groups: dict[int, list[tuple[Dataset, int]]] = {}
    for samples, values in zip(splits, digests, strict=True):
        for index in np.flatnonzero(np.isin(values, repeated)).tolist():
            groups.setdefault(int(values[index]), []).append((samples, index))
    for (samples, index), *others in groups.values():
        content = _content(samples, index)
        for other_samples, other in others:
            if content is not None and _content(other_samples, other) == content:
                if samples.split != other_samples.split:
                    kind = "in both splits"
                else:
                    same_class = samples.labels[index] == samples.labels[other]
                    kind = "duplicate" if same_class else "in two classes"
                text = f"the same bytes as {samples.name(index)}"
                yield Finding(kind, other_samples.name(other), text)


def _content(samples: Dataset, index: int) -> bytes | None:
    try:
        return bytes(samples.read(index).data)
    except UserError:  # the file has disappeared meanwhile
        return None


class Checked(NamedTuple):
    """What ``check`` found.

    Attributes:
      images: number of images in each split.
      problems: findings that stop a training run.
      remarks: findings that do not, but may be unexpected.
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
    """Check every image of both splits of an image folder or a packed data set.

    Args:
      root: the data set.
      workers: threads that read and decode.
      report: ``report(split, done, total)``, called after every image by the calling thread.

    Raises:
      UsageError: there is no data set, or a folder cannot be listed.
      UserError: the index of a packed data set is damaged.
    """
    root, problems, remarks = Path(root), list[Finding](), list[Finding]()
    splits: list[Dataset]
    if is_packed(root):
        splits = [open_packed(root, split) for split in SPLITS]
    else:
        folders = [check_split(root, split) for split in SPLITS]
        listings = [list_split(folder) for folder in folders]
        splits = [
            ImageFolder(root, split, listing.classes, listing.paths, listing.labels)
            for split, listing in zip(SPLITS, listings, strict=True)
        ]
        problems += _layout_problems(folders, listings)
        for pair in zip(folders, listings, strict=True):
            remarks += _passed_over(*pair)
    digests = [np.zeros(len(samples), dtype=np.uint64) for samples in splits]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for samples, values in zip(splits, digests, strict=True):
            look = functools.partial(inspect, samples)
            results = ordered_map(look, range(len(samples)), workers=workers)
            for index, result in enumerate(results):
                problems += [result.problem] if result.problem else []
                remarks += result.remarks
                values[index] = result.digest
                report(samples.split, index + 1, len(samples))
    remarks += [Finding("classes", printable(root), text) for text in odd_classes(*splits)]
    remarks += duplicates(splits, digests)
    images = {samples.split: len(samples) for samples in splits}
    return Checked(images, tuple(problems), tuple(remarks))


def _layout_problems(folders: Sequence[Path], listings: Sequence[Listing]) -> Iterator[Finding]:
    train = listings[0]
    for folder, listing in zip(folders, listings, strict=True):
        if not listing.classes:
            yield Finding("no class folder", printable(folder), "training needs one for each class")
        for name in np.array(listing.classes, dtype=object)[listing.counts == 0]:
            text = "it has no JPEG and no other image with an extension that counts"
            yield Finding("empty class", printable(folder / name), text)
        for name in sorted(set(listing.classes) - set(train.classes)):
            yield Finding("unknown class", printable(folder / name), "train/ has no such class")


def _passed_over(folder: Path, listing: Listing) -> Iterator[Finding]:
    """Find files that are ignored: hidden names, other extensions, images outside class folders."""
    for directory in listing.directories:
        place = folder / directory
        with os.scandir(place) as entries:
            found = sorted((entry.name, is_folder(entry)) for entry in entries)
        for name, below in found:
            shown = printable(place / name)
            if name.startswith("."):
                yield Finding("hidden", shown, "names with a leading dot are passed over")
            elif not below and not directory:
                yield Finding("in no class", shown, "only class folders are looked into")
            elif not below and not is_image(str(place / name)):
                yield Finding("other file", shown, why_passed_over(place / name))
