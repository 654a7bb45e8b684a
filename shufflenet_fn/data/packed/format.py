"""The files of a packed data set and their index, ``packed.json``.

::

    packed.json               settings, class names, provenance, and every other file with its hash
    train.entries             one entry per image of the split, memory-mapped (``entries.py``)
    train-00000.array_record  the images, one ArrayRecord record each
    val.entries, val-00000.array_record, ...

``packed.json`` is written last: a folder without it is not a packed data set. A shard's records are
JPEG files, or uint8 RGB pixels in (H, W, 3) order, with nothing added, so that any reader of
ArrayRecord can use them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from shufflenet_fn.data.packed.fields import count, mapping, strings, texts
from shufflenet_fn_backends.support.errors import UsageError

INDEX_NAME = "packed.json"
SHARD_SUFFIX = ".array_record"
SPLITS = ("train", "val")
FORMATS = ("jpeg", "raw")
DEFAULT_QUALITY = 90

_SHARD_NAME = re.compile(r"(train|val)-\d{5}\.array_record")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PackSettings:
    """What the images are turned into.

    Attributes:
      format: ``"jpeg"`` or ``"raw"`` (uint8 RGB pixels).
      short_side: larger images are shrunk to this short side, in pixels; 0 keeps every size.
      quality: of re-encoded JPEGs, 1 to 100; ``None`` for raw.
      shard_bytes: a shard is closed as soon as its records hold this many bytes.

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
                f"--short-side must be at least 1 pixel, or 0 to keep every size, got "
                f"{self.short_side}."
            )
        if self.format == "raw" and self.quality is not None:
            raise UsageError("--quality is of JPEGs. Leave it out with --format raw.")
        if self.format == "jpeg" and not (self.quality and 1 <= self.quality <= 100):
            raise UsageError(f"--quality must be from 1 to 100, got {self.quality}.")
        if self.shard_bytes < 1:
            raise UsageError(f"--shard-size must be above 0, got {self.shard_bytes} bytes.")


class FileFacts(NamedTuple):
    """A file beside ``packed.json``, with how many images it is about."""

    name: str
    bytes: int
    images: int
    sha256: str


class SplitIndex(NamedTuple):
    """One split.

    Attributes:
      entries: the file of the split's entries.
      shards: in order; the first ``shards[0].images`` images are in the first shard, and so on.
      kept: how many images are the source's own bytes.
      located: of how many images the entries say where their records lie: all, unless ArrayRecord laid
        a file out in a way that is not known.
      left_out: source images that could not be decoded and were left out, if that was asked for.
    """

    entries: FileFacts
    shards: tuple[FileFacts, ...]
    kept: int
    located: int
    left_out: tuple[str, ...]


class PackedIndex(NamedTuple):
    """``packed.json``.

    Attributes:
      settings: how the images were packed.
      classes: class names of all splits; a label is an index into them.
      splits: by name, ``train`` and ``val``.
      source: a fingerprint of the source's listing, by split.
      provenance: where and when it was made, and by what, for people to read.
    """

    settings: PackSettings
    classes: tuple[str, ...]
    splits: Mapping[str, SplitIndex]
    source: Mapping[str, str]
    provenance: Mapping[str, str]


def shard_name(split: str, number: int) -> str:
    """The name of a split's shard."""
    return f"{split}-{number:05d}{SHARD_SUFFIX}"


def entries_name(split: str) -> str:
    """The name of a split's file of entries."""
    return f"{split}.entries"


def index_fields(index: PackedIndex) -> dict[str, Any]:
    """``index`` as what JSON holds."""
    return {
        "settings": vars(index.settings),
        "classes": list(index.classes),
        "splits": {
            name: {
                "entries": split.entries._asdict(),
                "shards": [shard._asdict() for shard in split.shards],
                "kept": split.kept,
                "located": split.located,
                "left_out": list(split.left_out),
            }
            for name, split in index.splits.items()
        },
        "source": dict(index.source),
        "provenance": dict(index.provenance),
    }


def index_from_fields(fields: Mapping[str, Any]) -> PackedIndex:
    """The inverse of ``index_fields``.

    Raises:
      KeyError, TypeError, ValueError, UsageError: a field is missing or not what it must be. A file
        name that is not exactly the expected one is refused: the index cannot point elsewhere.
    """
    of_split = mapping(fields["splits"], "splits")
    splits = {name: _split(name, mapping(of_split[name], name)) for name in SPLITS}
    source = texts(fields["source"], "source")
    return PackedIndex(
        settings=_settings(fields["settings"]),
        classes=strings(fields["classes"]),
        splits=splits,
        source={name: source[name] for name in SPLITS},
        provenance=texts(fields["provenance"], "provenance"),
    )


def is_packed_file(name: str) -> bool:
    """Whether a file of this name is a shard or a file of entries."""
    return bool(_SHARD_NAME.fullmatch(name)) or name in map(entries_name, SPLITS)


def _settings(fields: Any) -> PackSettings:
    settings = PackSettings(**mapping(fields, "settings"))
    count(settings.short_side, "short_side")
    count(settings.shard_bytes, "shard_bytes")
    if settings.quality is not None:
        count(settings.quality, "quality")
    return settings


def _split(split: str, fields: Mapping[str, Any]) -> SplitIndex:
    entries = _file(fields["entries"], entries_name(split))
    shards = tuple(
        _file(shard, shard_name(split, number)) for number, shard in enumerate(fields["shards"])
    )
    held = sum(shard.images for shard in shards)
    if held != entries.images:
        raise ValueError(f"{split} has {entries.images} entries and {held} images in its shards")
    kept, located = count(fields["kept"], "kept"), count(fields["located"], "located")
    return SplitIndex(entries, shards, kept, located, strings(fields["left_out"]))


def _file(fields: Any, name: str) -> FileFacts:
    facts = FileFacts(**mapping(fields, "a file"))
    if facts.name != name:
        raise ValueError(f"a file is named {facts.name!r} where {name!r} belongs")
    if not _SHA256.fullmatch(facts.sha256):
        raise ValueError(f"{name} has the SHA-256 {facts.sha256!r}")
    return facts._replace(bytes=count(facts.bytes, "bytes"), images=count(facts.images, "images"))
