"""The destination of packing: what it may contain, and what an interrupted run left in it.

While packing, the folder holds ``packing.json`` (what is packed, and how) and, beside every finished shard,
``train-00000.part.npz`` with the shard's facts and entries. The part is written after the shard has its final
name, so a part implies its shard. A shard without a part is left over from a killed run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shufflenet_fn.data.folder import ImageFolder, counted, some
from shufflenet_fn.data.packed.entries import Entries
from shufflenet_fn.data.packed.index import (
    DATA_FILE,
    INDEX_NAME,
    PLAN_NAME,
    SHARD_SUFFIX,
    SPLITS,
    FileFacts,
    PackedIndex,
    PackSettings,
    index_fields,
    is_packed,
    read_index,
    read_sealed,
    shard_name,
    write_sealed,
)
from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import replace_file
from shufflenet_fn_backends.support.errors import UsageError, UserError

LOCK_NAME = "packing.lock"
_PART = ".part.npz"
# All that packing writes, also under the temporary names of shards and of other files.
_OWN_FILE = re.compile(
    rf"\.?(packed\.json|packing\.(json|lock)|(train|val)-\d{{5}}\.part\.npz|{DATA_FILE.pattern})(\.tmp|\.partial)?"
)
# Their versions may change an image's bytes.
_LIBRARIES = ("simplejpeg", "pillow", "torch")


def settled_paths(source: str | Path, folder: str | Path) -> tuple[Path, Path]:
    """Return both folders as absolute paths.

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
    if real_folder.is_relative_to(real_source):
        raise UsageError(
            f"{printable(folder)} lies in the source, {printable(source)}. Name a folder outside of it."
        )
    if real_source.is_relative_to(real_folder):
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
    others = [path.name for path in folder.iterdir() if not _OWN_FILE.fullmatch(path.name)]
    if others:
        raise UsageError(
            f"{printable(folder)} holds something other than packed data: {some(others)}. Name an empty "
            "folder or a new one."
        )
    try:
        # The file stays. Between its removal and the release another process could lock a new one.
        with FileLock(folder / LOCK_NAME, timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"another process is packing into {printable(folder)}. Wait for it, or name another folder."
        ) from None


def finished_index(
    folder: Path, settings: PackSettings, splits: Sequence[ImageFolder], *, skip_bad_images: bool
) -> PackedIndex | None:
    """Return the index of a folder that is already packed as asked for, or None if it is to be packed.

    Raises:
      UsageError: it was packed with other settings, or without bad images that must not be skipped now.
      UserError: its index is damaged.
    """
    if not (folder / INDEX_NAME).exists():
        return None
    index = read_index(folder)
    # Another version of a library is no reason to pack a whole data set again.
    now = {
        "settings": vars(settings),
        "source": {source.split: Fingerprint(source).upto(len(source)) for source in splits},
    }
    left_out = {name: split.left_out for name, split in index.splits.items() if not skip_bad_images}
    _refuse(folder, "is packed already", differences(index_fields(index), now), left_out)
    remove_parts(folder)  # left by a run that was killed after its last write
    return index


