"""Listings kept between runs: a tree of a million files is not listed at each start.

A listing is kept in the cache folder under a name made from the split folder's absolute path and inode
(machines that share a home may have different folders at one path). It is used as long as each folder
below is the one that was listed and has the same modification time, which changes when a name in it is
added, removed or renamed. So a start looks at each folder once and at no file. What a listing does not
hold, the content of files, is not looked at either: a file that was replaced in place, or whose link now
leads nowhere, shows when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shufflenet_fn.data.listing import Directory, Listing, list_split
from shufflenet_fn.data.listing_file import Kept, KeptListingError, read_listing
from shufflenet_fn.data.listing_versions import current_file, publish
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.cache import cache_root as default_cache_root
from shufflenet_fn_backends.support.errors import DeviceError

Note = Callable[[str], None]

_COARSEST_NS = 2 * 10**9
"""No file system's modification times are coarser. A folder that was changed less than this before it was
listed may have been changed once more afterwards and still have the same time."""

_SKEW_NS = 24 * 3600 * 10**9
"""No file server's clock is further ahead of this machine's. A time beyond that was set, as by an
archive, and the next change will put another in its place."""

_WORTH_A_NOTE_S = 1.0

_SILENT_WAIT_S = 5.0


def silent(text: str) -> None:
    """A ``note`` for callers with nobody to tell."""


def cached_listing(folder: Path, *, note: Note = silent, cache_root: Path | None = None) -> Listing:
    """The listing of the split ``folder``, from the cache if it is there and still true.

    Of several processes that need a new listing at once, one makes it and the others wait for it. What is
    out of the ordinary is said to ``note``: a listing that took long, is out of date or damaged, or that
    cannot be kept.

    Args:
      folder: the split's folder, ``root/train``.
      note: called with one line of text.
      cache_root: where listings are kept; ``None`` is the user's cache folder.

    Raises:
      UsageError: as ``list_split``.
    """
    try:
        root = default_cache_root() if cache_root is None else cache_root
    except DeviceError as error:
        note(f"the listing of {printable(folder)} is not kept: {error}")
        return list_split(folder)
    asked_ns = time.time_ns()
    place, key = root / "listings", _key(folder)
    kept = _open(place, key, folder, asked_ns, silent)
    if kept is not None:
        return kept
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_alone(place / f"{key}.lock", folder, note))
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            note(_unkept(folder, error))
            return _listed(folder, note).listing
        kept = _open(
            place, key, folder, asked_ns, note
        )  # another process may have made it meanwhile
        if kept is not None:
            return kept
        fresh = _listed(folder, note)
        try:
            # Mapped it takes no memory; the one made here does, for every image.
            return read_listing(publish(place, key, fresh)).listing
        except (OSError, KeptListingError) as error:
            note(_unkept(folder, error))
            return fresh.listing


def _listed(folder: Path, note: Note) -> Kept:
    started = time.time_ns()
    listing = list_split(folder)
    seconds = (time.time_ns() - started) / 1e9
    if seconds > _WORTH_A_NOTE_S:
        note(
            f"listed {len(listing.labels):,} images in {len(listing.directories):,} folders below "
            f"{printable(folder)} in {seconds:.1f} s"
        )
    return Kept(os.path.abspath(folder), started, listing)


def _open(place: Path, key: str, folder: Path, asked_ns: int, note: Note) -> Listing | None:
    """The listing kept for ``key`` if it is whole and true of ``folder``."""
    try:
        kept = read_listing(current_file(place, key))
    except FileNotFoundError:
        return None
    except (OSError, KeptListingError) as error:
        note(f"the kept listing of {printable(folder)} cannot be used ({error}); listing it again")
        return None
    if kept.folder != os.path.abspath(folder):
        return None
    changed = next(filter(None, (_change(folder, item) for item in kept.listing.directories)), None)
    if changed is not None:
        note(f"{changed}; listing {printable(folder)} again")
        return None
    # What was listed since this call began need not stand the test of time.
    return kept.listing if kept.listed_ns >= asked_ns or _is_settled(kept) else None


def _change(folder: Path, directory: Directory) -> str | None:
    """What is different about ``directory``, in words."""
    place = folder / directory.path
    try:
        status = os.stat(place)
    except OSError as error:
        return f"{printable(place)} is gone ({error.strerror or error})"
    if (status.st_mtime_ns, status.st_ino) != (directory.mtime_ns, directory.inode):
        return f"{printable(place)} has changed since it was listed"
    return None


def _is_settled(kept: Kept) -> bool:
    """Whether no folder can have been changed after it was listed without its time showing it."""
    start, stop = kept.listed_ns - _COARSEST_NS, kept.listed_ns + _SKEW_NS
    return not any(start <= directory.mtime_ns <= stop for directory in kept.listing.directories)


def _key(folder: Path) -> str:
    try:
        inode = os.stat(folder).st_ino
    except OSError:  # listing it will say what is wrong
        inode = 0
    name = b"%d %s" % (inode, os.fsencode(os.path.abspath(folder)))
    return hashlib.sha256(name).hexdigest()[:32]


def _unkept(folder: Path, error: Exception) -> str:
    return (
        f"the listing of {printable(folder)} cannot be kept ({error}), so each start lists it anew; set "
        "XDG_CACHE_HOME to a writable folder"
    )


@contextlib.contextmanager
def _alone(path: Path, folder: Path, note: Note) -> Iterator[None]:
    """Holds the lock ``path``, which the system releases if this process is killed."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_SILENT_WAIT_S)
    except Timeout:
        note(f"waiting for another process that lists {printable(folder)}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
