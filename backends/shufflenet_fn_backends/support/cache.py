"""The cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from shufflenet_fn_backends.support.errors import DeviceError


def cache_root() -> Path:
    """Return ``$XDG_CACHE_HOME/shufflenet-fn``, or ``~/.cache/shufflenet-fn`` if it is not set.

    Raises:
        DeviceError: the variable is not set and this user has no home directory.
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise DeviceError(
            "no folder for caches: this user has no home directory. Set XDG_CACHE_HOME to a writable folder."
        ) from error
    return root / "shufflenet-fn"
