"""A split of a packed data set, as the loaders read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.dataset import STORED, Encoded, Stored
from shufflenet_fn.data.folder import some
from shufflenet_fn.data.packed.entries import Entries, map_entries, record_checksum
from shufflenet_fn.data.packed.files import DAMAGE_FIX, ShardFiles
from shufflenet_fn.data.packed.index import INDEX_NAME, FileFacts, PackedIndex, read_index
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UsageError, UserError


class PackedSplit:
    """One split of a packed data set: a ``Dataset`` over its shards.

    Safe to use from any number of threads and in a forked process. Unpickling opens it again from its folder.
    Every record that is read is checked, together with its position, label and size.

    Attributes:
      root, split, classes, labels: as of ``Dataset``.
      files: the split's part of the index.
      entries: entries of all images.
      raw: whether images are stored as pixels.
    """

    def __init__(
        self, root: Path, split: str, index: PackedIndex, classes: Sequence[str] | None = None
    ) -> None:
        """Map the split's entries and look for its shards, without reading them. See ``open_packed``."""
        if split not in index.splits:
            raise UsageError(
                f"{printable(root)} has no split {split!r}; it has {' and '.join(index.splits)}."
            )
        self.root, self.split, self.files = root, split, index.splits[split]
        self.raw = index.settings.format == "raw"
        for facts in (self.files.entries, *self.files.shards):
            if problem := wrong_size(root, facts):
                shown = printable(root / facts.name)
                raise UserError(f"{shown} is not the file that {INDEX_NAME} lists: {problem}. {DAMAGE_FIX}")
        path = root / self.files.entries.name
        try:
            self.entries = map_entries(path, self.files.entries.images)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {printable(path)}: {error}. {DAMAGE_FIX}") from error
        self.classes = index.classes if classes is None else tuple(classes)
        self.labels: npt.NDArray[np.int64] = self.entries.labels
        if self.classes != index.classes:
            self.labels = self._relabelled(index.classes)
        self._ends = np.cumsum([shard.images for shard in self.files.shards], dtype=np.int64)
        self._shard_files = ShardFiles(self.shard_paths())

    def shard_paths(self) -> tuple[Path, ...]:
        """The shards' files, in order."""
        return tuple(self.root / shard.name for shard in self.files.shards)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the shard, the record in it, and the image's path in the source."""
        shard = self._shard_of(index)
        facts = self.files.shards[shard]
        record = index - int(self._ends[shard]) + facts.images
        return f"{printable(self.root / facts.name)} record {record} ({self.original(index)})"

    def original(self, index: int) -> str:
        """Return the image's path in the source, such as ``train/cat/1.jpg``."""
        return f"{self.split}/{self.entries.name(index)}"

    def read(self, index: int) -> Encoded:
        """Return sample ``index``, checked.

        Raises:
          UserError: it cannot be read, or it is not what was packed as sample ``index``.
        """
        shard, entries = self._shard_of(index), self.entries
        try:
            data = read_record(self._shard_files, shard, self.files.shards[shard].bytes, entries, index)
        except ValueError as error:
            raise UserError(f"{self.name(index)} is not what was packed: {error}. {DAMAGE_FIX}") from error
        return Encoded(data, (int(entries.heights[index]), int(entries.widths[index])) if self.raw else None)

    @contextmanager
    def located(self, indices: npt.NDArray[np.int64]) -> Iterator[Stored]:
        """Return STORED (N,) of these samples, valid within the context.

        Entries are not verified. If their file is damaged, locations are wrong, and then the checksums of the
        data read there do not match.

        Raises:
          UserError: a shard cannot be opened.
        """
        entries = self.entries
        stored = np.zeros(len(indices), dtype=STORED)
        stored["offset"] = entries.offsets[indices].astype(np.int64)
        stored["size"] = entries.sizes[indices].astype(np.int64)
        stored["seed"] = entries.seeds(indices)
        stored["checksum"] = entries.checksums[indices]
        if self.raw:
            stored["height"], stored["width"] = entries.heights[indices], entries.widths[indices]
        shards = np.searchsorted(self._ends, indices, side="right")
        with self._shard_files.of(shards) as descriptors:
            stored["descriptor"] = descriptors
            yield stored

    def __reduce__(self) -> tuple[object, ...]:
        return open_packed, (self.root, self.split, self.classes)

    def _relabelled(self, packed: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return labels that index ``self.classes``, of entries whose labels index ``packed``."""
        label_of = {name: label for label, name in enumerate(self.classes)}
        table = np.array([label_of.get(name, -1) for name in packed], dtype=np.int64)
        present = np.unique(self.entries.labels)
        if not 0 <= present[0] <= present[-1] < len(table):
            raise UserError(f"the labels of {printable(self.root)} {self.split} are damaged. {DAMAGE_FIX}")
        unknown = [packed[label] for label in present if table[label] < 0]
        if unknown:
            raise UsageError(
                f"{printable(self.root)} has {self.split} images of {len(unknown)} classes that the "
                f"{len(self.classes)} classes asked for lack: {some(unknown)}. Pack the data set "
                "that the weights were trained on."
            )
        labels = table[self.entries.labels]
        labels.setflags(write=False)
        return labels

    def _shard_of(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))


def open_packed(root: str | Path, split: str, classes: Sequence[str] | None = None) -> PackedSplit:
    """Open ``"train"`` or ``"val"`` of the packed data set in ``root``.

    Labels index ``classes``, by default those of the packed data set.

    Raises:
      UsageError: the folder is not packed, not completely packed, has no such split, or has images of classes
        that are not in ``classes``.
      UserError: its files are damaged or missing.
    """
    root = Path(root)
    return PackedSplit(root, split, read_index(root), classes)


def wrong_size(root: Path, facts: FileFacts) -> str | None:
    """Return why a file cannot be the one that the index lists, without reading it."""
    try:
        size = (root / facts.name).stat().st_size
    except OSError as error:
        return "it is missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
    return None if size == facts.bytes else f"it has {size} bytes and not {facts.bytes}"


def read_record(files: ShardFiles, shard: int, end: int, entries: Entries, index: int) -> bytes:
    """Return image ``index``, which is in a shard of ``end`` bytes.

    Raises:
      ValueError: it is not what was packed, with its label and size; the message says why.
      UserError: the shard cannot be read.
    """
    offset, size = int(entries.offsets[index]), int(entries.sizes[index])
    # A damaged entry may contain any number.
    data = files.read(shard, offset, size) if offset + size <= end else b""
    facts = (int(column[index]) for column in (entries.labels, entries.heights, entries.widths))
    if record_checksum(data, index, *facts) != entries.checksums[index]:
        raise ValueError(
            "its checksum differs" if len(data) == size else "it lies beyond the end of its shard"
        )
    return data
