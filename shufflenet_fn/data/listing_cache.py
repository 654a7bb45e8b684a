"""Listings kept between runs: a tree of a million files is not listed at each start.

A listing is kept in the cache folder under a name made from the split folder's absolute path, and used as
long as each folder below is the one that was listed and has the same modification time, which changes
when a name in it is added, removed or renamed. So a start looks at each folder once and at no file. What
a listing does not hold, the content of files, is not looked at either: a file that was replaced in place,
or whose link now leads nowhere, shows when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shufflenet_fn.data.listing import Directory, Listing, list_split
from shufflenet_fn.data.listing_file import Kept, KeptListingError, read_listing, write_listing
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.cache import cache_root as default_cache_root
from shufflenet_fn_backends.errors import DeviceError

Note = Callable[[str], None]

_COARSEST_NS = 2 * 10**9
"""No file system's modification times are coarser. A folder that was changed less than this before it was
listed may have been changed once more afterwards and still have the same time."""

_SKEW_NS = 24 * 3600 * 10**9
"""No file server's clock is further ahead of this machine's. A time beyond that was set, as by an
archive, and the next change will put another in its place."""

_WORTH_A_NOTE_S = 1.0


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
    path = root / "listings" / f"{_key(folder)}.listing"
    kept = _open(path, folder, asked_ns, silent)
    if kept is not None:
        return kept
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_alone(path))
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            note(_unkept(folder, error))
            return _listed(folder, note).listing
        kept = _open(path, folder, asked_ns, note)  # another process may have made it meanwhile
        if kept is not None:
            return kept
        fresh = _listed(folder, note)
        try:
            write_listing(path, fresh)
            # Mapped it takes no memory; the one made here does, for every image.
            return read_listing(path).listing
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


def _open(path: Path, folder: Path, asked_ns: int, note: Note) -> Listing | None:
    """The listing kept at ``path`` if it is whole and true of ``folder``."""
    try:
        kept = read_listing(path)
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
    return hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:32]


def _unkept(folder: Path, error: Exception) -> str:
    return (
        f"the listing of {printable(folder)} cannot be kept ({error}), so each start lists it anew; set "
        "XDG_CACHE_HOME to a writable folder"
    )


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock beside ``path``, which the system releases if this process is killed."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        yield
