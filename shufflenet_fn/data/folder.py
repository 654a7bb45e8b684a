"""Image folders: ``root/split/CLASS/*.JPEG``, listed, checked, and read file by file.

Classes, files and labels are in the order of torchvision's ``ImageFolder``.
"""

from __future__ import annotations

import difflib
import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.bad_images import UnreadableImage
from shufflenet_fn.data.dataset import Encoded, Stored, stored_files
from shufflenet_fn.data.listing import (
    IMAGE_EXTENSIONS,
    Listing,
    is_folder,
    list_split,
    visible_entries,
)
from shufflenet_fn.data.paths import PathTable, printable
from shufflenet_fn_backends.support.errors import UsageError, UserError

Note = Callable[[str], None]

LAYOUT = "expected train/CLASS/*.JPEG and val/CLASS/*.JPEG, as ImageNet is laid out"

LARGEST = 2**30
"""Bytes of the largest file that is read: twice those of the largest image that is decoded, uncompressed."""

_OWN_FAULT = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENXIO,
    errno.EIO,
}
"""Errors of a single file. Others, such as a lost mount or no free descriptor, would affect the next file
too."""

_SLOW_S = 10.0
"""Seconds of a listing from which on the log says how long it took."""


def silent(text: str) -> None:
    """Ignore a note."""


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
        """Return the full path of sample ``index`` for messages, with what cannot be printed escaped."""
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
      UsageError: as ``open_image_folder``; both splits are looked for before either is listed.
    """
    root = Path(root)
    for split in ("train", "val"):
        check_split(root, split)
    train = open_image_folder(root, "train", note=note)
    return train, open_image_folder(root, "val", classes=train.classes, note=note)


def open_image_folder(
    root: str | Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    known_by: str = "the training split",
    note: Note = silent,
) -> ImageFolder:
    """List ``root/split`` and open it.

    Args:
      root: the data folder.
      split: name of the sub-folder, ``"train"`` or ``"val"``.
      classes: the classes that labels index (those of the training split). ``None`` takes the class
        folders found. The split may lack some of the given classes but may have no others.
      known_by: what ``classes`` are of, for messages.
      note: called with a line of text if listing took long.

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
    check_classes(folder, listing, known, known_by)
    return ImageFolder(root, split, known, listing.paths, _labels(listing, known))


def _labels(listing: Listing, known: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return labels that index ``known``."""
    if listing.classes == known:
        return listing.labels
    label_of = {name: label for label, name in enumerate(known)}
    own = np.array([label_of[name] for name in listing.classes], dtype=np.int64)
    labels = own[listing.labels]
    labels.setflags(write=False)
    return labels


def check_split(root: Path, split: str) -> Path:
    """Return ``root/split``. Raises ``UsageError`` that says what is there instead if it is no folder."""
    shown = printable(root)
    try:
        mode = os.stat(root).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"data folder {shown} does not exist (looked in {printable(root.absolute())}). Name "
            f"the folder that holds train/ and val/; {LAYOUT}."
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot look at data folder {shown}: {error.strerror or error}. Check the permissions of the "
            "folders above it."
        ) from error
    if not stat.S_ISDIR(mode):
        raise UsageError(
            f"data folder {shown} is a file, not a folder. Unpack it if it is an archive and name "
            f"the folder that holds train/ and val/; {LAYOUT}."
        )
    folder = root / split
    if os.path.isdir(folder):
        return folder
    found = some([e.name for e in visible_entries(root) if is_folder(e)]) or "no sub-folders"
    parent = printable(root.absolute().parent)
    fix = f"Pass its parent, {parent}, instead" if root.name in ("train", "val") else "Create it"
    raise UsageError(
        f"data folder {shown} has no sub-folder {split}/; it has {found}. {fix}: {LAYOUT}."
    )


def check_classes(
    folder: Path, listing: Listing, known: Sequence[str], known_by: str = "the training split"
) -> None:
    """Raise ``UsageError`` unless ``listing`` has classes, all of them ``known``, each with an image."""
    if not listing.classes:
        raise UsageError(_without_classes(printable(folder), listing.stray))
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
        raise UsageError(
            f"{printable(folder)}: {counted(len(empty), 'class folder')} without any image: "
            f"{some(empty)}. Allowed extensions are {', '.join(IMAGE_EXTENSIONS)}. Remove the empty "
            "folders or unpack the images into them."
        )


def _without_classes(folder: str, stray: int) -> str:
    if stray:
        return (
            f"{folder} has {counted(stray, 'image')} directly in it and no class folder. Move each "
            f"image into a folder named after its class; {LAYOUT}."
        )
    return f"{folder} has no class folder. Unpack the data set into it; {LAYOUT}."


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return ``count`` with its noun."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def some(names: Sequence[str], limit: int = 5) -> str:
    """Return ``names`` as prose, sorted and cut after ``limit``."""
    ordered = sorted(names)
    listed = ", ".join(map(printable, ordered[:limit]))
    rest = len(ordered) - limit
    return f"{listed} and {rest} more" if rest > 0 else listed


def read_file(path: Path) -> bytes:
    """Read a file.

    Raises:
      UnreadableImage: the file is gone, may not be read, is no regular file or far too large to be an
      image. UserError: the system cannot read files just now.
    """
    try:
        # Non-blocking: to open a named pipe would wait for its writer forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage(printable(path), "it is not a regular file")
            if status.st_size > LARGEST:
                raise UnreadableImage(
                    printable(path), f"it has {status.st_size:,} bytes, more than {LARGEST:,}"
                )
            return file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _OWN_FAULT:
            if error.errno == errno.ENOENT:
                reason = _gone(path, reason)
            raise UnreadableImage(printable(path), reason) from error
        raise UserError(
            f"cannot read image {printable(path)}: {reason}. It was there when the folder was "
            "listed; check the disk or mount and start again."
        ) from error


def _gone(path: Path, reason: str) -> str:
    if path.is_symlink():
        return f"it is a link to {printable(os.readlink(path))}, which does not exist"
    return f"{reason}; it was there when the folder was listed"
