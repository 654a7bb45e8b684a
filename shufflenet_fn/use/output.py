"""Output files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import flush
from shufflenet_fn_backends.support.errors import UsageError, UserError


def check_output(file: Path) -> None:
    """Raise ``UsageError`` if ``file`` cannot be written, before any work is done for it."""
    folder = file.absolute().parent
    if file.is_dir():
        raise UsageError(f"-o {printable(file)} is a folder. Give the path of a file.")
    if not folder.is_dir():
        raise UsageError(f"-o {printable(file)}: there is no folder {printable(folder)}. Make it first.")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"-o {printable(file)}: the folder {printable(folder)} is not writable.")


def write_out(out: Path, content: bytes) -> None:
    """Write ``content`` to ``out``, whole or not at all. Raises ``UserError`` if that fails."""
    write_whole(out, lambda opened: opened.write(content))


def write_whole(file: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write`` with an open file that then replaces ``file``. Raises ``UserError`` if that fails."""
    aside = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with open(aside, "wb") as opened:
            write(opened)
        flush(aside)
        aside.replace(file)
        flush(file.absolute().parent)
    except OSError as error:
        raise UserError(f"cannot write {printable(file)}: {error.strerror or error}.") from error
    finally:
        aside.unlink(missing_ok=True)
