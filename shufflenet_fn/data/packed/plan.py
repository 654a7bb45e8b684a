"""What a packed data set is made from and how, so that two of them can be told apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from shufflenet_fn.data.packed.format import PackSettings
from shufflenet_fn.data.sources import ImageFolder

# Their versions may change a record's bytes or its frame.
_LIBRARIES = ("simplejpeg", "pillow", "torch", "array_record")


def fingerprint(source: ImageFolder) -> str:
    """SHA-256 of the relative path, size and time of change of every image of a folder."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        name = os.fsencode(source.paths[index])
        try:
            facts = os.stat(source.path(index))
        except OSError:  # reading it will say what is wrong
            digest.update(b"%s\0unreadable\n" % name)
        else:
            digest.update(b"%s\0%d\0%d\n" % (name, facts.st_size, facts.st_mtime_ns))
    return digest.hexdigest()


def plan_fields(settings: PackSettings, source: Mapping[str, str]) -> dict[str, Any]:
    """What must be the same for a killed run to be gone on with."""
    libraries = {name: version(name) for name in _LIBRARIES}
    return {"settings": vars(settings), "source": dict(source), "libraries": libraries}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The leaves in which two plans differ, each in words."""
    found: list[str] = []
    for group in ("settings", "source", "libraries"):
        old, new = before.get(group, {}), now.get(group, {})
        for key in [*new, *(key for key in old if key not in new)]:
            if old.get(key) != new.get(key):
                found.append(_difference(group, key, old.get(key), new.get(key)))
    return found


def _difference(group: str, key: str, old: object, new: object) -> str:
    if group == "source":
        return f"files of the source's {key}/ were added, removed or changed"
    return f"{key} was {old}, now it is {new}"
