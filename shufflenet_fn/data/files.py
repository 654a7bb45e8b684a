"""Reading files that may be anything."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from shufflenet_fn.data.bad_images import UnreadableImage
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UserError

LARGEST = 2**30
"""Bytes of the largest file that is read: twice those of the largest image that is decoded, uncompressed."""

_OWN_FAULT = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENXIO,
    errno.EIO,
}
"""Errors of a single file. Others, such as a lost mount or no free descriptor, would affect the next file
too."""


def read_file(path: str | Path, size: int | None = None) -> bytes:
    """Read a file, or its first ``size`` bytes.

    Raises:
      UnreadableImage: the file is gone, may not be read, is no regular file or far too large to be an
      image. UserError: the system cannot read files just now.
    """
    try:
        # Non-blocking: to open a named pipe would wait for its writer forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage(printable(path), "it is not a regular file")
            if status.st_size > LARGEST:
                raise UnreadableImage(
                    printable(path), f"it has {status.st_size:,} bytes, more than the limit of {LARGEST:,}"
                )
            if size is not None:
                return os.read(descriptor, size)
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _OWN_FAULT:
            if error.errno == errno.ENOENT and os.path.islink(path):
                reason = f"it is a link to {printable(os.readlink(path))}, which does not exist"
            raise UnreadableImage(printable(path), reason) from error
        raise UserError(
            f"cannot read image {printable(path)}: {reason}. Check the disk or mount and start again."
        ) from error
