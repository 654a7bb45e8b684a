"""JSON from files that nobody vouches for."""

from __future__ import annotations

import json
from typing import Any


def parse_json(content: bytes) -> Any:
    """The value in ``content``, UTF-8.

    Raises:
        ValueError: it is not JSON as RFC 8259 has it (NaN, Infinity), an object has a key twice, or it is
            nested too deeply or holds a number too long to be read.
    """
    try:
        return json.loads(
            content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")
