"""``packed.json``, the index of a packed data set, and the names of its files.

::

    packed.json      settings, class names, provenance, and every other file with its hash
    train.entries    one entry per image of the split, memory-mapped (``entries.py``)
    train-00000.tar  the images (``files.py``)
    val.entries, val-00000.tar, ...

``packed.json`` is written last: a folder without it is not a packed data set. It ends with a hash of itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import parse_json, read_regular, replace_file
from shufflenet_fn_backends.support.errors import UsageError, UserError

INDEX_NAME = "packed.json"
PLAN_NAME = "packing.json"
SHARD_SUFFIX = ".tar"
SPLITS = ("train", "val")
FORMATS = ("jpeg", "raw")
DEFAULT_QUALITY = 90
VERSION = 3
KIND = "shufflenet-fn packed data"

# Shards of version 2 have the other suffix; `data pack --overwrite` removes them.
DATA_FILE = re.compile(r"(train|val)(\.entries|-\d{5}\.(tar|array_record))")
"""Names of shards and of files of entries."""

_MAX_BYTES = 1 << 28
"""Maximum size of an index in bytes. 100,000 shards take about 20 MB."""


@dataclass(frozen=True)
class PackSettings:
    """The format of the packed images.

    Attributes:
      format: ``"jpeg"`` or ``"raw"`` (uint8 RGB pixels).
      short_side: larger images are shrunk to this short side, in pixels; 0 keeps every size.
      quality: quality of re-encoded JPEGs, 1 to 100; ``None`` for raw.
      shard_bytes: a shard is closed as soon as its images hold this many bytes.

    Raises:
      UsageError: a value out of range, named.
    """

    format: str = "jpeg"
    short_side: int = 256
    quality: int | None = DEFAULT_QUALITY
    shard_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UsageError(f"--format must be one of {', '.join(FORMATS)}, got {self.format!r}.")
        if self.short_side < 0:
            raise UsageError(
                f"--short-side must be at least 1 pixel, or 0 to keep every size, got {self.short_side}."
            )
        if self.format == "raw" and self.quality is not None:
            raise UsageError("--quality is of JPEGs. Leave it out with --format raw.")
        if self.format == "jpeg" and not (self.quality and 1 <= self.quality <= 100):
            raise UsageError(f"--quality must be from 1 to 100, got {self.quality}.")


class FileFacts(NamedTuple):
    """A file next to ``packed.json``, with its number of images."""

    name: str
    bytes: int
    images: int
    sha256: str


class SplitIndex(NamedTuple):
    """One split.

    Attributes:
      entries: the file of the split's entries.
      shards: in order; the first ``shards[0].images`` images are in the first shard, and so on.
      kept: how many images are byte-identical to the source.
      left_out: source images that could not be decoded and were left out at the user's request.
    """

    entries: FileFacts
    shards: tuple[FileFacts, ...]
    kept: int
    left_out: tuple[str, ...]


class PackedIndex(NamedTuple):
    """``packed.json``.

    Attributes:
      settings: how the images were packed.
      classes: class names of all splits; a label is an index into them.
      splits: by name, ``train`` and ``val``.
      source: a fingerprint of the source's listing, by split.
      provenance: where, when and by which software it was packed, for people to read.
    """

    settings: PackSettings
    classes: tuple[str, ...]
    splits: Mapping[str, SplitIndex]
    source: Mapping[str, str]
    provenance: Mapping[str, str]


def shard_name(split: str, number: int) -> str:
    """Return the name of a split's shard."""
    return f"{split}-{number:05d}{SHARD_SUFFIX}"


def entries_name(split: str) -> str:
    """Return the name of a split's file of entries."""
    return f"{split}.entries"


def is_packed(folder: Path) -> bool:
    """Return whether a folder holds packed data, complete or not."""
    return any(os.path.exists(folder / name) for name in (INDEX_NAME, PLAN_NAME))


def read_index(folder: Path) -> PackedIndex:
    """Return the index of a packed data set.

    Raises:
      UsageError: the folder does not exist or is not packed, or not completely.
      UserError: the index is damaged or of another version.
    """
    path = folder / INDEX_NAME
    if not path.exists():
        if not folder.is_dir():
            why = "is not a folder. Pass one that `data pack` wrote."
        elif (folder / PLAN_NAME).exists():
            why = (
                "is only half packed: `data pack` was interrupted. Run it again with the same arguments; it "
                "goes on from the last finished shard."
            )
        else:
            why = f"is not packed: it has no {INDEX_NAME}. Pass a folder that `data pack` wrote."
        raise UsageError(f"{printable(folder)} {why}")
    fields = read_sealed(path)
    try:
        return index_from_fields(fields)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{printable(path)} makes no sense: {reason}. Pack the data again.") from error


