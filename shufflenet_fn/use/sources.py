"""Images to predict: files, folders, patterns, and lists of paths."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.dataset import Encoded, Stored, stored_files
from shufflenet_fn.data.formats import is_image, read_file
from shufflenet_fn.data.packed.index import is_packed
from shufflenet_fn.data.packed.read import PackedSplit, open_packed
from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import explained
from shufflenet_fn_backends.support.errors import UsageError

UNKNOWN = -1
"""Label of an image whose class is not known."""
_NO_NAMES = {"", ".", ".."}


@dataclass(frozen=True, eq=False)
class _Files:
    """Image files in any folders, by path."""

    paths: tuple[str, ...]

    def name(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> Encoded:
        return Encoded(read_file(Path(self.paths[index])))

    def located(self, indices: npt.NDArray[np.int64]) -> AbstractContextManager[Stored]:
        return stored_files([os.fsencode(self.paths[index]) for index in indices.tolist()])


@dataclass(frozen=True, eq=False)
class Selected:
    """Some images of ``whole`` as a ``Dataset``. A label is ``UNKNOWN`` where no folder names a class."""

    whole: _Files | PackedSplit
    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    root: Path = Path()
    split: str = "images"

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.whole.name(int(self.indices[index]))

    def read(self, index: int) -> Encoded:
        return self.whole.read(int(self.indices[index]))

    def located(self, indices: npt.NDArray[np.int64]) -> AbstractContextManager[Stored]:
        return self.whole.located(self.indices[indices])

    def where(self, chosen: npt.NDArray[np.bool_]) -> Selected:
        """Return the images that bool (len(self),) ``chosen`` marks."""
        return replace(self, indices=self.indices[chosen], labels=self.labels[chosen])


def open_sources(
    sources: Sequence[str], classes: Sequence[str] | None, *, split: str = "val", lines: Iterable[str] = ()
) -> Selected:
    """Return the images of ``sources`` as a data set.

    Args:
        sources: files, folders (searched in all depths), patterns (``*``, ``**``), ``@FILE`` (a path on each
            line), ``-`` (``lines``), or one folder of packed data.
        classes: the model's. A folder of one of these names labels the images in it. ``None``: the names
            of all folders are classes.
        split: the split of packed data.
        lines: paths, such as those of standard input.

    Raises:
        UsageError: a source does not exist or holds no image.
    """
    whole: _Files | PackedSplit
    if len(sources) == 1 and is_packed(Path(sources[0])):
        whole = open_packed(sources[0], split)
        known, labels = whole.classes, whole.labels
    else:
        whole = _Files(tuple(dict.fromkeys(p for source in sources for p in _paths(source, lines))))
        folders = [os.path.basename(os.path.dirname(path)) for path in whole.paths]
        known = tuple(sorted({*folders} - _NO_NAMES))
        label_of = {name: label for label, name in enumerate(known)}
        labels = np.array([label_of.get(folder, UNKNOWN) for folder in folders], np.int64)
    if classes is not None:
        label_of = {name: label for label, name in enumerate(classes)}
        # One more, which the label ``UNKNOWN`` indexes.
        table = np.array([*(label_of.get(name, UNKNOWN) for name in known), UNKNOWN], np.int64)
        labels = table.take(labels, mode="wrap")
    return Selected(whole, np.arange(len(labels)), labels, tuple(classes or known))


def _paths(source: str, lines: Iterable[str]) -> Iterator[str]:
    if source == "-":
        yield from _listed(lines, "standard input")
    elif os.path.isdir(source):
        yield from _in_folder(source)
    elif os.path.exists(source):
        yield source
    elif source.startswith("@"):
        with explained(f"read the list {printable(source[1:])}", "Give a file of paths.", UsageError):
            listed = Path(source[1:]).read_text("utf-8", "surrogateescape").split("\n")
        yield from _listed(listed, printable(source[1:]))
    elif matched := sorted(path for path in glob.glob(source, recursive=True) if os.path.isfile(path)):
        yield from matched
    else:
        raise UsageError(
            f"no image at {printable(source)}. Give files, folders, patterns such as 'photos/*.jpg', @FILE "
            "with a path on each line, or - for standard input."
        )


def _listed(lines: Iterable[str], where: str) -> list[str]:
    found = [path for line in lines if (path := line.rstrip("\r\n"))]
    if not found:
        raise UsageError(f"no path in {where}. Give a path on each line.")
    if any("\0" in path for path in found):
        raise UsageError(f"{where} has NUL bytes. Give a path on each line (find -print, not -print0).")
    return found


def _in_folder(folder: str) -> list[str]:
    found: list[str] = []
    for above, folders, files in os.walk(folder):
        # In place, which `os.walk` follows; hidden ones are left out, as in training.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (os.path.join(above, name) for name in sorted(files) if not name.startswith("."))
        found += filter(is_image, paths)
    if is_packed(Path(folder)):
        raise UsageError(f"{printable(folder)} is packed data, which must be the only SOURCE.")
    if not found:
        raise UsageError(f"no image in {printable(folder)} or the folders in it.")
    return found
