"""Known error texts of devices and their software, each with its meaning and fix.

``shufflenet-fn doctor``, training's own messages and ``docs/ascend.md`` use the table ``known_errors.txt``.
Its patterns match the texts that torch, torch_npu, CANN and HCCL print. ``tests/doctor`` has recorded ones.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

_CODE = re.compile(r"\bE[A-Z0-9]\d{4}\b")


@dataclass(frozen=True)
class KnownError:
    """An error that is recognised by its text: a row of the table, which describes the fields.

    ``meaning`` and ``fix`` are sentences without their full stops.
    """

    key: str
    pattern: str
    meaning: str
    fix: str
    source: str
    echo: bool = False
    general: bool = False

    def __str__(self) -> str:
        return f"{self.meaning} ({self.key}). {self.fix}."

    def matches(self, text: str) -> bool:
        """Return whether the text holds this error."""
        return re.search(self.pattern, text) is not None


@functools.cache
def known_errors() -> tuple[KnownError, ...]:
    """Return the table. If two entries match a text, the earlier one is more specific."""
    table = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    rows = re.sub(r"^#.*\n", "", table, flags=re.MULTILINE).strip().split("\n\n")
    return tuple(_entry(*row.strip().splitlines()) for row in rows if row.strip())


def _entry(key: str, *lines: str) -> KnownError:
    texts = dict(line.split(": ", 1) for line in lines)
    pattern = re.sub(r"\{code (.+?)\}", r"error ?[cC]ode(?: is|:| =) ?(?:\1)\\b", texts["pattern"])
    echo, general = "echo" in texts, "general" in texts
    return KnownError(key, pattern, texts["meaning"], texts["fix"], texts["source"], echo, general)


def explain(text: str) -> KnownError | None:
    """Return the entry that matches ``text`` best, or ``None``."""
    return next((entry for entry in known_errors() if entry.matches(text)), None)


def explain_all(text: str) -> list[KnownError]:
    """Return all entries that match somewhere in ``text``, for example a log, in the order of the table.

    General entries are omitted if a more specific one matches.
    """
    found = [entry for entry in known_errors() if entry.matches(text)]
    return [entry for entry in found if not entry.general] or found


def telling_line(text: str) -> str:
    """Return the most informative line of an error: with a code of CANN, or in the table, or the first.

    torch_npu prints half a page of its own before the text of CANN.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    known = explain(text)
    fits = [line for line in lines if _CODE.search(line)]
    if known is not None:
        fits += [line for line in lines if known.matches(line)]
    return (fits or lines or [""])[0]
