"""Error texts that users of these devices meet, each with what it means and what to do.

One table for ``shufflenet-fn doctor``, for training's own messages and for ``docs/ascend.md``. The texts are
matched as they are printed by torch, torch_npu, CANN and HCCL; where each was seen is in ``source``, and
recorded examples are in ``tests/doctor``.
"""

from __future__ import annotations

import functools
import re

from shufflenet_fn_backends.known_errors import collectives, devices, graphs, imports, operators
from shufflenet_fn_backends.known_errors.entry import KnownError

__all__ = ["KnownError", "explain", "explain_all", "known_errors", "telling_line"]

_CODE = re.compile(r"\bE[A-Z0-9]\d{4}\b")


def known_errors() -> tuple[KnownError, ...]:
    """The table. Of two entries that fit a text the earlier is the more specific."""
    return (
        *imports.ENTRIES,
        *graphs.ENTRIES,
        *devices.ENTRIES,
        *operators.ENTRIES,
        *collectives.ENTRIES,
        *collectives.GENERAL,
    )


def explain(text: str) -> KnownError | None:
    """The entry that fits ``text`` best, or ``None``."""
    return next((entry for entry in known_errors() if _compiled(entry).search(text)), None)


def explain_all(text: str) -> list[KnownError]:
    """Every entry that fits somewhere in ``text``, a log for example, in the order of the table.

    The general ones, which fit nearly every error of torch_npu, are left out if a more specific one fits.
    """
    found = [entry for entry in known_errors() if _compiled(entry).search(text)]
    specific = [entry for entry in found if entry not in collectives.GENERAL]
    return specific or found


def telling_line(text: str) -> str:
    """The line of an error that says most: that with a code of CANN's, or that which is known, or the first.

    torch_npu puts half a page of its own before what CANN has said.
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
