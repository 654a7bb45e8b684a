"""The part of a record's checksum that is known before the record is read, for a whole batch at once."""

from __future__ import annotations

import functools
import zlib

import numpy as np
import numpy.typing as npt

# As `entries.record_checksum` packs them.
_FACTS = np.dtype([("index", "<i8"), ("label", "<i8"), ("height", "<u4"), ("width", "<u4")])


def checksum_seeds(
    indices: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    heights: npt.NDArray[np.uint32],
    widths: npt.NDArray[np.uint32],
) -> npt.NDArray[np.uint32]:
    """CRC-32 of each image's place, label and size, (N,) each: what its record's checksum goes on from."""
    facts = np.empty(len(indices), dtype=_FACTS)
    facts["index"], facts["label"] = indices, labels
    facts["height"], facts["width"] = heights, widths
    # A CRC-32 is linear up to a constant: every byte adds its own term, by place and value.
    terms, zeros = _terms()
    places = np.arange(_FACTS.itemsize)
    seeds: npt.NDArray[np.uint32] = np.bitwise_xor.reduce(
        terms[places, facts.view(np.uint8).reshape(-1, _FACTS.itemsize)], axis=1
    )
    return seeds ^ zeros


@functools.cache
def _terms() -> tuple[npt.NDArray[np.uint32], np.uint32]:
    """What each byte adds, (places, values), and the CRC-32 of zeros alone."""
    zeros = zlib.crc32(bytes(_FACTS.itemsize))
    terms = np.empty((_FACTS.itemsize, 256), dtype=np.uint32)
    for place in range(_FACTS.itemsize):
        for value in range(256):
            facts = bytearray(_FACTS.itemsize)
            facts[place] = value
            terms[place, value] = zlib.crc32(facts) ^ zeros
    return terms, np.uint32(zeros)
