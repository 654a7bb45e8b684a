"""Where the images are: a folder tree ``root/split/CLASS/*.JPEG``, listed once and checked.

Listing follows torchvision's ``ImageFolder`` (classes sorted by name, files sorted inside a class,
the same extensions), so that labels and order agree with it. Hidden names (a leading dot, as in
``.ipynb_checkpoints``) are skipped, which torchvision does not do.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.samples import Encoded
from shufflenet_fn_backends.errors import UsageError, UserError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
LAYOUT = "expected train/CLASS/*.JPEG and val/CLASS/*.JPEG, as ImageNet is laid out"


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
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """The full path of sample ``index``."""
        return self.root / self.split / self.paths[index]

    def name(self, index: int) -> str:
        """The full path of sample ``index``, for messages."""
        return str(self.path(index))

    def read(self, index: int) -> Encoded:
        """The file of sample ``index``. Raises ``UserError`` if it cannot be read."""
        path = self.path(index)
        try:
            with open(path, "rb") as file:
                return Encoded(file.read())
        except OSError as error:
            raise UserError(
                f"cannot read image {path}: {error.strerror or error}. It was there when the "
                "folder was listed; check the disk or mount and start again."
            ) from error


def open_train_val(root: str | Path) -> tuple[ImageFolder, ImageFolder]:
    """Open ``root/train`` and ``root/val``; labels of both index the classes of ``train``.

    Raises:
      UsageError: as ``open_image_folder``; both splits are looked for before either is listed.
    """
    root = Path(root)
    for split in ("train", "val"):
        _check_split(root, split)
    train = open_image_folder(root, "train")
    return train, open_image_folder(root, "val", classes=train.classes)


def open_image_folder(
    root: str | Path, split: str, *, classes: Sequence[str] | None = None
) -> ImageFolder:
    """List ``root/split``.

    Args:
      root: the data folder.
      split: name of the sub-folder, ``"train"`` or ``"val"``.
      classes: the classes that labels index (those of the training split). ``None`` takes the class
        folders found. The split may lack some of the given classes but may have no others.

    Raises:
      UsageError: a missing or unreadable folder, no class folder, a class without images, or a
        class that is not among ``classes``.
    """
    root = Path(root)
    folder = _check_split(root, split)
    names = _class_folders(folder)
    known = tuple(names) if classes is None else tuple(classes)
    label_of = {name: label for label, name in enumerate(known)}
    _check_known(folder, names, label_of)
    files = {name: list(_images(folder, name)) for name in names}
    empty = [name for name in names if not files[name]]
    if empty:
        raise UsageError(
            f"{folder}: {_count(len(empty), 'class folder')} without any image: {_some(empty)}. "
            f"Allowed extensions are {', '.join(IMAGE_EXTENSIONS)}. Remove the empty folders or "
            "unpack the images into them."
        )
    labels = np.repeat(
        np.array([label_of[name] for name in names], dtype=np.int64),
        [len(files[name]) for name in names],
    )
    labels.setflags(write=False)
    paths = tuple(path for name in names for path in files[name])
    return ImageFolder(root, split, known, paths, labels)


def _check_split(root: Path, split: str) -> Path:
    """``root/split`` if it is a folder; otherwise raise with what is there instead."""
    if not root.exists():
        raise UsageError(
            f"data folder {root} does not exist (looked in {root.absolute()}). Pass --data with "
            f"the folder that holds train/ and val/; {LAYOUT}."
        )
    if not root.is_dir():
        raise UsageError(
            f"data folder {root} is a file, not a folder. Unpack it if it is an archive and pass "
            f"the folder that holds train/ and val/; {LAYOUT}."
        )
    folder = root / split
    if folder.is_dir():
        return folder
    found = _some([entry.name for entry in _entries(root) if entry.is_dir()]) or "no sub-folders"
    parent = root.absolute().parent
    fix = f"Pass its parent, {parent}, instead" if root.name in ("train", "val") else "Create it"
    raise UsageError(
        f"data folder {root} has no sub-folder {split}/; it has {found}. {fix}: {LAYOUT}."
    )


def _class_folders(folder: Path) -> list[str]:
    """Sorted names of the class folders, raising if there is none."""
    names: list[str] = []
    stray = 0
    for entry in _entries(folder):
        if entry.is_dir():
            names.append(entry.name)
        else:
            stray += _is_image(entry.name)
    if names:
        return sorted(names)
    if stray:
        raise UsageError(
            f"{folder} has {_count(stray, 'image')} directly in it and no class folder. Move each "
            f"image into a folder named after its class; {LAYOUT}."
        )
    raise UsageError(f"{folder} has no class folder. Unpack the data set into it; {LAYOUT}.")


def _check_known(folder: Path, names: Sequence[str], label_of: dict[str, int]) -> None:
    unknown = [name for name in names if name not in label_of]
    if not unknown:
        return
    close = difflib.get_close_matches(unknown[0], list(label_of), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UsageError(
        f"{folder} has {_count(len(unknown), 'class', 'classes')} that the training split lacks: "
        f"{_some(unknown)}{hint}. The training split has {len(label_of)}: {_some(list(label_of))}. "
        "Rename or remove the folders, or add the classes to train/."
    )


def _images(folder: Path, name: str) -> Iterator[str]:
    """Image paths of class ``name`` relative to ``folder``.

    In torchvision's order: folders by path, the class folder first, and files by name inside each.
    """
    files_in: dict[str, list[str]] = {}
    pending = [name]
    while pending:
        relative = pending.pop()
        files = files_in[relative] = []
        for entry in _entries(folder / relative):
            if entry.is_dir():
                pending.append(f"{relative}/{entry.name}")
            elif _is_image(entry.name):
                files.append(entry.name)
    for relative in sorted(files_in):
        yield from (f"{relative}/{file}" for file in sorted(files_in[relative]))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The visible entries of a folder, unsorted."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UsageError(
            f"cannot list data folder {folder}: {error.strerror or error}. Check its permissions."
        ) from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS)


def _count(count: int, singular: str, plural: str = "") -> str:
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def _some(names: Sequence[str], limit: int = 5) -> str:
    """``names`` as prose, cut after ``limit``."""
    ordered = sorted(names)
    listed = ", ".join(ordered[:limit])
    rest = len(ordered) - limit
    return f"{listed} and {rest} more" if rest > 0 else listed
