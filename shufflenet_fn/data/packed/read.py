"""A split of a packed data set, as the loaders read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.dataset import STORED, Encoded, Stored
from shufflenet_fn.data.folder import some
from shufflenet_fn.data.packed.entries import Entries, checksum_seeds, map_entries
from shufflenet_fn.data.packed.files import BEYOND, DAMAGE_FIX, ShardFiles
from shufflenet_fn.data.packed.index import INDEX_NAME, PackedIndex, SplitIndex, read_index
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
        """Map the split's entries and look for its shards, without reading them.

        Args:
          root: the packed data set's folder.
          split: ``"train"`` or ``"val"``.
          index: index of the folder.
          classes: what labels index; ``None`` is the packed data set's classes.

        Raises:
          UsageError: there is no such split, or it has images of a class not among ``classes``.
          UserError: a file is missing or has another size than the index says.
        """
        if split not in index.splits:
            raise UsageError(
                f"{printable(root)} has no split {split!r}; it has {' and '.join(index.splits)}."
            )
        self.root, self.split, self.files = root, split, index.splits[split]
        self.raw = index.settings.format == "raw"
        check_files(root, self.files)
        self.entries = _mapped(root / self.files.entries.name, self.files.entries.images)
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
        shard, record = self._place(index)
        path = printable(self.root / self.files.shards[shard].name)
        return f"{path} record {record} ({self.original(index)})"

    def original(self, index: int) -> str:
        """Return the image's path in the source, such as ``train/cat/1.jpg``."""
        return f"{self.split}/{self.entries.name(index)}"

    def read(self, index: int) -> Encoded:
        """Return sample ``index``, checked.

        Raises:
          UserError: it cannot be read, or it is not what was packed as sample ``index``.
        """
        shard, _ = self._place(index)
        entries = self.entries
        offset, size = int(entries.offsets[index]), int(entries.sizes[index])
        # A damaged entry may contain any number.
        inside = offset + size <= self.files.shards[shard].bytes
        data = self._shard_files.read(shard, offset, size) if inside else b""
        if not entries.matches(index, data):
            reason = "its checksum differs" if len(data) == size else BEYOND
            raise UserError(f"{self.name(index)} is not what was packed: {reason}. {DAMAGE_FIX}")
        if not self.raw:
            return Encoded(data)
        return Encoded(data, (int(entries.heights[index]), int(entries.widths[index])))

    @contextmanager
    def located(self, indices: npt.NDArray[np.int64]) -> Iterator[Stored]:
        """Return STORED (N,) of these samples, valid within the context.

        Entries are not verified. If their file is damaged, locations are wrong, and then the checksums of the
        data read there do not match.

        Raises:
          IndexError: an index is out of range.
          UserError: a shard cannot be opened.
        """
        outside = indices[(indices < 0) | (indices >= len(self))]
        if len(outside):
            raise IndexError(f"sample {outside[0]} of {len(self)}")
        entries = self.entries
        heights, widths = entries.heights[indices], entries.widths[indices]
        stored = np.zeros(len(indices), dtype=STORED)
        stored["offset"] = entries.offsets[indices].astype(np.int64)
        stored["size"] = entries.sizes[indices].astype(np.int64)
        stored["seed"] = checksum_seeds(indices, entries.labels[indices], heights, widths)
        stored["checksum"] = entries.checksums[indices]
        if self.raw:
            stored["height"], stored["width"] = heights, widths
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

    def _place(self, index: int) -> tuple[int, int]:
        """Return the shard of an image and its record there."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - int(self._ends[shard]) + self.files.shards[shard].images


def open_packed(root: str | Path, split: str, classes: Sequence[str] | None = None) -> PackedSplit:
    """Open a split of the packed data set in ``root``.

    Args:
      root: a folder that ``pack`` wrote.
      split: ``"train"`` or ``"val"``.
      classes: the classes that labels index; ``None`` is those of the packed data set.

    Raises:
      UsageError: the folder is not packed, not completely packed, or has classes that are not in ``classes``.
      UserError: its files are damaged or missing.
    """
    root = Path(root)
    return PackedSplit(root, split, read_index(root), classes)


def check_files(root: Path, files: SplitIndex) -> None:
    """Raise ``UserError`` if a file of a split is missing or has another size than it must have."""
    for facts in (files.entries, *files.shards):
        path = root / facts.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise UserError(
                f"cannot open {printable(path)}, which {INDEX_NAME} lists: "
                f"{error.strerror or error}. {DAMAGE_FIX}"
            ) from error
        if size != facts.bytes:
            raise UserError(
                f"{printable(path)} has {size} bytes where {INDEX_NAME} says {facts.bytes}: it was "
                f"cut or replaced. {DAMAGE_FIX}"
            )


def _mapped(path: Path, count: int) -> Entries:
    try:
        return map_entries(path, count)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {printable(path)}: {error}. {DAMAGE_FIX}") from error
