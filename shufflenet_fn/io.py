"""File access: bounded reads, atomic replacement, and JSON.

Every change to files that must survive a crash goes through a ``Disk``, so that tests can record the
operations, replay every prefix of them (``drills/crash_prefixes.py``), and fill the disk at any point.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from shufflenet_fn_backends.support.errors import UsageError, UserError


@contextmanager
def explained(what: str, fix: str, error: type[UserError] = UserError) -> Iterator[None]:
    """Convert an ``OSError`` of the body to "cannot ``what``", with the reason and the ``fix``."""
    try:
        yield
    except OSError as failed:
        raise error(f"cannot {what}: {failed.strerror or failed}. {fix}") from failed


Content: TypeAlias = bytes | Callable[[IO[bytes]], object]
"""The bytes of a file, or a function that writes them to an open file."""


class Disk:
    """Operations on files. Each raises ``OSError`` if the operating system does."""

    def make_folder(self, path: Path) -> None:
        """Make ``path``, whose parent exists."""
        path.mkdir()

    def write(self, path: Path, content: Content) -> None:
        """Create or overwrite the file ``path``. Its content is durable only after ``flush``."""
        # A symbolic link at this name must not redirect the write.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o666), "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)

    def flush(self, path: Path) -> None:
        """Wait until a file's content, or a folder's list of names, is on the medium."""
        flush(path)

    def rename(self, old: Path, new: Path) -> None:
        """Give ``old`` the name ``new`` in the same folder. A file of that name is replaced."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()


DISK: Final = Disk()


def write_durably(disk: Disk, path: Path, content: Content) -> None:
    """Write and flush ``path``. Its name is durable once its folder is flushed."""
    disk.write(path, content)
    disk.flush(path)


def replace_file(path: Path, content: Content, *, disk: Disk = DISK, writer: str = "") -> None:
    """Replace the file ``path`` atomically: at any moment it holds the old or the new content.

    The new content and the name are durable when this returns. ``writer``: part of the temporary file's name,
    where several processes may write ``path`` at once. Raises ``OSError``.
    """
    aside = path.with_name(f".{path.name}{writer}.partial")
    try:
        write_durably(disk, aside, content)
        disk.rename(aside, path)
        disk.flush(path.parent)
    except BaseException:
        with suppress(OSError):
            disk.unlink(aside)
        raise


def check_output(file: Path) -> None:
    """Raise ``UsageError`` if the output ``file`` cannot be written, before any work is done for it."""
    from shufflenet_fn.data.paths import printable

    folder = file.absolute().parent
    if file.is_dir():
        raise UsageError(f"-o {printable(file)} is a folder. Give the path of a file.")
    if not folder.is_dir():
        raise UsageError(f"-o {printable(file)}: there is no folder {printable(folder)}. Make it first.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"-o {printable(file)}: the folder {printable(folder)} is not writable.")


def write_output(file: Path, content: Content) -> None:
    """Write an output file, whole or not at all. Raises ``UserError`` if that fails."""
    from shufflenet_fn.data.paths import printable

    with explained(f"write {printable(file)}", "Free some space, or give another file with -o."):
        replace_file(file, content, writer=f".{os.getpid()}")


def remove_tree(disk: Disk, path: Path) -> None:
    """Remove a folder and what is in it. Symbolic links are removed, not followed."""
    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(disk, Path(entry.path))
        else:
            disk.unlink(Path(entry.path))
    disk.remove_folder(path)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the medium. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_regular(path: Path, *, limit: int, exactly: int | None = None) -> bytes:
    """Return the content of a regular file. Symbolic links, folders, pipes and devices are refused.

    Args:
        path: the file; its last component must not be a symbolic link.
        limit: maximum size in bytes.
        exactly: required size in bytes.

    Raises:
        ValueError: it is not a regular file, or has another size.
        OSError: it cannot be read.
    """
    if path.is_symlink():
        raise ValueError(f"{path.name} is a symbolic link")
    # Non-blocking, so that a pipe at this name cannot block the reader.
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


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON that every reader accepts: numbers that are not finite become ``null``."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """Return ``value`` with ``None`` for every number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def parse_json(content: bytes) -> Any:
    """Return the value in ``content``, which is untrusted JSON.

    Raises:
        ValueError: it is not UTF-8, not JSON by RFC 8259 (NaN, Infinity), has a key twice in an object, is
            nested too deeply, or holds a number too long to be read.
    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")
