"""The limit of bad images in a split, as the user gives it. Imports only the standard library."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from shufflenet_fn_backends.support.errors import UsageError


class BadLimit(NamedTuple):
    """A share of a split or a number of images: ``text`` is what the user wrote."""

    text: str
    value: Fraction
    is_share: bool

    def of(self, n: int) -> int:
        """Return how many of ``n`` images may be bad. A share is rounded down, and one image must be left."""
        allowed = int(self.value * n) if self.is_share else int(self.value)
        return min(allowed, n - 1)

    def __str__(self) -> str:
        return self.text


def parse_bad_limit(text: str) -> BadLimit:
    """Parse ``0.1%`` or ``20``.

    Raises:
      UsageError: neither a percentage from 0% to below 100% nor a whole number from 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?(%?)", text.strip(), re.ASCII)
    if found is None:
        raise UsageError(
            f"--max-bad {text!r} is neither a share nor a number of images. Give a percentage such as 0.1%, "
            "or a whole number such as 20."
        )
    value, is_share = Fraction(found[1]), bool(found[2])
    if is_share and value >= 100:
        raise UsageError(f"--max-bad {text} leaves no image. Give a percentage below 100%.")
    if not is_share and value.denominator != 1:
        raise UsageError(
            f"--max-bad {text} is not a whole number of images. For a share write {text.strip()}%."
        )
    return BadLimit(text.strip(), value / 100 if is_share else value, is_share)
