from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from shufflenet_fn.data.packed.entries import (
    Entries,
    Row,
    entries_bytes,
    entries_of,
    joined,
    map_entries,
    record_checksum,
)

NAMES = ["a/1.jpg", "b/zwei words.jpg", "c/ünï.jpg", os.fsdecode(b"d/\xff.jpg")]


def some_rows() -> list[Row]:
    sums = [record_checksum(b"%d" % i, i, label, 3, 4) for i, label in enumerate([0, 1, 2, 2])]
    return [Row(label, 64 + i, i, sums[i], 3, 4, NAMES[i]) for i, label in enumerate([0, 1, 2, 2])]


def some_entries() -> Entries:
    return entries_of(some_rows())


def test_entries_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "x.entries"
    path.write_bytes(entries_bytes(some_entries()))
    mapped = map_entries(path, 4)
    for name, column in some_entries()._asdict().items():
        np.testing.assert_array_equal(getattr(mapped, name), column)
    assert [mapped.name(index) for index in range(4)] == [*NAMES[:3], "d/\\xff.jpg"]


def test_mapped_entries_cannot_be_written_to(tmp_path: Path) -> None:
    path = tmp_path / "x.entries"
    path.write_bytes(entries_bytes(some_entries()))
    with pytest.raises(ValueError, match="read-only"):
        map_entries(path, 4).labels[0] = 1


def test_more_entries_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.entries"
    path.write_bytes(entries_bytes(some_entries()))
    with pytest.raises(ValueError, match="1000000000000 entries"):
        map_entries(path, 10**12)


def test_joined_entries_are_those_of_the_whole() -> None:
    whole, rows = some_entries(), some_rows()
    parts = [entries_of(rows[:1]), entries_of(rows[1:])]
    for name, column in joined(parts)._asdict().items():
        np.testing.assert_array_equal(getattr(whole, name), column)


@pytest.mark.parametrize("change", ["data", "index", "label", "height", "width"])
def test_checksum_covers_record_index_label_and_size(change: str) -> None:
    facts = {"data": b"bytes", "index": 7, "label": 3, "height": 20, "width": 30}
    other = {**facts, change: b"bytez" if change == "data" else 8}
    assert record_checksum(**facts) != record_checksum(**other)  # type: ignore[arg-type]
