"""What a packed data set is made from and how, so that two of them can be told apart."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from shufflenet_fn.data.packed.format import PackSettings
from shufflenet_fn.data.sources import ImageFolder

# Their versions may change a record's bytes or its frame.
_LIBRARIES = ("simplejpeg", "pillow", "torch", "array_record")


class Fingerprint:
    """SHA-256 of the relative path, size and time of change of a folder's images, from the first on."""

    def __init__(self, source: ImageFolder) -> None:
        self._source, self._done, self._digest = source, 0, hashlib.sha256()

    def upto(self, stop: int) -> str:
        """Of the images before ``stop``, which must not be less than it was before."""
        for index in range(self._done, stop):
            name = os.fsencode(self._source.paths[index])
            try:
                facts = os.stat(self._source.path(index))
            except OSError:  # reading it says what is wrong
                self._digest.update(b"%s\0unreadable\n" % name)
            else:
                self._digest.update(b"%s\0%d\0%d\n" % (name, facts.st_size, facts.st_mtime_ns))
        self._done = stop
        return self._digest.hexdigest()


def plan_fields(settings: PackSettings, classes: Sequence[str]) -> dict[str, Any]:
    """What must be the same for a killed run to be gone on with, the images apart.

    Those may change after its last finished shard: a bad one can be mended without starting again.
    """
    return {
        "settings": vars(settings),
        "source": {"classes": hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()},
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The leaves in which two plans differ, each in words."""
    found: list[str] = []
    for group in ("settings", "source", "libraries"):
        old, new = before.get(group), now.get(group, {})
        if not isinstance(old, dict):  # an edited plan
            old = {}
        for key in [*new, *(key for key in old if key not in new)]:
            if old.get(key) != new.get(key):
                found.append(_difference(group, key, old.get(key), new.get(key)))
    return found


def _difference(group: str, key: str, old: object, new: object) -> str:
    if group == "source":
        return source_changed(str(key))
    return f"{key} was {old}, now it is {new}"


def source_changed(what: str) -> str:
    """That the source's classes, or the files of a split of it, are no longer the same."""
    if what == "classes":
        return "class folders of the source were added, removed or renamed"
    return f"files of the source's {what}/ were added, removed or changed"
