"""A packed data set with one damaged file: ``verify`` finds it, and reading never gives another image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from drills.fuzz.images import EVAL, Wrong
from shufflenet_fn.data.native.reader import NativeReader, functions
from shufflenet_fn.data.packed.destination import LOCK_NAME
from shufflenet_fn.data.packed.index import PackSettings
from shufflenet_fn.data.packed.read import PackedSplit, open_packed
from shufflenet_fn.data.packed.verify import verify
from shufflenet_fn.data.packed.write import pack
from shufflenet_fn_backends.support.errors import UserError

_SPLITS = ("train", "val")
_PER_SPLIT = 12


class PackedSet:
    """A small packed data set in ``folder``, whose files can be damaged one at a time."""

    def __init__(self, folder: Path, pictures: list[bytes]) -> None:
        source = folder / "source"
        for split in _SPLITS:
            for number, data in enumerate(pictures[:_PER_SPLIT]):
                path = source / split / f"class{number % 3}" / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        self.root = folder / "packed"
        pack(source, self.root, PackSettings("jpeg", 64, 90, 20_000), workers=1)
        self.files = {
            path: path.read_bytes()
            for path in sorted(self.root.iterdir())
            if path.name != LOCK_NAME  # empty, and not of the data
        }
        opened = {split: open_packed(self.root, split) for split in _SPLITS}
        self._whole = {split: self._content(samples) for split, samples in opened.items()}
        self._native = NativeReader(functions())
        self._images = {split: self._read_at_once(samples)[0] for split, samples in opened.items()}

    def check(self, path: Path, damaged: bytes) -> None:
        """Replace the file ``path`` by ``damaged``, check the outcome, and restore it. Raises ``Wrong``."""
        try:
            path.write_bytes(damaged)
            self._check_verify()
            for split in _SPLITS:
                self._check_reading(split)
        finally:
            path.write_bytes(self.files[path])

    def _check_verify(self) -> None:
        try:
            found = verify(self.root, workers=1).damage
        except UserError:
            return
        except Exception as error:
            raise Wrong(f"verify: {type(error).__name__}: {error}") from error
        if not found:
            raise Wrong("verify found nothing")

    def _check_reading(self, split: str) -> None:
        try:
            samples = open_packed(self.root, split)
            content = self._content(samples)
        except UserError:
            return
        except Exception as error:
            raise Wrong(f"reading: {type(error).__name__}: {error}") from error
        if len(content) != len(self._whole[split]):
            raise Wrong(f"{split} has {len(content)} images")
        for index, (ours, whole) in enumerate(zip(content, self._whole[split], strict=True)):
            if ours is not None and ours != whole:
                raise Wrong(f"{split} sample {index} reads as another image or label")
        self._check_native(split, samples)

    def _check_native(self, split: str, samples: PackedSplit) -> None:
        try:
            images, done = self._read_at_once(samples)
        except UserError:
            return
        except Exception as error:
            raise Wrong(f"native: {type(error).__name__}: {error}") from error
        if not np.array_equal(images[done], self._images[split][done]):
            raise Wrong(f"native: a sample of {split} reads as another image")

    def _read_at_once(self, samples: PackedSplit) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return the evaluation crop of every sample, and which samples the native reader has read."""
        images = np.zeros((len(samples), EVAL.size, EVAL.size, 3), dtype=np.uint8)
        with samples.located(np.arange(len(samples))) as stored:
            return images, self._native.eval(stored, EVAL, out=images)

    @staticmethod
    def _content(samples: PackedSplit) -> list[tuple[int, bytes] | None]:
        """Return label and bytes of every sample; ``None`` for a sample whose read raises an error."""
        content: list[tuple[int, bytes] | None] = []
        for index in range(len(samples)):
            try:
                content.append((int(samples.labels[index]), bytes(samples.read(index).data)))
            except UserError:
                content.append(None)
        return content
