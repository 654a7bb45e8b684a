"""The header of a safetensors file, checked before anything is made of what it says.

The safetensors library checks most of this too, but says it in its own terms, takes headers of up to
100 MB, and lets the last of two equal names win.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch

from shufflenet_fn.checkpoint.strict_json import parse_json

MAX_HEADER_BYTES: Final = 8 << 20
"""Of ours the largest is below 100 KB."""

_MAX_AXES: Final = 8
DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class BadHeader(ValueError):
    """The header is not one that can be relied on; says why."""


class TensorEntry(NamedTuple):
    """A tensor in a file; ``start`` and ``end`` count bytes from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def header_bytes(start: bytes, file_bytes: int) -> int:
    """Length of the header with its own eight bytes of length, from the first eight of a file.

    Raises:
        BadHeader: no header of that length can be in a file of that size.
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > file_bytes - 8:
        raise BadHeader(f"the header of {length:,} bytes is longer than the file")
    if length > MAX_HEADER_BYTES:
        raise BadHeader(f"the header of {length:,} bytes is longer than {MAX_HEADER_BYTES:,}")
    return 8 + length


def read_header(header: bytes, file_bytes: int) -> dict[str, TensorEntry]:
    """What a file holds, by name. ``header``: its first ``header_bytes`` bytes or more.

    Raises:
        BadHeader: what is wrong with it.
    """
    length = header_bytes(header, file_bytes)
    try:
        content = parse_json(header[8:length])
    except ValueError as error:
        raise BadHeader(f"the header is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadHeader("the header is no JSON object")
    content.pop("__metadata__", None)
    entries = {name: _entry(name, value) for name, value in content.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.start != end:
            raise BadHeader(f"{name[:80]!r} does not begin where the tensor before it ends")
        end = entry.end
    if end != file_bytes - length:
        raise BadHeader(f"the tensors have {end:,} bytes, and the file {file_bytes - length:,}")
    return entries


def _entry(name: str, value: object) -> TensorEntry:
    match value:
        case {
            "dtype": str(code),
            "shape": list(shape),
            "data_offsets": [int(start), int(end)],
        } if all(type(size) is int and size >= 0 for size in shape):
            pass
        case _:
            raise BadHeader(f"{name[:80]!r} is not described by dtype, shape and data_offsets")
    if code not in DTYPES:
        raise BadHeader(f"{name[:80]!r} has the dtype {code[:20]!r}, which is not read here")
    if len(shape) > _MAX_AXES:
        raise BadHeader(f"{name[:80]!r} has {len(shape)} axes")
    needed = math.prod(shape) * DTYPES[code].itemsize
    if not 0 <= start <= end or end - start != needed:
        raise BadHeader(f"{name[:80]!r} of shape {shape} does not have {end - start:,} bytes")
    return TensorEntry(DTYPES[code], tuple(shape), start, end)
