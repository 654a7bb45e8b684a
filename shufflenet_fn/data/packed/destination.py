"""The folder that is packed into: what may be in it, and what is done about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from shufflenet_fn.data.layout import counted, some
from shufflenet_fn.data.packed.format import (
    INDEX_NAME,
    SPLITS,
    PackedIndex,
    PackSettings,
    index_fields,
)
from shufflenet_fn.data.packed.index import is_packed, read_index
from shufflenet_fn.data.packed.plan import Fingerprint, differences, source_changed
from shufflenet_fn.data.packed.sealed import read_sealed, write_sealed
from shufflenet_fn.data.packed.unfinished import (
    LOCK_NAME,
    PLAN_NAME,
    Part,
    finished_parts,
    is_packing_file,
    remove_leftovers,
    remove_parts,
)
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.sources import ImageFolder
from shufflenet_fn_backends.support.errors import UsageError, UserError


def settled_paths(source: str | Path, folder: str | Path) -> tuple[Path, Path]:
    """Both folders as absolute paths.

    Raises:
      UsageError: the source is packed already, or one folder lies in the other.
    """
    source, folder = Path(source).absolute(), Path(folder).absolute()
    real_source, real_folder = source.resolve(), folder.resolve()
    if is_packed(source):
        raise UsageError(
            f"{printable(source)} is a packed data set. Pack from the folder of its images; `data info` says "
            "which that was."
        )
    if real_source == real_folder or real_source in real_folder.parents:
        raise UsageError(
            f"{printable(folder)} lies in the source, {printable(source)}. Name a folder outside of it."
        )
    if real_folder in real_source.parents:
        raise UsageError(
            f"the source, {printable(source)}, lies in {printable(folder)}. Name a folder of its own for "
            "the packed data."
        )
    return source, folder


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Create the folder and keep other processes from packing into it.

    Raises:
      UsageError: it is not a folder, or holds something other than packed data.
      UserError: another process packs into it.
    """
    from filelock import FileLock, Timeout

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{printable(folder)} is a file. Name a folder for the packed data.")
    folder.mkdir(parents=True, exist_ok=True)
    _check_nothing_else(folder)
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another process is packing into {printable(folder)}. Wait for it, or name another folder."
        ) from None
    try:
        yield
    finally:
        # The file stays. Between its removal and the release another process could lock a new one.
        lock.release()


def finished_index(
    folder: Path,
    settings: PackSettings,
    splits: Sequence[ImageFolder],
    *,
    skip_bad_images: bool,
    overwrite: bool,
) -> PackedIndex | None:
    """The index of a folder that is packed so already, or None if it is to be packed.

    Raises:
      UsageError: it is packed otherwise, or lacks bad images that are not to be skipped, and that is
        not to be overwritten.
      UserError: its index is damaged, and it is not to be overwritten.
    """
    if overwrite or not (folder / INDEX_NAME).exists():
        return None
    index = read_index(folder)
    # Another version of a library is no reason to pack a whole data set again.
    now = {
        "settings": vars(settings),
        "source": {source.split: Fingerprint(source).upto(len(source)) for source in splits},
    }
    _refuse(folder, "is packed already", differences(index_fields(index), now))
    if not skip_bad_images:
        left_out = {name: split.left_out for name, split in index.splits.items()}
        _refuse_left_out(folder, "is packed already", left_out)
    remove_parts(folder)  # of a run that was killed after its last write
    return index


def prepare(
    folder: Path,
    plan: Mapping[str, Any],
    splits: Sequence[ImageFolder],
    *,
    skip_bad_images: bool,
    overwrite: bool,
) -> dict[str, list[Part]]:
    """Make the folder ready for this plan: the finished shards of an interrupted run, by split.

    Raises:
      UsageError: an interrupted run had another plan, packed other images or skipped bad ones that are
        not to be skipped, and it is not to be overwritten.
      UserError: its plan is damaged, and it is not to be overwritten.
    """
    finished: dict[str, list[Part]] = {split: [] for split in SPLITS}
    if (folder / PLAN_NAME).exists() and not overwrite:
        _refuse(folder, "is half packed", differences(read_sealed(folder / PLAN_NAME), plan))
        finished = {source.split: _usable_parts(folder, source) for source in splits}
        if not skip_bad_images:
            left_out = {
                split: tuple(chain(*(part.left_out for part in parts)))
                for split, parts in finished.items()
            }
            _refuse_left_out(folder, "is half packed", left_out)
    else:
        # Before its shards: a folder with an index must be complete.
        (folder / INDEX_NAME).unlink(missing_ok=True)
    remove_leftovers(folder, finished)
    write_sealed(folder / PLAN_NAME, plan)
    return finished


def _usable_parts(folder: Path, source: ImageFolder) -> list[Part]:
    """The finished shards of a split. Raises ``UsageError`` if their images have changed since."""
    parts = finished_parts(folder, source.split)
    fingerprint = Fingerprint(source)
    for part in parts:
        gone = part.next_source > len(source)
        if gone or fingerprint.upto(part.next_source) != part.source_sha256:
            _refuse(folder, "is half packed", [source_changed(source.split)])
    if parts and not parts[-1].full and parts[-1].next_source < len(source):
        parts.pop()  # images were added behind what was the last one
    return parts


def _check_nothing_else(folder: Path) -> None:
    others = [path.name for path in folder.iterdir() if not is_packing_file(path.name)]
    if others:
        raise UsageError(
            f"{printable(folder)} holds something other than packed data: {some(others)}. Name an empty "
            "folder or a new one."
        )


def _refuse(folder: Path, what: str, found: list[str]) -> None:
    if found:
        raise UsageError(
            f"{printable(folder)} {what}, but not as asked for: {'; '.join(found)}. Ask for the same, pass "
            "--overwrite to start again, or name another folder."
        )


def _refuse_left_out(folder: Path, what: str, left_out: Mapping[str, Sequence[str]]) -> None:
    names = [f"{split}/{name}" for split, found in left_out.items() for name in found]
    if names:
        raise UsageError(
            f"{printable(folder)} {what}, but without {counted(len(names), 'bad image')}: {some(names)}. "
            "Pass --on-bad-image skip to leave them out, or mend or remove them and pass --overwrite to "
            "start again."
        )
