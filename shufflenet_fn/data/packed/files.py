"""Writing files that are whole or absent, and hashing them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from shufflenet_fn.io import flush

TEMPORARY = ".tmp"

_BLOCK = 1 << 22


def temporary(path: Path) -> Path:
    """Where ``path`` is written before it is complete."""
    return path.with_name(path.name + TEMPORARY)


def write_file(path: Path, data: bytes) -> None:
    """Write ``data`` aside, then move it to ``path``. Raises ``OSError``."""
    aside = temporary(path)
    aside.write_bytes(data)
    publish(aside, path)


def publish(aside: Path, path: Path) -> None:
    """Bring a finished file to disk and give it its name, so that the name implies the content."""
    flush(aside)
    os.replace(aside, path)
    flush(path.parent)


def sha256_of(path: Path) -> str:
    """The file's SHA-256, as ``sha256sum`` prints it. Raises ``OSError``."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
