"""``data verify``: compare every byte of a packed data set with the index, and name damaged images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from shufflenet_fn.data.packed.entries import Entries, map_entries
from shufflenet_fn.data.packed.files import BEYOND, ShardFiles, sha256_of
from shufflenet_fn.data.packed.index import INDEX_NAME, FileFacts, SplitIndex, is_packed_file, read_index
from shufflenet_fn.data.threads import ordered_map
from shufflenet_fn_backends.support.errors import UsageError, UserError


class Damage(NamedTuple):
    """A difference from what was packed.

    Attributes:
      file: its name in the packed folder.
      reason: what is wrong.
      record: number of the damaged record in the shard, from 0; ``None`` if the whole file is concerned.
      original: path of that image in the source.
      stray: the file does not belong to the data set, and nothing else is wrong with it.
    """

    file: str
    reason: str
    record: int | None = None
    original: str | None = None
    stray: bool = False


class Verified(NamedTuple):
    """What ``verify`` found: nothing is damaged if ``damage`` is empty."""

    damage: tuple[Damage, ...]
    files: int
    images: int
    bytes: int


class VerifyProgress(NamedTuple):
    """Progress: ``bytes`` of ``total`` are read. ``damage``: damage of the file just read."""

    bytes: int
    total: int
    damage: tuple[Damage, ...]


class _Shard(NamedTuple):
    """A shard, the number of its first image in the split, and the split's entries if there are any.

    ``suspect``: check every image, because the entries are damaged.
    """

    split: str
    facts: FileFacts
    first: int
    entries: Entries | None
    suspect: bool


def verify(
    folder: str | Path, *, workers: int, report: Callable[[VerifyProgress], None] = lambda progress: None
) -> Verified:
    """Read every file of a packed data set and compare its SHA-256 with the index's.

    Where a file differs, its images are read one by one, to name those that are damaged.

    Args:
      folder: the packed data set.
      workers: threads that read and hash.
      report: called after every file, by the calling thread.

    Raises:
      UsageError: the folder is not packed or not completely packed, or ``workers`` is less than 1.
      UserError: the index itself is damaged.
    """
    if workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}.")
    folder = Path(folder)
    index = read_index(folder)
    damage = list(_strangers(folder, index.splits))
    shards: list[_Shard] = []
    for split, files in index.splits.items():
        spoilt = _file_damage(folder, files.entries)
        damage += spoilt
        shards += _shards(split, files, _entries(folder, files), suspect=bool(spoilt))
    total, read = sum(shard.facts.bytes for shard in shards), 0
    checks = ordered_map(functools.partial(_shard_damage, folder), shards, workers=workers)
    for shard, found in zip(shards, checks, strict=True):
        damage += found
        read += shard.facts.bytes
        report(VerifyProgress(read, total, found))
    splits = index.splits.values()
    return Verified(
        tuple(damage),
        files=1 + sum(1 + len(files.shards) for files in splits),
        images=sum(files.entries.images for files in splits),
        bytes=total + sum(files.entries.bytes for files in splits),
    )


def _strangers(folder: Path, splits: Mapping[str, SplitIndex]) -> Iterator[Damage]:
    """Find shards and entries that the index does not list."""
    listed = {facts.name for files in splits.values() for facts in (files.entries, *files.shards)}
    for path in sorted(folder.iterdir()):
        if is_packed_file(path.name) and path.name not in listed:
            reason = f"{INDEX_NAME} does not list it: it is of another packed set; delete it"
            yield Damage(path.name, reason, stray=True)


def _shards(split: str, files: SplitIndex, entries: Entries | None, *, suspect: bool) -> Iterator[_Shard]:
    first = 0
    for facts in files.shards:
        yield _Shard(split, facts, first, entries, suspect)
        first += facts.images


def _entries(folder: Path, files: SplitIndex) -> Entries | None:
    """Map the entries, damaged ones too. Return None if the file is missing or too small."""
    try:
        return map_entries(folder / files.entries.name, files.entries.images)
    except (OSError, ValueError):
        return None


def _shard_damage(folder: Path, shard: _Shard) -> tuple[Damage, ...]:
    found = _file_damage(folder, shard.facts)
    missing = not (folder / shard.facts.name).is_file()
    if missing or shard.entries is None or not (found or shard.suspect):
        return found
    records = tuple(_record_damage(folder, shard, shard.entries))
    if found and not records:
        found = (found[0]._replace(reason=f"{found[0].reason}; all its records are intact"),)
    return (*found, *records)


def _file_damage(folder: Path, facts: FileFacts) -> tuple[Damage, ...]:
    """Compare a file as a whole with the index."""
    path = folder / facts.name
    try:
        size, digest = path.stat().st_size, sha256_of(path)
    except OSError as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
        return (Damage(facts.name, reason),)
    if size != facts.bytes:
        return (Damage(facts.name, f"it has {size} bytes and not {facts.bytes}"),)
    if digest != facts.sha256:
        return (Damage(facts.name, f"its SHA-256 is {digest} and not {facts.sha256}"),)
    return ()


def _record_damage(folder: Path, shard: _Shard, entries: Entries) -> Iterator[Damage]:
    """Find the images of a shard that cannot be read or are not what the entries say."""
    path = folder / shard.facts.name
    files, end = ShardFiles([path]), path.stat().st_size
    for record in range(shard.facts.images):
        index = shard.first + record
        offset, size = int(entries.offsets[index]), int(entries.sizes[index])
        try:
            inside = offset + size <= end
            if inside and entries.matches(index, files.read(0, offset, size)):
                continue
            reason = "its checksum differs" if inside else BEYOND
        except UserError as error:
            reason = str(error)
        original = f"{shard.split}/{entries.name(index)}"
        yield Damage(shard.facts.name, reason, record, original)