def prepare(
    folder: Path,
    plan: Mapping[str, Any],
    splits: Sequence[ImageFolder],
    *,
    skip_bad_images: bool,
    overwrite: bool,
) -> dict[str, list[Part]]:
    """Make the folder ready for this plan and return the finished shards of an interrupted run.

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
                split: [name for part in parts for name in part.left_out] for split, parts in finished.items()
            }
            _refuse(folder, "is half packed", [], left_out)
    else:
        # Before its shards: a folder with an index must be complete.
        (folder / INDEX_NAME).unlink(missing_ok=True)
    shards = {part.shard.name for parts in finished.values() for part in parts}
    keep = {PLAN_NAME, LOCK_NAME, *shards, *(_part_path(folder, name).name for name in shards)}
    for path in list(folder.iterdir()):
        if _OWN_FILE.fullmatch(path.name) and path.name not in keep:
            path.unlink()
    write_sealed(folder / PLAN_NAME, plan)
    return finished


def _usable_parts(folder: Path, source: ImageFolder) -> list[Part]:
    """Return the finished shards of a split. Raises ``UsageError`` if their images have changed since."""
    parts: list[Part] = []
    fingerprint = Fingerprint(source)
    while (part := _read_part(folder, shard_name(source.split, len(parts)))) is not None:
        gone = part.next_source > len(source)
        if gone or fingerprint.upto(part.next_source) != part.source_sha256:
            _refuse(folder, "is half packed", [_source_changed(source.split)])
        parts.append(part)
    if parts and not parts[-1].full and parts[-1].next_source < len(source):
        parts.pop()  # images were added after the former last one
    return parts


def _refuse(
    folder: Path, what: str, found: Sequence[str], left_out: Mapping[str, Sequence[str]] | None = None
) -> None:
    if found:
        raise UsageError(
            f"{printable(folder)} {what}, but not as asked for: {'; '.join(found)}. Ask for the same, pass "
            "--overwrite to start again, or name another folder."
        )
    names = [f"{split}/{name}" for split, images in (left_out or {}).items() for name in images]
    if names:
        raise UsageError(
            f"{printable(folder)} {what}, but without {counted(len(names), 'bad image')}: {some(names)}. "
            "Pass --on-bad-image skip to leave them out, or replace or remove them and pass --overwrite to "
            "start again."
        )


class Fingerprint:
    """SHA-256 of relative paths, sizes and modification times of a folder's images, up to a given one."""

    def __init__(self, source: ImageFolder) -> None:
        self._source, self._done, self._digest = source, 0, hashlib.sha256()

    def upto(self, stop: int) -> str:
        """Return the fingerprint of the images before ``stop``, which must not decrease between calls."""
        for index in range(self._done, stop):
            name = os.fsencode(self._source.paths[index])
            try:
                facts = os.stat(self._source.path(index))
            except OSError:  # reading it reports the error
                self._digest.update(b"%s\0unreadable\n" % name)
            else:
                self._digest.update(b"%s\0%d\0%d\n" % (name, facts.st_size, facts.st_mtime_ns))
        self._done = stop
        return self._digest.hexdigest()


def plan_fields(settings: PackSettings, classes: Sequence[str]) -> dict[str, Any]:
    """Return the fields that must be equal to continue an interrupted run, apart from the images.

    Those may change after its last finished shard: a bad one can be replaced without starting again.
    """
    return {
        "settings": vars(settings),
        "source": {"classes": hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()},
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return descriptions of the fields of ``now`` that were different ``before``."""
    found: list[str] = []
    for group, new in now.items():
        old = before.get(group)
        if not isinstance(old, dict):  # an edited plan
            old = {}
        for key, value in new.items():
            if value != old.get(key):
                changed = f"{key} was {old.get(key)}, now it is {value}"
                found.append(_source_changed(key) if group == "source" else changed)
    return found


def _source_changed(what: str) -> str:
    if what == "classes":
        return "class folders of the source were added, removed or renamed"
    return f"files of the source's {what}/ were added, removed or changed"


class Part(NamedTuple):
    """A finished shard. ``kept`` and ``left_out`` are as of ``SplitIndex``.

    Attributes:
      next_source: the first source image after it.
      source_sha256: ``Fingerprint`` of the source images before that.
      full: whether it was closed because of its size, not because there were no more images.
    """

    shard: FileFacts
    entries: Entries
    kept: int
    left_out: tuple[str, ...]
    next_source: int
    source_sha256: str
    full: bool


def write_part(folder: Path, part: Part) -> None:
    """Record that a shard is finished. Raises ``OSError``."""
    fields = {name: value for name, value in part._asdict().items() if name != "entries"}
    facts = json.dumps({**fields, "shard": part.shard._asdict()})
    buffer = io.BytesIO()
    columns = {f"entries_{name}": column for name, column in part.entries._asdict().items()}
    np.savez(buffer, facts=np.frombuffer(facts.encode(), dtype=np.uint8), **columns)
    replace_file(_part_path(folder, part.shard.name), buffer.getvalue())


def _read_part(folder: Path, shard: str) -> Part | None:
    """Return the part of a shard, or None if it is missing, damaged or does not match the shard."""
    try:
        with np.load(_part_path(folder, shard), allow_pickle=False) as arrays:
            facts: dict[str, Any] = json.loads(bytes(arrays["facts"]))
            entries = Entries(*(arrays[f"entries_{name}"] for name in Entries._fields))
        facts["left_out"] = tuple(facts["left_out"])
        part = Part(**{**facts, "shard": FileFacts(**facts["shard"]), "entries": entries})
        complete = os.path.getsize(folder / shard) == part.shard.bytes
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return part if complete and part.shard.name == shard else None


def _part_path(folder: Path, shard: str) -> Path:
    return folder / (shard.removesuffix(SHARD_SUFFIX) + _PART)


def remove_parts(folder: Path) -> None:
    """Remove what is needed only while packing."""
    for path in [*folder.glob(f"*{_PART}"), folder / PLAN_NAME]:
        path.unlink(missing_ok=True)
