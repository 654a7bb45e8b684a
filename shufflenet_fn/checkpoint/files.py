"""Reading files that somebody else may have put there."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(path: Path, *, limit: int, exactly: int | None = None) -> bytes:
    """The content of a file that is no symbolic link, no folder, no pipe and no device.

    Args:
        path: the file; its last part is not followed.
        limit: the most bytes to take it in.
        exactly: the size that it must have.

    Raises:
        ValueError: it is something else, or of another size.
        OSError: it cannot be read.
    """
    if path.is_symlink():
        raise ValueError(f"{path.name} is a symbolic link")
    # Not blocking, so that a pipe at this name cannot hold the reader up.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path.name} is no regular file")
        if exactly is not None and found.st_size != exactly:
            raise ValueError(f"{path.name} has {found.st_size:,} bytes and not {exactly:,}")
        if found.st_size > limit:
            raise ValueError(f"{path.name} has {found.st_size:,} bytes, more than {limit:,}")
        content = file.read(found.st_size + 1)
    if len(content) != found.st_size:
        raise ValueError(f"{path.name} changed while it was read")
    return content
