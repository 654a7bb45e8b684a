"""Where a listing is kept so that nobody who has it mapped can lose it.

``KEY.current`` names the file with the listing, ``KEY-….listing``, and is all that is ever replaced. A home
folder may be shared by machines of which one lists anew while another trains from the mapped file, and a
network file system does not keep a replaced file for those who have it open: they would die of SIGBUS. So
a file that is superseded stays, and goes when it has been so for longer than jobs last.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from pathlib import Path

from shufflenet_fn.data.listing_file import Kept, write_listing

KEPT_S = 30 * 24 * 3600.0
"""How long a superseded file stays."""


def current_file(folder: Path, key: str) -> Path:
    """The file that is current for ``key``.

    Raises:
      OSError: there is none (``FileNotFoundError``), or it cannot be told.
    """
    return folder / _pointer(folder, key).read_text(encoding="ascii", errors="replace").strip()


def publish(folder: Path, key: str, kept: Kept) -> Path:
    """Write ``kept`` to a new file, make it the current one of ``key`` and return it.

    The caller holds the lock of ``key``.

    Raises:
      OSError: it cannot be written.
    """
    path = folder / f"{key}-{secrets.token_hex(8)}.listing"
    write_listing(path, kept)
    for old in folder.glob(f"{key}-*.listing"):
        if old != path:
            _retire(old, is_current=_is_current(folder, key, old))
    _point(_pointer(folder, key), path.name)
    return path


def _retire(old: Path, *, is_current: bool) -> None:
    with contextlib.suppress(OSError):  # another user's, or gone meanwhile
        if is_current:
            os.utime(old)  # its time is from now on that of its retirement
        elif time.time() - old.stat().st_mtime > KEPT_S:
            old.unlink()


def _is_current(folder: Path, key: str, path: Path) -> bool:
    try:
        return current_file(folder, key) == path
    except OSError:
        return False


def _pointer(folder: Path, key: str) -> Path:
    return folder / f"{key}.current"


def _point(pointer: Path, name: str) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{pointer.name}.", dir=pointer.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(name + "\n")
        os.replace(temporary, pointer)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
