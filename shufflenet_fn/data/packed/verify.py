"""``data verify``: compare every byte of a packed data set with the index, and name damaged images."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shufflenet_fn.data.packed.entries import Entries, map_entries
from shufflenet_fn.data.packed.files import ShardFiles
from shufflenet_fn.data.packed.index import DATA_FILE, INDEX_NAME, FileFacts, read_index
from shufflenet_fn.data.packed.read import read_record, wrong_size
from shufflenet_fn.data.threads import ordered_map
from shufflenet_fn_backends.support.errors import UserError

_BLOCK = 1 << 22


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


def verify(
    folder: str | Path, *, workers: int, report: Callable[[int, int], None] = lambda done, total: None
) -> Verified:
    """Read every file of a packed data set and compare its SHA-256 with the index's.

    Where a file differs, its images are read one by one, to name those that are damaged.

    Args:
      folder: the packed data set.
      workers: threads that read and hash.
      report: ``report(done, total)`` in shards, called after each by the calling thread.

    Raises:
      UsageError: the folder is not packed or not completely packed.
      UserError: the index itself is damaged.
    """
    folder = Path(folder)
    splits = read_index(folder).splits
    listed = {facts.name: facts for files in splits.values() for facts in (files.entries, *files.shards)}
    reason = f"{INDEX_NAME} does not list it: it is of another packed set; delete it"
    damage = [
        Damage(path.name, reason, stray=True)
        for path in sorted(folder.iterdir())
        if DATA_FILE.fullmatch(path.name) and path.name not in listed
    ]
    checks: list[Callable[[], list[Damage]]] = []
    for split, files in splits.items():
        spoilt = _file_damage(folder, files.entries)
        damage += spoilt
        try:
            entries = map_entries(folder / files.entries.name, files.entries.images)
        except (OSError, ValueError):  # missing or too small
            entries = None
        first = 0
        for shard in files.shards:
            place = _Place(split, first, entries, suspect=bool(spoilt))
            checks.append(functools.partial(_shard_damage, folder, shard, place))
            first += shard.images
    results = ordered_map(lambda check: check(), checks, workers=workers)
    for done, found in enumerate(results, 1):
        damage += found
        report(done, len(checks))
    return Verified(
        tuple(damage),
        files=1 + len(listed),
        images=sum(files.entries.images for files in splits.values()),
        bytes=sum(facts.bytes for facts in listed.values()),
    )


class _Place(NamedTuple):
    """A shard's split, its first image there, and the split's entries, unless they are missing.

    ``suspect``: check every image, because the entries are damaged.
    """

    split: str
    first: int
    entries: Entries | None
    suspect: bool


def _shard_damage(folder: Path, facts: FileFacts, place: _Place) -> list[Damage]:
    found, path = _file_damage(folder, facts), folder / facts.name
    if place.entries is None or not (found or place.suspect) or not path.is_file():
        return found
    records: list[Damage] = []
    files, end = ShardFiles([path]), path.stat().st_size
    for record in range(facts.images):
        index = place.first + record
        try:
            read_record(files, 0, end, place.entries, index)
        except (ValueError, UserError) as error:
            original = f"{place.split}/{place.entries.name(index)}"
            records.append(Damage(facts.name, str(error), record, original))
    if found and not records:
        return [found[0]._replace(reason=f"{found[0].reason}; all its records are intact")]
    return found + records


def _file_damage(folder: Path, facts: FileFacts) -> list[Damage]:
    """Compare a file as a whole with the index."""
    problem = wrong_size(folder, facts)
    if problem is None:
        digest = hashlib.sha256()
        try:
            with open(folder / facts.name, "rb", buffering=0) as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            problem = str(error.strerror)
        else:
            if digest.hexdigest() != facts.sha256:
                problem = f"its SHA-256 is {digest.hexdigest()} and not {facts.sha256}"
    return [Damage(facts.name, problem)] if problem else []
