"""The tree of images that a benchmark of loaders reads: some of a data set, or all of it several times."""

from __future__ import annotations

import os
from pathlib import Path

from shufflenet_fn.data.folder import open_image_folder
from shufflenet_fn.data.packed.index import is_packed
from shufflenet_fn_backends.support.errors import UsageError


def make_tree(source: str | Path, folder: Path, images: int) -> Path:
    """``folder/train`` with so many of ``source/train``'s images, and ``folder/val`` with one of each class.

    Links, so that it takes no space. Of more images those at even distances are taken; of fewer all, as often
    as needed. Returns ``folder``.

    Raises:
      UsageError: ``source`` is no image folder.
    """
    if is_packed(Path(source)):
        raise UsageError(
            f"{source} is packed already. Name the image folder that it was made from, and compare with "
            f"--packed {source}."
        )
    samples = open_image_folder(source, "train")
    chosen = range(images) if images > len(samples) else _even(len(samples), images)
    seen: set[int] = set()
    for number, position in enumerate(chosen):
        index = position % len(samples)
        label, path = int(samples.labels[index]), samples.path(index).absolute()
        places = [folder / "train" / samples.classes[label] / f"{number:07d}{path.suffix}"]
        if label not in seen:
            seen.add(label)
            places.append(folder / "val" / samples.classes[label] / path.name)
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path, place)
    return folder


def _even(count: int, wanted: int) -> list[int]:
    return [number * count // wanted for number in range(wanted)]
