"""What a loader needs to know of a data set, whether it is a folder of files or packed in shards."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Encoded(NamedTuple):
    """A sample as it is stored.

    Attributes:
      data: an image file's bytes or, with ``shape``, uint8 pixels in (H, W, 3) order, RGB.
      shape: (height, width) of ``data`` if it is pixels, ``None`` if it is an encoded image.
    """

    data: bytes | memoryview
    shape: tuple[int, int] | None = None


class Samples(Protocol):
    """One split of a data set. Safe to read from several threads."""

    @property
    def root(self) -> Path:
        """The data set's folder, the parent of the split."""

    @property
    def split(self) -> str:
        """``"train"`` or ``"val"``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 (len(self),), read-only."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a message calls sample ``index``: its path, or its shard, record and original path."""

    def read(self, index: int) -> Encoded:
        """Sample ``index``. Raises ``UserError`` if it cannot be read or is not what was written."""
