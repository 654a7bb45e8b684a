"""Opening a data set, whether it is a folder of images or packed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.folder import Note, open_image_folder, silent
from shufflenet_fn.data.folder import open_train_val as open_folders
from shufflenet_fn.data.packed.index import is_packed
from shufflenet_fn.data.packed.read import open_packed


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
    """Open one split of ``root``.

    Args:
      root: an image folder, or a packed data set.
      split: ``"train"`` or ``"val"``.
      classes: the classes that labels index. ``None`` is those of the split's own folders, or all of
        a packed data set. The split may lack some of the given classes but may have no others.
      known_by: what ``classes`` are of, for messages.

    Raises:
      UsageError, UserError: as ``open_train_val``, and for a class that is not among ``classes``.
    """
    if is_packed(Path(root)):
        return open_packed(root, split, classes)
    return open_image_folder(root, split, classes=classes, known_by=known_by)
