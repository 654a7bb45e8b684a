"""Images to predict: files, folders, patterns, and lists of paths."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.dataset import Dataset, Encoded, Stored, stored_files
from shufflenet_fn.data.files import read_file
from shufflenet_fn.data.formats import is_image
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.data.packed.index import is_packed
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UsageError

UNKNOWN = -1
"""Label of an image whose class is not known."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files in any folders, as a ``Dataset``.

    Attributes:
      paths: as given, or as found in a folder.
      labels: int64 (len(paths),), ``UNKNOWN`` where no folder names a class.
      classes: class names that labels index.
    """

    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    root: Path = Path()
    split: str = "images"

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> Encoded:
        return Encoded(read_file(Path(self.paths[index])))

    def located(self, indices: npt.NDArray[np.int64]) -> AbstractContextManager[Stored]:
        return stored_files([os.fsencode(self.paths[index]) for index in indices.tolist()])


def open_sources(
    sources: Sequence[str],
    classes: Sequence[str] | None,
    *,
    split: str = "val",
    lines: Iterable[str] = (),
    done: frozenset[str] = frozenset(),
) -> Dataset:
    """Return the images of ``sources`` as a data set.

    Args:
        sources: files, folders (searched in all depths), patterns (``*``, ``**``), ``@FILE`` (a path on each
            line), ``-`` (``lines``), or one folder of packed data.
        classes: the model's. A folder of one of these names labels the images in it.
        split: the split of packed data.
        lines: paths, such as those of standard input.
        done: paths to leave out.

    Raises:
        UsageError: a source does not exist or holds no image.
    """
    if len(sources) == 1 and is_packed(Path(sources[0])):
        return open_split(sources[0], split, classes)
    found = dict.fromkeys(path for source in sources for path in _paths(source, lines))
    paths = tuple(path for path in found if path not in done)
    label_of = {name: label for label, name in enumerate(classes or ())}
    labels = np.array([label_of.get(Path(path).parent.name, UNKNOWN) for path in paths], np.int64)
    return ImageFiles(paths, labels, tuple(classes or ()))


def _paths(source: str, lines: Iterable[str]) -> Iterator[str]:
    if source == "-":
        yield from _listed(lines)
    elif os.path.isdir(source):
        yield from _in_folder(source)
    elif os.path.exists(source):
        yield source
    elif source.startswith("@"):
        try:
            yield from _listed(Path(source[1:]).read_text("utf-8", "surrogateescape").splitlines())
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"cannot read the list {printable(source[1:])}: {reason}.") from error
    elif matched := sorted(path for path in glob.glob(source, recursive=True) if os.path.isfile(path)):
        yield from matched
    else:
        raise UsageError(
            f"no image at {printable(source)}. Give files, folders, patterns such as 'photos/*.jpg', @FILE "
            "with a path on each line, or - for standard input."
        )


def _listed(lines: Iterable[str]) -> Iterator[str]:
    return (path for line in lines if (path := line.rstrip("\r\n")))


def _in_folder(folder: str) -> list[str]:
    found = [
        path
        for above, folders, files in os.walk(folder)
        # Sorted in place, which `os.walk` follows; hidden ones are left out, as in training.
        if folders.__setitem__(slice(None), sorted(f for f in folders if not f.startswith("."))) is None
        for file in sorted(files)
        if not file.startswith(".") and is_image(path := os.path.join(above, file))
    ]
    if not found:
        raise UsageError(f"no image in {printable(folder)} or the folders in it.")
    return found
