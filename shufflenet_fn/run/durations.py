"""Lengths of time as schedulers and people write them."""

from __future__ import annotations

import re
from typing import Final

from shufflenet_fn_backends.support.errors import UsageError

_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PARTS: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SLURM: Final = re.compile(r"(?:(\d+)-(?=\d+(?::\d{2}){0,2}$))?(\d+)(?::(\d{2}))?(?::(\d{2}))?")


def parse_duration(text: str, option: str) -> float:
    """Seconds of ``90``, ``90s``, ``30m``, ``2h``, ``11h30m`` or, as Slurm writes it, ``1-12:00:00``.

    Slurm's ``A:B`` is minutes and seconds, and ``D-A:B`` days, hours and minutes; but a number alone is
    seconds here, as everywhere else, and not minutes.

    Raises:
        UsageError: it is none of these, or no time at all.
    """
    given = text.strip().lower()
    seconds = 0
    if given.isdecimal():
        seconds = int(given)
    elif match := _SLURM.fullmatch(given):
        days, *rest = match.groups()
        numbers = [int(number) for number in rest if number is not None]
        units = "hms" if days is not None or len(numbers) == 3 else "ms"
        seconds = int(days or 0) * _UNITS["d"]
        seconds += sum(n * _UNITS[u] for n, u in zip(numbers, units, strict=False))
    elif match := _PARTS.fullmatch(given):
        seconds = sum(int(n or 0) * _UNITS[u] for n, u in zip(match.groups(), "dhms", strict=True))
    if seconds <= 0:
        raise UsageError(
            f"{option} {text!r} is not a length of time: give seconds (90), units (90s, 30m, 2h, 11h30m, "
            "1d12h), or Slurm's form (D-HH:MM:SS, HH:MM:SS, MM:SS)."
        )
    return float(seconds)
