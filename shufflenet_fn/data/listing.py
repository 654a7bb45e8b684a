"""Listing the class folders of a split and the images in each, in torchvision's order.

Classes are sorted by name; inside a class folders are sorted by path, the class folder first, and files
by name inside each. Hidden names (a leading dot, as in ``.ipynb_checkpoints``) are skipped, which
torchvision does not do, and JPEGs count under any name: only files of other extensions are opened. Links are
followed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.formats import is_image
from shufflenet_fn.data.paths import PathTable, printable
from shufflenet_fn_backends.support.errors import UsageError

_THREADS = 8
"""Folders listed in parallel: on a network file system each costs a round trip or more."""


class Listing(NamedTuple):
    """The images of one split.

    Attributes:
      classes: names of the class folders, sorted, including those without images.
      counts: int64 (len(classes),), images of each.
      paths: relative to the split's folder, grouped by class.
      labels: int64 (len(paths),), positions in ``classes``.
      stray: images outside all class folders. They are not in ``paths``.
      passed_over: how many files of the class folders are not listed, by extension; without hidden ones.
      directories: paths of all folders that were listed, relative to the split's; ``""`` is that one.
    """

    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    paths: PathTable
    labels: npt.NDArray[np.int64]
    stray: int
    passed_over: Counter[str]
    directories: tuple[str, ...]


class _Class(NamedTuple):
    """A class folder: its paths' bytes, one after another, and the length of each."""

    blob: bytes
    lengths: list[int]
    passed_over: Counter[str]
    directories: list[str]


def list_split(folder: Path) -> Listing:
    """List ``folder``.

    Raises:
      UsageError: a folder cannot be listed, or leads back to a folder above it.
    """
    own = _identity(folder)
    classes: list[str] = []
    stray = 0
    for entry in visible_entries(folder):
        if is_folder(entry):
            classes.append(entry.name)
        else:
            stray += is_image(entry.path)
    classes.sort()
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(lambda name: _list_class(folder, name, own), classes))
    lengths = [length for part in parts for length in part.lengths]
    counts = np.array([len(part.lengths) for part in parts], dtype=np.int64)
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    labels.setflags(write=False)
    return Listing(
        classes=tuple(classes),
        counts=counts,
        paths=PathTable(
            np.frombuffer(b"".join(part.blob for part in parts), np.uint8),
            np.cumsum([0, *lengths], dtype=np.int64),
        ),
        labels=labels,
        stray=stray,
        passed_over=sum((part.passed_over for part in parts), Counter()),
        directories=("", *(path for part in parts for path in part.directories)),
    )


def extension_of(name: str) -> str:
    """Return the end of a name from its last dot, in lower case."""
    return os.path.splitext(name)[1].lower() or "without extension"


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether ``entry`` is a folder or a link to one. False for a broken link."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to something inaccessible
        return False


def visible_entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Iterate over the entries of ``folder`` that are not hidden, unsorted. Raises ``UsageError``."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise _unlistable(folder, error) from error


def _list_class(folder: Path, name: str, split: tuple[int, int]) -> _Class:
    passed_over: Counter[str] = Counter()
    files_in: dict[str, list[str]] = {}
    pending = [(name, frozenset({split}))]
    while pending:
        path, above = pending.pop()
        identity = _identity(folder / path)
        if identity in above:
            raise UsageError(
                f"{printable(folder / path)} leads, by way of a link, back to a folder that it lies in: its "
                "images would be listed without end. Remove the link."
            )
        files = files_in[path] = []
        for entry in visible_entries(folder / path):
            if is_folder(entry):
                pending.append((f"{path}/{entry.name}", above | {identity}))
            elif is_image(entry.path):
                files.append(entry.name)
            else:
                passed_over[extension_of(entry.name)] += 1
    paths = [os.fsencode(f"{path}/{file}") for path in sorted(files_in) for file in sorted(files_in[path])]
    return _Class(b"".join(paths), [*map(len, paths)], passed_over, [*files_in])


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _unlistable(folder, error) from error
    return status.st_dev, status.st_ino


def _unlistable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot list data folder {printable(folder)}: {error.strerror or error}. Check its permissions."
    )
