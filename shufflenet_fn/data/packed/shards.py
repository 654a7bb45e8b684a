"""ArrayRecord files: how they are written, and readers that several threads share.

Each record is a chunk of its own, uncompressed: one read fetches it wherever it lies, and JPEGs do
not compress. ArrayRecord checks a 64-bit hash of every chunk that it reads.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WRITER_OPTIONS = "group_size:1,uncompressed"
# Random access: no read-ahead, no threads of the library's own.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"

DAMAGE_FIX = "Find all damage with `data verify`, then copy the file again or pack the data again."
FILES_FIX = "Raise the limit of open files (`ulimit -n`), or pack larger shards (--shard-size)."

_FEWEST_OPEN = 16
# Both splits, each read in both ways, then keep no more than two thirds of what may be open.
_SHARE = 6
# The second if the text of the first would name a path that is no UTF-8.
_FAILURES = (RuntimeError, UnicodeDecodeError)


class ShardError(Exception):
    """ArrayRecord cannot write or read a file; the text is its reason."""


class ShardWriter:
    """Writes one ArrayRecord file."""

    def __init__(self, path: Path) -> None:
        """Raises ``ShardError`` if the file cannot be created."""
        from array_record.python.array_record_module import ArrayRecordWriter

        self.bytes = 0
        try:
            self._writer = ArrayRecordWriter(os.fsencode(path), WRITER_OPTIONS)
            if not self._writer.ok():
                self._writer.close()  # raises with the reason
        except _FAILURES as error:
            raise ShardError(str(error)) from error

    def write(self, record: bytes) -> None:
        """Append a record. Raises ``ShardError``."""
        try:
            self._writer.write(record)
        except _FAILURES as error:
            raise ShardError(str(error)) from error
        self.bytes += len(record)

    def close(self) -> None:
        """Write the footer. Raises ``ShardError``: the file is not complete without it."""
        try:
            self._writer.close()
        except _FAILURES as error:
            raise ShardError(str(error)) from error


class ShardReaders:
    """Reads records of many files, each opened when first needed. For any number of threads.

    A limited number of files stays open; the one unused for longest makes room. A reader
    holds 8 bytes per record of its file. Reading uses positions of its own, so that a forked
    process can go on with the readers of its parent.
    """

    def __init__(self, paths: Sequence[Path], *, max_open: int | None = None) -> None:
        """Args:
        paths: the files.
        max_open: how many stay open, besides one for each thread that reads; ``None`` is ``most_open()``.
        """
        from array_record.python.array_record_module import ArrayRecordReader

        self._reader_of = ArrayRecordReader
        self._paths = tuple(paths)
        self._max_open = most_open() if max_open is None else max_open
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        # To open a file takes as long as reading some records: it must not hold up those who read others.
        self._opening = tuple(threading.Lock() for _ in paths)

    def read(self, shard: int, record: int) -> bytes:
        """A record of the ``shard``-th file. Raises ``ShardError``."""
        reader = self._kept(shard)
        if reader is None:
            reader = self._fresh(shard)
        try:
            # Not `read([record])`, which takes memory and time in proportion to the whole file.
            data: bytes = reader.read(record, record + 1)[0]
        except (*_FAILURES, IndexError, ValueError) as error:
            raise ShardError(str(error)) from error
        return data

    def _kept(self, shard: int) -> Any:
        """The open reader of a file, or ``None``."""
        with self._lock:
            reader = self._open.get(shard)
            if reader is not None:
                self._open.move_to_end(shard)
            return reader

    def _fresh(self, shard: int) -> Any:
        """The reader of a file, opened by this thread unless another one just did."""
        with self._opening[shard]:
            reader = self._kept(shard)
            if reader is not None:
                return reader
            reader = _opened(self._reader_of, self._paths[shard])
            with self._lock:
                self._open[shard] = reader
                gone = [
                    self._open.popitem(last=False)[1]
                    for _ in range(len(self._open) - self._max_open)
                ]
        del (
            gone
        )  # closed here, outside of the locks, or as soon as no thread reads from it any more
        return reader


def most_open() -> int:
    """How many files ``ShardReaders`` keeps open: a sixth of what this process may, but at least 16.

    The more shards a set has beyond that, the more often one is opened again: raise ``ulimit -n``.
    """
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(_FEWEST_OPEN, soft // _SHARE)


def _opened(reader_of: Any, path: Path) -> Any:
    try:
        reader = reader_of(os.fsencode(path), options=READER_OPTIONS)
        if not reader.ok():
            reader.close()  # raises with the reason
    except _FAILURES as error:
        raise ShardError(str(error)) from error
    return reader
