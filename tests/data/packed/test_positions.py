"""Records read by position are those that array_record gives, and nothing else is taken for a record."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shufflenet_fn.data.packed.positions import (
    BLOCK_BYTES,
    BLOCK_HEADER_BYTES,
    LayoutError,
    Positions,
    read_at,
    record_positions,
)
from shufflenet_fn.data.packed.shards import ShardError, ShardReaders, ShardWriter

USABLE = BLOCK_BYTES - BLOCK_HEADER_BYTES
# Of the file's signature with a block header, and of what stands before a record with a size of two bytes.
SIGNATURE, PREFIX = 64, 44

sizes_around_blocks = st.one_of(
    st.integers(0, 300),
    st.integers(-120, 120).map(lambda shift: USABLE - SIGNATURE + shift),
    st.tuples(st.integers(1, 4), st.integers(-120, 120)).map(
        lambda at: at[0] * USABLE - PREFIX + at[1]
    ),
    st.integers(0, 300_000),
)


def write(path: Path, records: Sequence[bytes], options: str | None = None) -> Path:
    if options is None:
        writer = ShardWriter(path)
        for record in records:
            writer.write(record)
        writer.close()
    else:
        from array_record.python.array_record_module import ArrayRecordWriter

        other = ArrayRecordWriter(os.fsencode(path), options)
        for record in records:
            other.write(record)
        other.close()
    return path


def some_records(sizes: Sequence[int]) -> list[bytes]:
    rng = np.random.default_rng(len(sizes))
    return [rng.bytes(size) for size in sizes]


def read_all(path: Path, positions: Positions) -> list[bytes]:
    with open(path, "rb", buffering=0) as file:
        places = zip(positions.offsets.tolist(), positions.sizes.tolist(), strict=True)
        return [read_at(file.fileno(), offset, size) for offset, size in places]


@given(sizes=st.lists(sizes_around_blocks, min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
@example(sizes=[USABLE * 4 - 300] + [0] * 12)  # the chunks of empty records, across a block header
@example(sizes=[1] * 3000)
def test_records_are_read_at_their_positions(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    records = some_records(sizes)
    path = write(tmp_path_factory.mktemp("shard") / "x", records)
    positions = record_positions(path, len(records))
    assert positions.sizes.tolist() == sizes
    assert read_all(path, positions) == records
    readers = ShardReaders([path])
    assert [readers.read(0, number) for number in range(len(records))] == records


def test_every_way_in_which_a_block_header_can_cut_a_chunk(tmp_path: Path) -> None:
    """The second chunk's header and the numbers before its record cross a block header everywhere."""
    for shift in range(-80, 10):
        records = some_records([USABLE - SIGNATURE - PREFIX + shift, 1000])
        path = write(tmp_path / "x", records)
        assert read_all(path, record_positions(path, 2)) == records


@pytest.mark.parametrize("claimed", [1, 2, 4, 5])
def test_another_number_of_records_is_noticed(tmp_path: Path, claimed: int) -> None:
    path = write(tmp_path / "x", some_records([10, 70_000, 10]))
    with pytest.raises(LayoutError, match="record"):
        record_positions(path, claimed)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("group_size:2,uncompressed", "chunk of its own"),
        ("group_size:1,zstd:3", "is compressed"),
        ("group_size:1,brotli:1", "is compressed"),
        ("group_size:1,uncompressed,transpose:true", "chunk of its own"),
    ],
)
def test_files_written_otherwise_are_not_known(tmp_path: Path, options: str, reason: str) -> None:
    path = write(tmp_path / "x", [b"a" * 1000] * 4, options)
    with pytest.raises(LayoutError, match=reason):
        record_positions(path, 4)


def damaged(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


# The first chunk of records begins behind the signature; its header has five numbers of 8 bytes.
@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (24 + 8, number(1), "signature"),
        (24 + 24, b"r", "signature"),
        (64 + 8, number(999), "contradict"),
        (64 + 8, number(0), "compressed"),
        (64 + 8, number(2**64 - 1), "contradict"),
        (64 + 24, b"t", "chunk of its own"),
        (64 + 24, b"r\2", "chunk of its own"),
        (64 + 32, number(999), "contradict"),
        (104, b"z", "compressed"),
        (105, b"\1", "more than one"),
        (105, b"\xff" * 20, "does not end"),
        (106, b"\xe7\7", "contradict"),
    ],
)
def test_a_damaged_header_is_an_error(
    tmp_path: Path, place: int, value: bytes, reason: str
) -> None:
    path = write(tmp_path / "x", some_records([1000, 1000]))
    assert record_positions(path, 2).offsets[0] == 108
    path.write_bytes(damaged(path.read_bytes(), place, value))
    with pytest.raises(ShardError, match=reason):
        record_positions(path, 2)


def test_seeded_damage_gives_shard_errors_or_positions_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x", some_records([20] * 30))
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        place = int(rng.integers(24, 2700))
        path.write_bytes(damaged(data, place, rng.bytes(int(rng.integers(1, 9)))))
        try:
            read_all(path, record_positions(path, 30))
        except ShardError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("length", [0, 30, 63, 64, 100, 106, 5000, 70_000])
def test_a_cut_file_is_an_error(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "x", some_records([4000, 80_000]))
    os.truncate(path, length)
    with pytest.raises(LayoutError, match="end"):
        record_positions(path, 2)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="No such file"):
        record_positions(tmp_path / "x", 1)


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, 10),
        (23, 10),
        (65536, 10),
        (65559, 0),
        (108, 131_072),
        (131_072 + 24, 0),
        (108, 2**63),
        (2**64 - 1, 0),
        (2**64 - 1, 2**64 - 1),
    ],
)
def test_where_no_record_can_be_nothing_is_read(tmp_path: Path, offset: int, size: int) -> None:
    path = write(tmp_path / "x", some_records([1000]))
    assert path.stat().st_size == 131_072
    with open(path, "rb") as file, pytest.raises(LayoutError):
        read_at(file.fileno(), offset, size)


def test_a_descriptor_that_cannot_be_read_is_a_shard_error(tmp_path: Path) -> None:
    with open(write(tmp_path / "x", [b"abc"]), "ab") as file, pytest.raises(ShardError):
        read_at(file.fileno(), 107, 3)
