"""The few file operations that a checkpoint is written with.

All of them go through one small object, so that what makes a write crash-safe (its order) can be recorded
and every prefix of it replayed (``shufflenet_fn.checkpoint.crashes``), and so that a full disk can be had
at any point of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from shufflenet_fn.flushing import flush


class Disk(Protocol):
    """Changes to files. Each raises ``OSError`` where the operating system does."""

    def make_folder(self, path: Path) -> None:
        """Make ``path``, whose parent exists."""

    def write(self, path: Path, content: bytes) -> None:
        """Make the file ``path`` anew. Not on the medium before ``flush``."""

    def flush(self, path: Path) -> None:
        """Wait until a file's content, or a folder's list of names, is on the medium."""

    def rename(self, old: Path, new: Path) -> None:
        """Give ``old`` the name ``new`` in the same folder. A file of that name is replaced."""

    def unlink(self, path: Path) -> None:
        """Remove a file."""

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""


class RealDisk:
    """The file system of this machine."""

    def make_folder(self, path: Path) -> None:
        path.mkdir()

    def write(self, path: Path, content: bytes) -> None:
        # A symbolic link that waits at this name must not lead the write elsewhere.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o666), "wb", buffering=0) as file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]

    def flush(self, path: Path) -> None:
        flush(path)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        path.rmdir()


def write_durably(disk: Disk, path: Path, content: bytes) -> None:
    """``write`` and ``flush``; the name itself is durable once its folder is flushed."""
    disk.write(path, content)
    disk.flush(path)


def replace_file(disk: Disk, path: Path, content: bytes) -> None:
    """Replace the file ``path`` in one go: at any moment it is the old one or the new one."""
    aside = path.with_name(f".{path.name}.partial")
    write_durably(disk, aside, content)
    disk.rename(aside, path)
    disk.flush(path.parent)


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
