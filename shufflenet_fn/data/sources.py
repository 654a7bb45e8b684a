"""Where the images are: a folder tree ``root/split/CLASS/*.JPEG``, listed once and checked.

Listing follows torchvision's ``ImageFolder`` (classes sorted by name, files sorted inside a class,
the same extensions), so that labels and order agree with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.layout import check_classes, check_split
from shufflenet_fn.data.listing import Listing
from shufflenet_fn.data.listing_cache import Note, cached_listing, silent
from shufflenet_fn.data.paths import PathTable, printable
from shufflenet_fn.data.reading import read_file
from shufflenet_fn.data.samples import Encoded
from shufflenet_fn.data.stored import Stored, stored_files


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """One split of an image folder. Opened from a kept listing, it takes no memory per image.

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
        """The full path of sample ``index``."""
        return self.root / self.split / self.paths[index]

    def name(self, index: int) -> str:
        """The full path of sample ``index`` for messages, what cannot be printed escaped."""
        return printable(self.path(index))

    def read(self, index: int) -> Encoded:
        """The file of sample ``index``. Raises ``BadImage`` or ``UserError`` if it cannot be read."""
        return Encoded(read_file(self.path(index)))

    def located(self, indices: npt.NDArray[np.int64]) -> AbstractContextManager[Stored]:
        """STORED (N,) of these samples, valid within the context."""
        folder = os.path.join(os.fsencode(self.root / self.split), b"")
        return stored_files([folder + self.paths.raw(index) for index in indices.tolist()])


def open_train_val(root: str | Path, *, note: Note = silent) -> tuple[ImageFolder, ImageFolder]:
    """Open ``root/train`` and ``root/val``; labels of both index the classes of ``train``.

    Raises:
      UsageError: as ``open_image_folder``; both splits are looked for before either is listed.
    """
    root = Path(root)
    for split in ("train", "val"):
        check_split(root, split)
    train = open_image_folder(root, "train", note=note)
    return train, open_image_folder(root, "val", classes=train.classes, note=note)


def open_image_folder(
    root: str | Path, split: str, *, classes: Sequence[str] | None = None, note: Note = silent
) -> ImageFolder:
    """Open ``root/split``, listing it unless a listing was kept that is still true.

    Args:
      root: the data folder.
      split: name of the sub-folder, ``"train"`` or ``"val"``.
      classes: the classes that labels index (those of the training split). ``None`` takes the class
        folders found. The split may lack some of the given classes but may have no others.
      note: as for ``cached_listing``.

    Raises:
      UsageError: a missing or unreadable folder, no class folder, a class without images, or a
        class that is not among ``classes``.
    """
    root = Path(root)
    folder = check_split(root, split)
    listing = cached_listing(folder, note=note)
    known = listing.classes if classes is None else tuple(classes)
    check_classes(folder, listing, known)
    return ImageFolder(root, split, known, listing.paths, _labels(listing, known))


def _labels(listing: Listing, known: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Labels that index ``known``: the listing's own array where that has the same classes."""
    if listing.classes == known:
        return listing.labels
    label_of = {name: label for label, name in enumerate(known)}
    own = np.array([label_of[name] for name in listing.classes], dtype=np.int64)
    labels = own[listing.labels]
    labels.setflags(write=False)
    return labels
