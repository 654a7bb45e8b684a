"""Rectangles of pixels."""

from __future__ import annotations

from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle inside an image, in pixels."""

    top: int
    left: int
    height: int
    width: int
