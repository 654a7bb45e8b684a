"""The on-disk format of a checkpoint: names, version, and the manifest with the hashes of all files.

A checkpoint is a folder ``step-00001234/``:

* ``weights.safetensors``: parameters and running statistics under torchvision's key names, so that
  ``torchvision.models.shufflenet_v2_*`` loads it with ``strict=True``;
* ``ema.safetensors``: the averaged weights in the same form, if the run keeps them;
* ``state.safetensors``: optimizer state, loss scale and step, under dotted paths;
* ``generators.safetensors``: states of random generators by device, if any are given;
* ``manifest.json``: settings and progress, size and SHA-256 of every other file, and its own SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from shufflenet_fn.io import parse_json
from shufflenet_fn_backends.support.errors import UserError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "weights.safetensors"
EMA: Final = "ema.safetensors"
STATE: Final = "state.safetensors"
GENERATORS: Final = "generators.safetensors"
FILES: Final = (WEIGHTS, EMA, STATE, GENERATORS)
"""Every file that a checkpoint may contain besides its manifest. No other file is opened."""

REPLACED: Final = ".replaced"
"""Suffix of a checkpoint while another one of the same step replaces it. It is still a valid checkpoint."""

MAX_MANIFEST_BYTES: Final = 16 << 20

OWN_HASH: Final = "sha256_of_this_file_with_zeros_here"
_ZEROS: Final = "0" * 64
_NAME: Final = re.compile(rf"step-(\d{{8,18}})({re.escape(REPLACED)})?")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class DamagedCheckpoint(UserError):
    """The checkpoint differs from what was written, or was not written by shufflenet-fn."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        super().__init__(f"the checkpoint {checkpoint} is damaged: {reason}.")
        self.reason = reason


class NewerCheckpoint(UserError):
    """The checkpoint has a format that this version does not know."""

    def __init__(self, checkpoint: Path, version: int) -> None:
        super().__init__(
            f"the checkpoint {checkpoint} has format {version}, and this version of shufflenet-fn reads "
            f"format {FORMAT}: a newer one wrote it. Upgrade shufflenet-fn, or take an older checkpoint."
        )
        self.reason = f"of the newer format {version}"


class StoredFile(NamedTuple):
    """Size and hash of a file, as stored in the manifest."""

    sha256: str
    bytes: int


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Return the step in the name of a checkpoint; ``None`` for other names."""
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def epochs_done(manifest: Mapping[str, Any]) -> float | None:
    """Return the epochs that a run had done, with the share of one; ``None`` of what no run has written.

    The number of updates does not tell: an epoch may have had another number of them before a resume.
    """
    match manifest:
        case {"step": 0}:
            return 0.0
        case {"epoch": int(epoch), "unfinished": None} if 0 <= epoch < 10**9:
            return epoch + 1.0
        case {"epoch": int(epoch), "unfinished": {"steps": int(steps)}, "steps_per_epoch": int(length)} if (
            0 <= epoch < 10**9 and 0 <= steps <= length != 0
        ):
            return epoch + steps / length
        case {"step": int(step), "steps_per_epoch": int(length)} if length > 0:
            return step / length
    return None


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def encode_manifest(about: Mapping[str, Any], step: int, files: Mapping[str, StoredFile]) -> bytes:
    """Return ``manifest.json``: ``about``, with format, step, files and its own hash.

    Raises:
        TypeError, ValueError: ``about`` is not JSON.
    """
    content = {
        OWN_HASH: _ZEROS,
        **about,
        "format": FORMAT,
        "step": step,
        "files": {name: file._asdict() for name, file in files.items()},
    }
    blank = json.dumps(content, indent=2, allow_nan=False)
    return blank.replace(_ZEROS, sha256(blank.encode()), 1).encode()


def decode_manifest(content: bytes, checkpoint: Path) -> tuple[dict[str, Any], dict[str, StoredFile]]:
    """Return the manifest and the files that it lists, both checked.

    Raises:
        DamagedCheckpoint, NewerCheckpoint: it is damaged, or of a newer format.
    """
    try:
        manifest = parse_json(content)
    except ValueError as error:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} is not JSON ({error})") from None
    if not isinstance(manifest, dict):
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} is no JSON object")
    version, own = manifest.get("format"), str(manifest.get(OWN_HASH))
    hashed = _SHA256.fullmatch(own) is not None
    if hashed and sha256(content.replace(own.encode(), _ZEROS.encode(), 1)) != own:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} is not what was written")
    if type(version) is int and version > FORMAT:
        raise NewerCheckpoint(checkpoint, version)
    if not hashed or version != FORMAT or type(version) is not int:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} is not of a checkpoint of shufflenet-fn")
    step = manifest.get("step")
    if type(step) is not int or not 0 <= step < 10**18:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} gives {step!r} as its step")
    named = step_of(checkpoint.name)
    if named is not None and named != step:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} is of step {step}, not of the folder's")
    return manifest, _stored_files(manifest.get("files"), checkpoint)


def _stored_files(listed: object, checkpoint: Path) -> dict[str, StoredFile]:
    if not isinstance(listed, dict) or not {WEIGHTS, STATE} <= listed.keys():
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} does not list {WEIGHTS} and {STATE}")
    files = {}
    for name, entry in listed.items():
        if name not in FILES:
            raise DamagedCheckpoint(
                checkpoint, f"{MANIFEST} names {name[:80]!r}, a file that no checkpoint has"
            )
        match entry:
            case {"sha256": str(sha), "bytes": int(size)} if _SHA256.fullmatch(sha) and size >= 0:
                files[name] = StoredFile(sha, size)
            case _:
                raise DamagedCheckpoint(checkpoint, f"{MANIFEST} gives no hash and size of {name}")
    return files
