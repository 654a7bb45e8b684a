"""What a user is told when packed data cannot be written."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from shufflenet_fn.data.packed.shards import ShardError
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UserError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}
_MAKE_ROOM = "Free some space there or make the folder writable"


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn a failure to write into advice."""
    try:
        yield
    except ShardError as error:  # says what happened in words alone: mostly that the disk is full
        raise UserError(_cannot_write(folder, str(error), _MAKE_ROOM)) from error
    except OSError as error:
        fix = _MAKE_ROOM if error.errno in _NO_ROOM else "Check that path and its disk"
        raise UserError(_cannot_write(folder, error.strerror or str(error), fix)) from error


def _cannot_write(folder: Path, reason: str, fix: str) -> str:
    return (
        f"cannot write packed data to {printable(folder)}: {reason}. {fix}, and run the same command "
        "again: it goes on from the last finished shard."
    )
