"""What a reader of its own gets from a packed split: places, seeds of checksums, open files."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shufflenet_fn.data.packed import shards
from shufflenet_fn.data.packed.descriptors import ShardDescriptors
from shufflenet_fn.data.packed.entries import map_entries, record_checksum
from shufflenet_fn.data.packed.format import PackSettings
from shufflenet_fn.data.packed.locating import located
from shufflenet_fn.data.packed.positions import read_at
from shufflenet_fn.data.packed.read import PackedSplit, open_packed
from shufflenet_fn.data.packed.seeds import checksum_seeds
from shufflenet_fn.data.packed.shards import ShardError, ShardWriter
from shufflenet_fn.data.packed.verify import verify
from shufflenet_fn.data.packed.write import pack
from shufflenet_fn_backends.support.errors import UserError


@pytest.fixture
def train(packed_once: Path) -> PackedSplit:
    return open_packed(packed_once, "train")


def shards_of(train: PackedSplit) -> npt.NDArray[np.int64]:
    return np.arange(len(train.shard_paths()))


def read_directly(
    train: PackedSplit, descriptors: ShardDescriptors, indices: npt.NDArray[np.int64]
) -> list[bytes]:
    """The records of these samples, by position, each with the right checksum."""
    places = train.place(indices)
    with descriptors.of(places.shards) as opened:
        records = [
            read_at(descriptor, offset, size)
            for descriptor, offset, size in zip(
                opened.tolist(), places.offsets.tolist(), places.sizes.tolist(), strict=True
            )
        ]
    checksums = [
        zlib.crc32(record, seed)
        for record, seed in zip(records, places.seeds.tolist(), strict=True)
    ]
    assert checksums == places.checksums.tolist()
    return records


def test_records_at_their_places_are_those_that_are_read(train: PackedSplit) -> None:
    assert train.files.located == len(train)
    indices = np.random.default_rng(0).permutation(len(train)).repeat(2)
    descriptors = ShardDescriptors(train.shard_paths())
    records = read_directly(train, descriptors, indices)
    assert records == [train.read(index).data for index in indices.tolist()]
    places = train.place(indices)
    np.testing.assert_array_equal(places.heights, train.entries.heights[indices])
    np.testing.assert_array_equal(places.widths, train.entries.widths[indices])
    kinds = ["int64", "uint64", "uint64", "uint32", "uint32", "uint32", "uint32"]
    assert [str(column.dtype) for column in places] == kinds


def test_places_do_not_depend_on_the_classes_asked_for(train: PackedSplit) -> None:
    other = open_packed(train.root, "train", [*reversed(train.classes), "zebra"])
    indices = np.arange(len(train))
    for ours, theirs in zip(train.place(indices), other.place(indices), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_places_of_no_samples(train: PackedSplit) -> None:
    assert [len(column) for column in train.place(np.zeros(0, dtype=np.int64))] == [0] * 7


@pytest.mark.parametrize("index", [-1, 23])
def test_a_place_out_of_range(train: PackedSplit, index: int) -> None:
    with pytest.raises(IndexError, match=f"sample {index} of 23"):
        train.place(np.array([0, index]))


any_facts = st.tuples(
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)


@given(facts=st.lists(any_facts, max_size=20))
def test_a_checksum_goes_on_from_its_seed(facts: list[tuple[int, int, int, int]]) -> None:
    kinds = (np.int64, np.int64, np.uint32, np.uint32)
    columns = [
        np.array([row[place] for row in facts], dtype=kind) for place, kind in enumerate(kinds)
    ]
    seeds = checksum_seeds(*columns)
    assert seeds.dtype == np.uint32
    assert [zlib.crc32(b"data", seed) for seed in seeds.tolist()] == [
        record_checksum(b"data", *row) for row in facts
    ]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_first_files_stay_open_and_the_others_do_not(train: PackedSplit) -> None:
    everything = shards_of(train)
    assert len(everything) > 2
    gc.collect()
    before = open_files()
    descriptors = ShardDescriptors(train.shard_paths(), max_open=2)
    with descriptors.of(everything[:1]):
        pass
    for _ in range(3):
        with descriptors.of(everything.repeat(2)) as opened:
            assert open_files() == before + len(everything)
            assert opened.dtype == np.int32
            found = [os.fstat(descriptor).st_ino for descriptor in opened.tolist()]
            assert found == [path.stat().st_ino for path in train.shard_paths() for _ in range(2)]
        assert open_files() == before + 2
    del descriptors
    assert open_files() == before


@pytest.mark.parametrize("max_open", [0, 2, None])
def test_many_threads_read_by_position(train: PackedSplit, max_open: int | None) -> None:
    expected = [train.read(index).data for index in range(len(train))]
    descriptors = ShardDescriptors(train.shard_paths(), max_open=max_open)
    batches = np.random.default_rng(0).integers(0, len(train), (60, 8))
    before = open_files()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: read_directly(train, descriptors, batch), batches))
    assert found == [[expected[index] for index in batch] for batch in batches.tolist()]
    kept = len(train.shard_paths()) if max_open is None else max_open
    assert open_files() <= before + (kept + 8 if kept else 0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("max_open", [0, 1, 99])
def test_a_forked_process_reads_on_and_leaves_the_files_of_its_parent(
    train: PackedSplit, max_open: int
) -> None:
    everything = np.arange(len(train))
    descriptors = ShardDescriptors(train.shard_paths(), max_open=max_open)
    expected = read_directly(train, descriptors, everything)
    process = os.fork()
    if process == 0:
        same = read_directly(train, descriptors, everything) == expected
        del descriptors
        os._exit(0 if same else 1)
    timer = threading.Timer(30, os.kill, (process, 9))
    timer.start()
    assert os.waitpid(process, 0)[1] == 0
    timer.cancel()
    assert read_directly(train, descriptors, everything) == expected


def test_pickled_descriptors_are_opened_again(train: PackedSplit) -> None:
    descriptors = ShardDescriptors(train.shard_paths(), max_open=1)
    everything = np.arange(len(train))
    expected = read_directly(train, descriptors, everything)
    again = pickle.loads(pickle.dumps(descriptors))
    del descriptors
    assert read_directly(train, again, everything) == expected


def test_a_shard_that_cannot_be_opened_is_named_and_the_others_are_closed(packed: Path) -> None:
    train = open_packed(packed, "train")
    (packed / "train-00001.array_record").unlink()
    descriptors = ShardDescriptors(train.shard_paths(), max_open=0)
    before = open_files()
    with (
        pytest.raises(UserError, match=r"train-00001\.array_record.*No such file.*`data verify`"),
        descriptors.of(shards_of(train)),
    ):
        pass
    assert open_files() == before


def test_too_many_open_files_are_not_called_damage(train: PackedSplit) -> None:
    descriptors = ShardDescriptors(train.shard_paths())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The limit is one of numbers, and a new file takes the lowest that is free: there may be gaps above.
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, before[1]))
    try:
        with (
            pytest.raises(UserError, match=r"Too many open files\. Raise .*`ulimit -n`"),
            descriptors.of(shards_of(train)),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("column", ["offsets", "sizes"])
def test_a_wrong_place_is_found_by_verifying_and_names_the_image(packed: Path, column: str) -> None:
    path = packed / "train.entries"
    start = path.read_bytes().index(getattr(map_entries(path, 23), column).tobytes())
    for bit in (0, 20, 63):
        data = bytearray(path.read_bytes())
        data[start + 8 + bit // 8] ^= 1 << bit % 8
        whole = path.read_bytes()
        path.write_bytes(data)
        damage = verify(packed, workers=1).damage
        assert damage[0].file == "train.entries"
        assert "SHA-256" in damage[0].reason
        ((record, original, reason),) = [(d.record, d.original, d.reason) for d in damage[1:]]
        assert (record, original) == (1, "train/ant/1.jpg")
        assert reason == "it is not where the entries say"
        path.write_bytes(whole)


def test_files_that_are_laid_out_otherwise_are_packed_without_places(
    photo_root: Path,
    packed_once: Path,
    settings: PackSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "WRITER_OPTIONS", "group_size:1,zstd:1")
    packed = pack(photo_root, tmp_path / "x", settings, workers=1)
    assert [split.located for split in packed.index.splits.values()] == [0, 0]
    assert verify(tmp_path / "x", workers=1).damage == ()
    other, train = (open_packed(root, "train") for root in (tmp_path / "x", packed_once))
    assert not other.place(np.arange(len(other))).offsets.any()
    assert [other.read(index) for index in range(len(other))] == [
        train.read(index) for index in range(len(train))
    ]


def test_a_record_that_does_not_read_as_it_was_written_is_an_error(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "x")
    records = [b"first", b"second", b"third"]
    for record in records:
        writer.write(record)
    writer.close()
    found = located(tmp_path / "x", 3, lambda number, data: data == records[number])
    assert found.sizes.tolist() == [5, 6, 5]
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data.replace(b"second", b"sec\0nd"))
    with pytest.raises(ShardError):
        located(tmp_path / "x", 3, lambda number, data: data == records[number])
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ShardError, match="record 1 of x does not read as it was written"):
        located(tmp_path / "x", 3, lambda number, data: number != 1)
