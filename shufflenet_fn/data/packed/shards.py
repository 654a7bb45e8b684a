"""ArrayRecord files: how they are written, and readers that several threads share.

Each record is a chunk of its own, uncompressed: one read fetches it wherever it lies, and JPEGs do
not compress. ArrayRecord checks a 64-bit hash of every chunk that it reads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WRITER_OPTIONS = "group_size:1,uncompressed"
# Random access: no read-ahead, no threads of the library's own.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
MAX_OPEN = 256


class ShardError(Exception):
    """ArrayRecord cannot write or read a file; the text is its reason."""


class ShardWriter:
    """Writes one ArrayRecord file."""

    def __init__(self, path: Path) -> None:
        """Raises ``ShardError`` if the file cannot be created."""
        from array_record.python.array_record_module import ArrayRecordWriter

        self.bytes = 0
        try:
            self._writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
            if not self._writer.ok():
                self._writer.close()  # raises with the reason
        except RuntimeError as error:
            raise ShardError(str(error)) from error

    def write(self, record: bytes) -> None:
        """Append a record. Raises ``ShardError``."""
        try:
            self._writer.write(record)
        except RuntimeError as error:
            raise ShardError(str(error)) from error
        self.bytes += len(record)

    def close(self) -> None:
        """Write the footer. Raises ``ShardError``: the file is not complete without it."""
        try:
            self._writer.close()
        except RuntimeError as error:
            raise ShardError(str(error)) from error


class ShardReaders:
    """Reads records of many files, each opened when first needed. For any number of threads.

    At most ``MAX_OPEN`` files are open at a time; the one unused for longest makes room. A reader
    holds 8 bytes per record of its file. Reading uses positions of its own, so that a forked
    process can go on with the readers of its parent.
    """

    def __init__(self, paths: Sequence[Path], *, max_open: int = MAX_OPEN) -> None:
        self._paths = tuple(paths)
        self._max_open = max_open
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: int, record: int) -> bytes:
        """A record of the ``shard``-th file. Raises ``ShardError``."""
        reader = self._reader(shard)
        try:
            # Not `read([record])`, which takes memory and time in proportion to the whole file.
            data: bytes = reader.read(record, record + 1)[0]
        except (RuntimeError, IndexError, ValueError) as error:
            raise ShardError(str(error)) from error
        return data

    def _reader(self, shard: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        with self._lock:
            reader = self._open.get(shard)
            if reader is None:
                reader = _opened(ArrayRecordReader, self._paths[shard])
                if len(self._open) >= self._max_open:
                    # Closed as soon as no thread reads from it any more.
                    self._open.popitem(last=False)
                self._open[shard] = reader
            else:
                self._open.move_to_end(shard)
            return reader


def _opened(reader_of: Any, path: Path) -> Any:
    try:
        reader = reader_of(str(path), options=READER_OPTIONS)
        if not reader.ok():
            reader.close()  # raises with the reason
    except RuntimeError as error:
        raise ShardError(str(error)) from error
    return reader