def index_fields(index: PackedIndex) -> dict[str, Any]:
    """Return ``index`` as JSON values."""
    return {
        "settings": vars(index.settings),
        "classes": list(index.classes),
        "splits": {
            name: {
                "entries": split.entries._asdict(),
                "shards": [shard._asdict() for shard in split.shards],
                "kept": split.kept,
                "left_out": list(split.left_out),
            }
            for name, split in index.splits.items()
        },
        "source": dict(index.source),
        "provenance": dict(index.provenance),
    }


def index_from_fields(fields: Mapping[str, Any]) -> PackedIndex:
    """Return the index with these fields: the inverse of ``index_fields``.

    Raises:
      KeyError, TypeError, ValueError, AttributeError, UsageError: a field is missing or not what it must be.
        A file name that is not exactly the expected one is refused: the index cannot point elsewhere.
    """
    return PackedIndex(
        settings=PackSettings(**fields["settings"]),
        classes=tuple(fields["classes"]),
        splits={name: _split(name, **fields["splits"][name]) for name in SPLITS},
        source={name: fields["source"][name] for name in SPLITS},
        provenance=dict(fields["provenance"]),
    )


def _split(split: str, entries: Any, shards: list[Any], kept: int, left_out: list[str]) -> SplitIndex:
    files = tuple(FileFacts(**shard) for shard in shards)
    found = SplitIndex(FileFacts(**entries), files, kept, tuple(left_out))
    names = [entries_name(split), *(shard_name(split, number) for number in range(len(files)))]
    for facts, name in zip((found.entries, *files), names, strict=True):
        if facts.name != name:
            raise ValueError(f"a file is named {facts.name!r} where {name!r} belongs")
    held = sum(shard.images for shard in files)
    if held != found.entries.images:
        raise ValueError(f"{split} has {found.entries.images} entries and {held} images in its shards")
    return found


def write_sealed(path: Path, fields: Mapping[str, Any]) -> None:
    """Write ``fields`` as JSON with a hash of itself, whole or not at all. Raises ``OSError``."""
    replace_file(path, _render({"kind": KIND, "version": VERSION, **fields}))


def read_sealed(path: Path) -> dict[str, Any]:
    """Return the fields that ``write_sealed`` wrote.

    Raises:
      UserError: not such a file, of another version, or changed since it was written.
    """
    shown = printable(path)
    try:
        content = read_regular(path.resolve(), limit=_MAX_BYTES)
        fields = parse_json(content)
    except OSError as error:
        raise UserError(f"cannot read {shown}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{shown} is damaged: {error}. Pack the data again.") from error
    if not isinstance(fields, dict) or fields.get("kind") != KIND:
        raise UserError(
            f'{shown} is not an index of packed data, or it is damaged: it does not say "kind": "{KIND}". '
            "Pass a folder that `data pack` wrote."
        )
    if fields.get("version") != VERSION:
        raise UserError(_other_version(path, fields))
    stored = fields.pop("sha256", None)
    # Compare the whole text, so that changed whitespace is found as well.
    if _render(fields) != content:
        raise UserError(
            f"{shown} is damaged or was edited: its SHA-256 is not {stored}, which it states. Copy it "
            "again or pack the data again."
        )
    return {key: value for key, value in fields.items() if key not in ("kind", "version")}


def _other_version(path: Path, fields: Mapping[str, Any]) -> str:
    version, provenance = fields.get("version"), fields.get("provenance")
    said = f"{printable(path)} is of version {version!r} of the format; this program reads version {VERSION}"
    if not isinstance(version, int) or version > VERSION:
        return f"{said}. Read it with the version of shufflenet-fn that packed it, or pack the data again."
    source = provenance.get("source") if isinstance(provenance, dict) else None
    folders = [printable(source if isinstance(source, str) else "SRC"), printable(path.parent)]
    return (
        f"{said}, whose shards are tar files. Pack the images again, with the options that made it: "
        f"`shufflenet-fn data pack {shlex.join(folders)} --overwrite`."
    )


def _render(fields: Mapping[str, Any]) -> bytes:
    """Return the canonical text of ``fields``, which ends with a hash of all that precedes it."""
    body = json.dumps(fields, indent=1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-2]},\n "sha256": "{digest}"\n}}\n'.encode()
