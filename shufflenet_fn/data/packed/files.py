"""The files of a packed data set: atomic writes, shards in tar format, reads by position.

A shard is a POSIX tar archive (ustar). Every image is two members with the same key, which is its number in
the split: ``000000012.jpg``, or ``.ppm`` for pixels, and ``000000012.cls`` with the label in decimal. This is
the convention of webdataset. Times and owners are 0, so the same images give the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import sys
import tarfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import flush
from shufflenet_fn_backends.support.errors import UserError

TEMPORARY = ".tmp"
DAMAGE_FIX = "Find all damage with `data verify`, then copy the file again or pack the data again."
FILES_FIX = "Raise the limit of open files (`ulimit -n`), or pack larger shards (--shard-size)."
BEYOND = "it lies beyond the end of its shard"

_BLOCK = 1 << 22
_TOO_MANY = (errno.EMFILE, errno.ENFILE)
_FEWEST_OPEN = 32
_SHARE = 3  # both splits together keep at most two thirds of the allowed files open


def temporary(path: Path) -> Path:
    """Return the temporary path of a file that will become ``path``."""
    return path.with_name(path.name + TEMPORARY)


def write_file(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary file, then rename it to ``path``. Raises ``OSError``."""
    aside = temporary(path)
    aside.write_bytes(data)
    publish(aside, path)


def publish(aside: Path, path: Path) -> None:
    """Flush a finished file to disk, then give it its name, so that the name implies the content."""
    flush(aside)
    os.replace(aside, path)
    flush(path.parent)


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256, as ``sha256sum`` prints it. Raises ``OSError``."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Sample(NamedTuple):
    """An image in a shard.

    Attributes:
      key: its number in the split.
      label: its class.
      data: a JPEG file, or uint8 RGB pixels in (H, W, 3) order.
      shape: (height, width) of ``data`` if it is pixels.
    """

    key: int
    label: int
    data: bytes
    shape: tuple[int, int] | None


class ShardWriter:
    """Writes one tar file."""

    def __init__(self, path: Path) -> None:
        """Create the file. Raises ``OSError``."""
        self.path = path
        self.bytes = 0
        self._digest = hashlib.sha256()
        self._file = open(path, "wb")  # noqa: SIM115

    def write(self, sample: Sample) -> int:
        """Append a sample and return the offset of its first byte. Raises ``OSError``."""
        name = f"{sample.key:09d}"
        if sample.shape is None:
            offset = self._member(f"{name}.jpg", b"", sample.data)
        else:
            height, width = sample.shape
            offset = self._member(f"{name}.ppm", b"P6\n%d %d\n255\n" % (width, height), sample.data)
        self._member(f"{name}.cls", b"", b"%d" % sample.label)
        return offset

    def close(self) -> str:
        """End the archive and return its SHA-256. Raises ``OSError``."""
        self._append(bytes(2 * tarfile.BLOCKSIZE))
        self._file.close()
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Close and remove the file if it has not been moved, so that a full disk does not stay full."""
        with contextlib.suppress(OSError):  # flushing the buffer may fail
            self._file.close()
        self.path.unlink(missing_ok=True)

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
        self._max_open = max_open
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
                # Some systems read 2 GiB at a time at most.
                while len(data) < size and (
                    more := os.pread(descriptor, size - len(data), offset + len(data))
                ):
                    data += more
            except OSError as error:
                path = printable(self._paths[shard])
                raise UserError(f"cannot read {path}: {error.strerror}. {DAMAGE_FIX}") from error
        return data

    def __reduce__(self) -> tuple[object, ...]:
        return functools.partial(ShardFiles, max_open=self._max_open), (self._paths,)

    def _open(self, shard: int, opened: contextlib.ExitStack) -> int:
        """Return the descriptor of a file, to be closed with ``opened`` if it is not kept."""
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


def most_open() -> int:
    """Return how many files a split keeps open: a third of what this process may, but at least 32.

    Shards beyond that number are opened again for each use. To avoid this, raise ``ulimit -n``.
    """
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(_FEWEST_OPEN, soft // _SHARE)


def _open_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        fix = FILES_FIX if error.errno in _TOO_MANY else DAMAGE_FIX
        raise UserError(f"cannot open {printable(path)}: {error.strerror}. {fix}") from error


def _close_all(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
