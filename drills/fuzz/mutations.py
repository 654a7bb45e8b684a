"""Seeded damage to the bytes of a file, of the kinds that disks, networks and half-finished copies do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Mutation = Callable[[bytearray, np.random.Generator], None]

_HEADER = 700
"""Number of bytes at the start that usually hold the tables and frame of a JPEG, or the index of a shard."""


def flip_bits(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))


def overwrite(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(len(data)))
    for position in range(start, min(len(data), start + int(rng.integers(1, 33)))):
        data[position] = int(rng.integers(256))


def truncate(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data))) :]


def insert(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(len(data) + 1))
    data[start:start] = rng.bytes(int(rng.integers(1, 65)))


def remove(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(len(data)))
    del data[start : start + int(rng.integers(1, 65))]


def zero_block(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(len(data)))
    length = min(len(data) - start, int(rng.integers(1, 4097)))
    data[start : start + length] = bytes(length)


def damage_header(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 5)):
        data[rng.integers(min(len(data), _HEADER))] = int(rng.integers(256))


def change_marker(data: bytearray, rng: np.random.Generator) -> None:
    """Replace one JPEG marker by another."""
    markers = [at for at in range(len(data) - 1) if data[at] == 0xFF and data[at + 1]]
    if markers:
        data[markers[rng.integers(len(markers))] + 1] = int(rng.integers(0xC0, 0xFF))


def repeat_block(data: bytearray, rng: np.random.Generator) -> None:
    """Overwrite one part of the file with another."""
    length = int(rng.integers(1, 4097))
    source, target = rng.integers(len(data), size=2).tolist()
    block = data[source : source + length]
    data[target : target + len(block)] = block


MUTATIONS: dict[str, Mutation] = {
    "bit flips": flip_bits,
    "bytes overwritten": overwrite,
    "truncated": truncate,
    "bytes inserted": insert,
    "bytes removed": remove,
    "block zeroed": zero_block,
    "header damaged": damage_header,
    "marker changed": change_marker,
    "block repeated": repeat_block,
}


def mutate(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return the name of a kind of damage drawn from ``rng``, and non-empty ``data`` with that damage."""
    kind = list(MUTATIONS)[rng.integers(len(MUTATIONS))]
    damaged = bytearray(data)
    MUTATIONS[kind](damaged, rng)
    return kind, bytes(damaged)
