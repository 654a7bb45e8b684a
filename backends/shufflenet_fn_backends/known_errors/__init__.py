"""Known error texts of devices and their software, each with its meaning and fix.

``shufflenet-fn doctor``, training's own messages and ``docs/ascend.md`` use this table. Patterns match the
texts that torch, torch_npu, CANN and HCCL print. ``source`` names where each was seen. Recorded examples are
in ``tests/doctor``.
"""

from __future__ import annotations

import functools
import re

from shufflenet_fn_backends.known_errors import collectives, devices, graphs, imports, operators
from shufflenet_fn_backends.known_errors.entry import KnownError

__all__ = ["KnownError", "explain", "explain_all", "known_errors", "telling_line"]

_CODE = re.compile(r"\bE[A-Z0-9]\d{4}\b")


def known_errors() -> tuple[KnownError, ...]:
    """Return the table. If two entries match a text, the earlier one is more specific."""
    return (
        *imports.ENTRIES,
        *graphs.ENTRIES,
        *devices.ENTRIES,
        *operators.ENTRIES,
        *collectives.ENTRIES,
        *collectives.GENERAL,
    )


def explain(text: str) -> KnownError | None:
    """Return the entry that matches ``text`` best, or ``None``."""
    return next((entry for entry in known_errors() if _compiled(entry).search(text)), None)


def explain_all(text: str) -> list[KnownError]:
    """Return all entries that match somewhere in ``text``, for example a log, in the order of the table.

    General entries, which match nearly every error of torch_npu, are omitted if a more specific one matches.
    """
    found = [entry for entry in known_errors() if _compiled(entry).search(text)]
    specific = [entry for entry in found if entry not in collectives.GENERAL]
    return specific or found


def telling_line(text: str) -> str:
    """Return the most informative line of an error: with a code of CANN, or in the table, or the first.

    torch_npu prints half a page of its own before the text of CANN.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    known = explain(text)
    fits = [line for line in lines if _CODE.search(line)]
    if known is not None:
        fits += [line for line in lines if _compiled(known).search(line)]
    return (fits or lines or [""])[0]


@functools.cache
def _compiled(entry: KnownError) -> re.Pattern[str]:
    return re.compile(entry.pattern)
