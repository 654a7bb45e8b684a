"""Values of a file that anybody may have written: taken as what they must be, or ``ValueError``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def count(value: Any, what: str) -> int:
    """``value``, a number of things."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{what} is {value!r}")
    return value


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """``value``, an object of JSON."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r:.60}, not an object with named fields")
    return value


def texts(value: Any, what: str) -> dict[str, str]:
    """``value``, an object whose values are text."""
    fields = mapping(value, what)
    if not all(isinstance(text, str) for text in fields.values()):
        raise ValueError(f"not all values of {what} are text")
    return dict(fields)


def strings(values: Any) -> tuple[str, ...]:
    """``values``, a list of text."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("a list of names is not one")
    return tuple(values)
