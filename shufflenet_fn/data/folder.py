"""Image folders: ``root/split/CLASS/*.JPEG``, listed, checked, and read file by file.

Classes, files and labels are in the order of torchvision's ``ImageFolder``.
"""

from __future__ import annotations

import difflib
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.dataset import Dataset, Encoded, Stored, stored_files
from shufflenet_fn.data.formats import IMAGE_EXTENSIONS, read_file
from shufflenet_fn.data.listing import Listing, is_folder, list_split, visible_entries
from shufflenet_fn.data.paths import PathTable, printable
from shufflenet_fn_backends.support.errors import UsageError

Note = Callable[[str], None]

_LAYOUT = "expected train/CLASS/*.JPEG and val/CLASS/*.JPEG, as ImageNet is laid out"

_OTHER_NAMES = {
    "train": ("training", "trn"),
    "val": ("valid", "validation", "validate", "eval", "dev", "test", "testing"),
}
"""What other projects call the folders of splits, in the order in which one is proposed."""

_SLOW_S = 10.0
"""Listings that take longer than this many seconds are noted in the log."""


def silent(text: str) -> None:
    """Discard a note."""


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """One split of an image folder.

    Attributes:
      root: the data folder, the parent of the split's folder.
      split: ``"train"`` or ``"val"``.
      classes: class names; a label is an index into them.
      paths: image paths relative to ``root/split``, in torchvision's order.
      labels: int64 array of shape (len(paths),), read-only.
    """

    root: Path
    split: str
    classes: tuple[str, ...]
    paths: PathTable
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Return the full path of sample ``index``."""
        return self.root / self.split / self.paths[index]

    def name(self, index: int) -> str:
        """Return the full path of sample ``index`` for messages, with unprintable characters escaped."""
        return printable(self.path(index))

    def read(self, index: int) -> Encoded:
        """Read the file of sample ``index``. Raises ``BadImage`` or ``UserError`` if it cannot be read."""
        return Encoded(read_file(self.path(index)))

    def located(self, indices: npt.NDArray[np.int64]) -> AbstractContextManager[Stored]:
        """Return STORED (N,) of these samples, valid within the context."""
        folder = os.path.join(os.fsencode(self.root / self.split), b"")
        return stored_files([folder + self.paths.raw(index) for index in indices.tolist()])


def open_train_val(root: str | Path, *, note: Note = silent) -> tuple[ImageFolder, ImageFolder]:
    """Open ``root/train`` and ``root/val``; labels of both index the classes of ``train``.

    Raises:
      UsageError: as ``open_image_folder``. Both splits are checked before either is listed.
    """
    root = Path(root)
    for split in ("train", "val"):
        check_split(root, split)
    train = open_image_folder(root, "train", note=note)
    val = open_image_folder(root, "val", classes=train.classes, note=note)
    for remark in odd_classes(train, val):
        note(remark)
    return train, val


def odd_classes(train: Dataset, val: Dataset) -> Iterator[str]:
    """Iterate over remarks on classes that a run cannot learn, or cannot be judged by."""
    of_train, of_val = (
        {samples.classes[label] for label in np.unique(samples.labels) if 0 <= label < len(samples.classes)}
        for samples in (train, val)
    )
    if len(of_train) == 1:
        yield (
            f"{some([*of_train])} is the only class: every prediction is right, whatever is learned. Make a "
            "folder for each class in train/"
        )
    if lacking := of_train - of_val:
        yield (
            f"{len(lacking)} of {counted(len(of_train), 'class', 'classes')} without images in val/: "
            f"{some([*lacking])}. The accuracy says nothing about these; move some of their images there"
        )


def open_image_folder(
    root: str | Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    known_by: str = "the training split",
    note: Note = silent,
) -> ImageFolder:
    """List ``root/split`` and open it.

    Labels index ``classes``, which ``known_by`` describes in messages; by default the class folders found.
    The split may lack some of them but may have no others. ``note`` is called with a line of text if listing
    took long, or if files are passed over.

    Raises:
      UsageError: a missing or unreadable folder, no class folder, a class without images, or a
        class that is not among ``classes``.
    """
    root = Path(root)
    folder = check_split(root, split)
    start = time.monotonic()
    listing = list_split(folder)
    seconds = time.monotonic() - start
    if seconds > _SLOW_S:
        note(
            f"listing {len(listing.labels):,} images below {printable(folder)} took {seconds:.0f} s, as at "
            "each start; `shufflenet-fn data pack` makes them a few files"
        )
    known = listing.classes if classes is None else tuple(classes)
    _check_classes(folder, listing, known, known_by)
    shown = printable(folder)
    if listing.passed_over:
        count = counted(listing.passed_over.total(), "file")
        note(
            f"passed over {count} below {shown}: {by_extension(listing.passed_over)}. JPEGs are read under "
            f"any name, other images as {', '.join(IMAGE_EXTENSIONS[2:])}; `shufflenet-fn data check` says "
            "what each file is"
        )
    if listing.stray:
        note(f"passed over {counted(listing.stray, 'image')} directly in {shown}, in no class")
    labels = listing.labels
    if listing.classes != known:
        label_of = {name: label for label, name in enumerate(known)}
        labels = np.array([label_of[name] for name in listing.classes], dtype=np.int64)[labels]
        labels.setflags(write=False)
    return ImageFolder(root, split, known, listing.paths, labels)


def check_split(root: Path, split: str) -> Path:
    """Return ``root/split``. Raises ``UsageError`` if it is not a folder; the message says what it is."""
    shown = printable(root)
    try:
        mode = os.stat(root).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"data folder {shown} does not exist (looked in {printable(root.absolute())}). Name "
            f"the folder that holds train/ and val/; {_LAYOUT}."
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot look at data folder {shown}: {error.strerror or error}. Check the permissions of the "
            "folders above it."
        ) from error
    if not stat.S_ISDIR(mode):
        raise UsageError(
            f"data folder {shown} is a file, not a folder. Unpack it if it is an archive and name "
            f"the folder that holds train/ and val/; {_LAYOUT}."
        )
    folder = root / split
    if os.path.isdir(folder):
        return folder
    found = [entry.name for entry in visible_entries(root) if is_folder(entry)]
    raise UsageError(
        f"data folder {shown} has no sub-folder {split}/; it has {some(found) or 'no sub-folders'}. "
        f"{_fix(root, split, found)}: {_LAYOUT}."
    )


def _fix(root: Path, split: str, found: Sequence[str]) -> str:
    """Return how ``root`` gets its folder ``split``, from the names of its folders."""
    if root.name in _OTHER_NAMES:
        return f"Pass its parent, {printable(root.absolute().parent)}, instead"
    for known in (split, *_OTHER_NAMES[split]):
        for name in sorted(found):
            if name.lower() == known:
                return f"Rename {printable(name)}/ to {split}/"
    inner = [name for name in sorted(found) if os.path.isdir(root / name / split)]
    return f"Pass {printable(root / inner[0])} instead" if inner else "Create it"


def _check_classes(folder: Path, listing: Listing, known: Sequence[str], known_by: str) -> None:
    """Raise ``UsageError`` unless ``listing`` has classes, all of them ``known``, each with an image."""
    if not listing.classes:
        raise UsageError(
            f"{printable(folder)} has {counted(listing.stray, 'image')} directly in it and no class folder. "
            f"Move each image into a folder named after its class; {_LAYOUT}."
            if listing.stray
            else f"{printable(folder)} has no class folder. Unpack the data set into it; {_LAYOUT}."
        )
    names = set(known)
    unknown = [name for name in listing.classes if name not in names]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UsageError(
            f"{printable(folder)} has {counted(len(unknown), 'class', 'classes')} that {known_by} "
            f"lacks: {some(unknown)}{hint}. {known_by[0].upper()}{known_by[1:]} has {len(known)}: "
            f"{some(known)}. Rename or remove the folders, or add the classes to train/."
        )
    empty = [name for name, count in zip(listing.classes, listing.counts, strict=True) if not count]
    if empty:
        other = by_extension(listing.passed_over)
        passed = f"Passed over in all folders: {other}. " if other else ""
        raise UsageError(
            f"{printable(folder)}: {counted(len(empty), 'class folder')} without any image: "
            f"{some(empty)}. {passed}Allowed extensions are {', '.join(IMAGE_EXTENSIONS)}, and any for "
            "JPEGs. Remove the empty folders or unpack the images into them."
        )


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return ``count`` with its noun."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def by_extension(counts: Counter[str], limit: int = 8) -> str:
    """Return how many files there are of each extension, the most frequent first and cut after ``limit``."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[limit:])
    listed = ", ".join(f"{count} {printable(extension)}" for extension, count in ordered[:limit])
    return f"{listed} and {rest} more" if rest else listed


def some(names: Sequence[str], limit: int = 5) -> str:
    """Return ``names`` as text, sorted and truncated after ``limit``."""
    ordered = sorted(names)
    listed = ", ".join(map(printable, ordered[:limit]))
    rest = len(ordered) - limit
    return f"{listed} and {rest} more" if rest > 0 else listed
