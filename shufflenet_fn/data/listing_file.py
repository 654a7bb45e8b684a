"""The file that a listing is kept in: a header, then arrays that are mapped into memory and not read.

magic         8 bytes
checksum      uint32, CRC-32 of all that follows
header size   uint32, its bytes
header        JSON: the folder, when it was listed, its classes and folders, and where each array is
arrays        little-endian, each at a multiple of 64 bytes
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.listing import IMAGE_EXTENSIONS, Directory, Listing

_MAGIC = b"SFNLIST1"
_START = struct.Struct("<8sII")
_ALIGNMENT = 64
_CHUNK = 2**20
_ARRAYS = {"counts": "<i8", "offsets": "<i8", "labels": "<i8", "blob": "|u1"}


class Kept(NamedTuple):
    """A listing, the absolute path of the folder it is of, and when its making began (ns since 1970)."""

    folder: str
    listed_ns: int
    listing: Listing


class KeptListingError(Exception):
    """The file is not a whole listing of this version."""


def write_listing(path: Path, kept: Kept) -> None:
    """Write ``kept`` to ``path``, which is not there or whole at any time.

    Raises:
      OSError: it cannot be written.
    """
    listing = kept.listing
    arrays = {name: np.asarray(getattr(listing, name), dtype) for name, dtype in _ARRAYS.items()}
    header = json.dumps(
        {
            "folder": kept.folder,
            "listed_ns": kept.listed_ns,
            "extensions": IMAGE_EXTENSIONS,
            "classes": listing.classes,
            "stray": listing.stray,
            "directories": listing.directories,
            "lengths": {name: len(value) for name, value in arrays.items()},
        }
    ).encode()
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_START.pack(_MAGIC, 0, 0) + header)
            checksum = zlib.crc32(header)
            for array in arrays.values():
                for piece in (bytes(-file.tell() % _ALIGNMENT), array.tobytes()):
                    checksum = zlib.crc32(piece, checksum)
                    file.write(piece)
            file.seek(0)
            file.write(_START.pack(_MAGIC, checksum, len(header)))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_listing(path: Path) -> Kept:
    """The listing in ``path``, checked whole. Its arrays are mapped, so that they take no memory of their
    own.

    Raises:
      OSError: it cannot be read.
      KeptListingError: it is damaged or of another version.
    """
    with open(path, "rb") as file:
        start = file.read(_START.size)
        if len(start) < _START.size or not start.startswith(_MAGIC):
            raise KeptListingError("it is not a listing of this version")
        _, checksum, size = _START.unpack(start)
        if _checksum(file) != checksum:
            raise KeptListingError("its checksum is wrong")
        file.seek(_START.size)
        header: dict[str, Any] = json.loads(file.read(size))
        if tuple(header["extensions"]) != IMAGE_EXTENSIONS:
            raise KeptListingError("it is not a listing of this version")
        arrays = _mapped(file, _START.size + size, header["lengths"])
    return Kept(
        header["folder"],
        header["listed_ns"],
        Listing(
            classes=tuple(header["classes"]),
            stray=header["stray"],
            directories=tuple(Directory(*item) for item in header["directories"]),
            **arrays,
        ),
    )


def _checksum(file: BinaryIO) -> int:
    """Of the rest of ``file``, in pieces: mapped pages would count as this process's memory."""
    checksum = 0
    while chunk := file.read(_CHUNK):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _mapped(file: BinaryIO, position: int, lengths: dict[str, int]) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, dtype in _ARRAYS.items():
        position += -position % _ALIGNMENT
        length = lengths[name]
        if length:
            mapped = np.memmap(file, np.dtype(dtype), "r", position, (length,))
            arrays[name] = mapped.view(np.ndarray)
        else:  # nothing can be mapped at the end of a file
            arrays[name] = np.empty(0, dtype)
        position += length * np.dtype(dtype).itemsize
    return arrays
