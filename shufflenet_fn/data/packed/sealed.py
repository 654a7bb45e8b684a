"""Small JSON files that carry a hash of themselves: any changed byte is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shufflenet_fn.data.packed.files import write_file
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UserError

VERSION = 2
KIND = "shufflenet-fn packed data"

# The largest index that can be meant: 100,000 shards take some 20 MB.
_MAX_BYTES = 1 << 28


def write_sealed(path: Path, fields: Mapping[str, Any]) -> None:
    """Write ``fields`` whole or not at all. Raises ``OSError``."""
    write_file(path, _render({"kind": KIND, "version": VERSION, **fields}).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """The fields that ``write_sealed`` wrote.

    Raises:
      UserError: not such a file, of another version, or changed since it was written.
    """
    text = _read(path)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{printable(path)} is damaged: it is not JSON ({error}). Pack the data again."
        ) from error
    if not isinstance(fields, dict) or fields.get("kind") != KIND:
        raise UserError(
            f"{printable(path)} is not an index of packed data, or it is damaged: it does not say "
            f'"kind": "{KIND}". Pass a folder that `data pack` wrote.'
        )
    if fields.get("version") != VERSION:
        raise UserError(_other_version(path, fields.get("version")))
    stored = fields.pop("sha256", None)
    # The whole text is compared, so that a changed blank or a doubled key is found as well.
    if _render(fields) != text:
        raise UserError(
            f"{printable(path)} is damaged or was edited: its SHA-256 is not {stored}, which it states. Copy "
            "it again or pack the data again."
        )
    return {key: value for key, value in fields.items() if key not in ("kind", "version")}


def _other_version(path: Path, version: object) -> str:
    is_older = isinstance(version, int) and version < VERSION
    made_by = ": it was packed by an older version of shufflenet-fn" if is_older else ""
    return (
        f"{printable(path)} is of version {version!r} of the format, and this program reads version "
        f"{VERSION}{made_by}. Pack the data again (`data pack` with --overwrite), or read it with the "
        "version that packed it."
    )


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(
                f"{printable(path)} has {path.stat().st_size} bytes; no index has more than {_MAX_BYTES}. "
                "Pack the data again."
            )
        return path.read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        raise UserError(f"{printable(path)} is damaged: {error}. Pack the data again.") from error
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror or error}.") from error


def _render(fields: Mapping[str, Any]) -> str:
    """The one text of ``fields``, which ends with the hash of all before it."""
    body = json.dumps(fields, indent=1, allow_nan=False)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-2]},\n "sha256": "{digest}"\n}}\n'
