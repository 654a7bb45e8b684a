"""Whether a folder is laid out as a data set, and what a user is told if it is not."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from shufflenet_fn.data.listing import IMAGE_EXTENSIONS, Listing, is_folder, visible_entries
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UsageError

LAYOUT = "expected train/CLASS/*.JPEG and val/CLASS/*.JPEG, as ImageNet is laid out"


def check_split(root: Path, split: str) -> Path:
    """``root/split`` if it is a folder. Raises ``UsageError`` that says what is there instead."""
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


def check_classes(folder: Path, listing: Listing, known: Sequence[str]) -> None:
    """Raise ``UsageError`` unless ``listing`` has classes, all of them ``known``, each with an image."""
    if not listing.classes:
        raise UsageError(_without_classes(printable(folder), listing.stray))
    names = set(known)
    unknown = [name for name in listing.classes if name not in names]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UsageError(
            f"{printable(folder)} has {counted(len(unknown), 'class', 'classes')} that the training "
            f"split lacks: {some(unknown)}{hint}. The training split has {len(known)}: {some(known)}. "
            "Rename or remove the folders, or add the classes to train/."
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
    """``count`` with its noun."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def some(names: Sequence[str], limit: int = 5) -> str:
    """``names`` as prose, sorted and cut after ``limit``."""
    ordered = sorted(names)
    listed = ", ".join(map(printable, ordered[:limit]))
    rest = len(ordered) - limit
    return f"{listed} and {rest} more" if rest > 0 else listed
