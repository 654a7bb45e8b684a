"""Open files of shards, for readers that go to a record's position themselves."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.packed.format import INDEX_NAME
from shufflenet_fn.data.packed.shards import DAMAGE_FIX, FILES_FIX, most_open
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UserError

_TOO_MANY = (errno.EMFILE, errno.ENFILE)


class ShardDescriptors:
    """Read-only descriptors of many files, each opened when first needed. For any number of threads.

    The first files that are needed stay open, up to a limit, until the object is gone; the others are
    opened for each use. There is no lock that a process forked meanwhile could find taken, and reading by
    position (``pread``) shares nothing with the parent, so that a forked process can go on.
    """

    def __init__(self, paths: Sequence[Path], *, max_open: int | None = None) -> None:
        """Args:
        paths: the files.
        max_open: how many stay open, give or take one for each thread; ``None`` is ``most_open()``.
        """
        self._paths = tuple(paths)
        self._max_open = max_open
        self._most = most_open() if max_open is None else max_open
        self._kept: dict[int, int] = {}
        # At exit the system closes them, when no thread reads any more.
        weakref.finalize(self, _close_all, self._kept).atexit = False

    @contextlib.contextmanager
    def of(self, shards: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int32]]:
        """The descriptors of these files, (N,) for (N,) indices, not to be closed and valid in this context.

        Files beyond the limit are open only there: at most one for each different index.

        Raises:
          UserError: a file cannot be opened.
        """
        different, places = np.unique(shards, return_inverse=True)
        with contextlib.ExitStack() as opened:
            descriptors = [self._open(shard, opened) for shard in different.tolist()]
            yield np.array(descriptors, dtype=np.int32)[places]

    def __reduce__(self) -> tuple[object, ...]:
        return _descriptors, (self._paths, self._max_open)

    def _open(self, shard: int, opened: contextlib.ExitStack) -> int:
        """The descriptor of a file, to be closed with ``opened`` if it is not kept."""
        kept = self._kept.get(shard)
        if kept is not None:
            return kept
        descriptor = _open_file(self._paths[shard])
        if len(self._kept) < self._most:
            kept = self._kept.setdefault(shard, descriptor)
            if kept == descriptor:
                return kept
        opened.callback(os.close, descriptor)
        return descriptor


def _descriptors(paths: Sequence[Path], max_open: int | None) -> ShardDescriptors:
    return ShardDescriptors(paths, max_open=max_open)


def _open_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        fix = DAMAGE_FIX
        if error.errno in _TOO_MANY:
            fix = FILES_FIX
        raise UserError(
            f"cannot open {printable(path)}, which {INDEX_NAME} lists: {error.strerror}. {fix}"
        ) from error


def _close_all(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
