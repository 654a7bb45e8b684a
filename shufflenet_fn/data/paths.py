"""Compact storage of many paths, and printable paths for messages."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import numpy.typing as npt


class PathTable:
    """Many paths in two arrays, without an object per path.

    A path is stored as the system's bytes, which may not be UTF-8 and may contain a newline.
    """

    def __init__(self, blob: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> None:
        """Args:
        blob: uint8, the bytes of all paths one after another.
        offsets: int64 (n + 1,), where path i begins and, at i + 1, ends.
        """
        self._blob, self._offsets = blob, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        """Return path ``index``, with bytes that are not UTF-8 decoded by ``os.fsdecode``."""
        return os.fsdecode(self.raw(index))

    def raw(self, index: int) -> bytes:
        """Return the bytes of path ``index``."""
        if not 0 <= index < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        start, stop = self._offsets[index : index + 2].tolist()
        return self._blob[start:stop].tobytes()

    def sha256(self) -> str:
        """Return the hash of all paths in their order."""
        digest = hashlib.sha256(np.ascontiguousarray(self._offsets, dtype="<i8").data)
        digest.update(np.ascontiguousarray(self._blob).data)
        return digest.hexdigest()


def printable(path: str | os.PathLike[str]) -> str:
    """Return ``path`` for a message, with bytes that are not UTF-8 and control characters escaped.

    Otherwise they would break log lines or could not be written to a terminal.
    """
    try:
        text = os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # no path but half a character, as JSON can hold it
        text = os.fspath(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
