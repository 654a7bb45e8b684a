"""Shards: writing tar archives, and reading them by position.

A shard is a POSIX tar archive (ustar). Every image is two members with the same key, which is its number in
the split: ``000000012.jpg``, or ``.ppm`` for pixels, and ``000000012.cls`` with the label in decimal. This is
the convention of webdataset. Times and owners are 0, so the same images give the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import tarfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import flush
from shufflenet_fn_backends.support.errors import UserError

TEMPORARY = ".tmp"
DAMAGE_FIX = "Find all damage with `data verify`, then copy the file again or pack the data again."
FILES_FIX = "Raise the limit of open files (`ulimit -n`), or pack larger shards (--shard-size)."

_TOO_MANY = (errno.EMFILE, errno.ENFILE)
_FEWEST_OPEN = 32
_SHARE = 3  # both splits together keep at most two thirds of the allowed files open


class ShardWriter:
    """Writes a tar file under a temporary name. Leaving the context removes it, unless it is published.

    Attributes:
      bytes: size of what is written so far.
    """

    def __init__(self, path: Path) -> None:
        """Create the file that becomes ``path``. Raises ``OSError``."""
        self.bytes = 0
        self._path, self._aside = path, path.with_name(path.name + TEMPORARY)
        self._digest = hashlib.sha256()
        self._file = open(self._aside, "wb")  # noqa: SIM115

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):  # flushing the buffer may fail
            self._file.close()
        self._aside.unlink(missing_ok=True)  # so that a full disk does not stay full

    def write(self, key: int, label: int, data: bytes, shape: tuple[int, int] | None) -> int:
        """Append an image and return the offset of its first byte. Raises ``OSError``.

        ``key`` is its number in the split; ``shape`` is (height, width) if ``data`` is pixels and not a JPEG.
        """
        name = f"{key:09d}"
        if shape is None:
            offset = self._member(f"{name}.jpg", b"", data)
        else:
            height, width = shape
            offset = self._member(f"{name}.ppm", b"P6\n%d %d\n255\n" % (width, height), data)
        self._member(f"{name}.cls", b"", b"%d" % label)
        return offset

    def publish(self) -> str:
        """End the archive, flush it to disk, give it its name, and return its SHA-256. Raises ``OSError``."""
        self._append(bytes(2 * tarfile.BLOCKSIZE))
        self._file.close()
        flush(self._aside)
        os.replace(self._aside, self._path)
        flush(self._path.parent)
        return self._digest.hexdigest()

    def _member(self, name: str, head: bytes, data: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size = len(head) + len(data)
        self._append(info.tobuf(tarfile.USTAR_FORMAT))
        self._append(head)
        offset = self.bytes
        self._append(data)
        self._append(bytes(-info.size % tarfile.BLOCKSIZE))
        return offset

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)


class ShardFiles:
    """File descriptors of many files, opened lazily. Safe to use from any number of threads.

    The first files that are needed stay open, up to a limit, until the object is deleted; the others are
    opened for each use. There is no lock that a fork could copy in the locked state, and ``pread`` shares no
    file position with the parent, so a forked process can continue to read.
    """

    def __init__(self, paths: Sequence[Path], *, max_open: int | None = None) -> None:
        """Args:
        paths: the files.
        max_open: how many stay open, plus or minus one per thread; ``None`` is ``most_open()``.
        """
        self._paths = tuple(paths)
        self._most = most_open() if max_open is None else max_open
        self._kept: dict[int, int] = {}
        # The system closes them at exit, when no thread reads any more.
        weakref.finalize(self, _close_all, self._kept).atexit = False

    @contextlib.contextmanager
    def of(self, shards: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int32]]:
        """Return the descriptors of these files, (N,) for (N,) indices, valid in this context.

        Files beyond the limit are open only within the context, at most one per distinct index.

        Raises:
          UserError: a file cannot be opened.
        """
        different, places = np.unique(shards, return_inverse=True)
        with contextlib.ExitStack() as opened:
            descriptors = [self._open(shard, opened) for shard in different.tolist()]
            yield np.array(descriptors, dtype=np.int32)[places]

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, or fewer where the file ends.

        Raises:
          UserError: the file cannot be opened or read.
        """
        data = b""
        with contextlib.ExitStack() as opened:
            descriptor = self._open(shard, opened)
            try:
                # Some file systems return less than asked for.
                while len(data) < size and (
                    more := os.pread(descriptor, size - len(data), offset + len(data))
                ):
                    data += more
            except OSError as error:
                path = printable(self._paths[shard])
                raise UserError(f"cannot read {path}: {error.strerror}. {DAMAGE_FIX}") from error
        return data

    def _open(self, shard: int, opened: contextlib.ExitStack) -> int:
        """Return the descriptor of a file, to be closed with ``opened`` if it is not kept."""
        if (kept := self._kept.get(shard)) is not None:
            return kept
        path = self._paths[shard]
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            fix = FILES_FIX if error.errno in _TOO_MANY else DAMAGE_FIX
            raise UserError(f"cannot open {printable(path)}: {error.strerror}. {fix}") from error
        if len(self._kept) < self._most and self._kept.setdefault(shard, descriptor) == descriptor:
            return descriptor
        opened.callback(os.close, descriptor)
        return descriptor


def most_open() -> int:
    """Return how many files a split keeps open: a third of what this process may, but at least 32.

    Shards beyond that number are opened again for each use. To avoid this, raise ``ulimit -n``.
    """
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(_FEWEST_OPEN, soft // _SHARE)


def _close_all(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
