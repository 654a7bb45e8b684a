"""Lossless JPEGs (ITU-T T.81, process 14), which Pillow cannot write."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

_CATEGORIES = 9
_CODE_BITS = 4


def lossless_jpeg(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """A lossless JPEG of uint8 (H, W, 3) RGB: each pixel is stored as its difference from the one before."""
    height, width = image.shape[:2]
    ids = b"RGB"
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"".join(bytes([name, 0x11, 0]) for name in ids)
    # Codes of one length, in order.
    lengths = [_CATEGORIES if bits == _CODE_BITS else 0 for bits in range(1, 17)]
    table = bytes([0, *lengths, *range(_CATEGORIES)])
    scan = bytes([3]) + b"".join(bytes([name, 0]) for name in ids) + bytes([1, 0, 0])
    return (
        b"\xff\xd8"
        + _segment(0xC3, frame)
        + _segment(0xC4, table)
        + _segment(0xDA, scan)
        + _bits(_differences(image))
        + b"\xff\xd9"
    )


def _differences(image: np.ndarray[Any, np.dtype[np.uint8]]) -> list[int]:
    """From the pixel to the left, in the first column from the one above, of the first one from grey."""
    pixels = image.astype(np.int64)
    before = np.full_like(pixels, 128)
    before[1:, 0] = pixels[:-1, 0]
    before[:, 1:] = pixels[:, :-1]
    found: list[int] = (pixels - before).ravel().tolist()
    return found


def _bits(differences: list[int]) -> bytes:
    words = []
    for value in differences:
        category = abs(value).bit_length()
        words.append(f"{category:0{_CODE_BITS}b}")
        if category:
            kept = value if value > 0 else value + (1 << category) - 1
            words.append(f"{kept:0{category}b}")
    text = "".join(words)
    text += "1" * (-len(text) % 8)
    packed = bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))
    return packed.replace(b"\xff", b"\xff\x00")


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
