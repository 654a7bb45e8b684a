"""Shards: what other programs read in them, and the files that stay open."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import subprocess
import tarfile
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shufflenet_fn.data.packed.entries import checksum_seeds, map_entries, record_checksum
from shufflenet_fn.data.packed.files import ShardFiles
from shufflenet_fn.data.packed.read import PackedSplit, open_packed
from shufflenet_fn.data.packed.verify import verify
from shufflenet_fn_backends.support.errors import UserError


@pytest.fixture
def train(packed_once: Path) -> PackedSplit:
    return open_packed(packed_once, "train")


def test_tarfile_reads_images_and_labels(train: PackedSplit) -> None:
    found: list[tuple[str, bytes]] = []
    for path in train.shard_paths():
        with tarfile.open(path) as shard:
            for member in shard:
                file = shard.extractfile(member)
                assert file is not None
                found.append((member.name, file.read()))
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
    kind = "ppm" if train.raw else "jpg"
    assert [name for name, _ in found] == [
        f"{index:09d}.{end}" for index in range(len(train)) for end in (kind, "cls")
    ]
    assert [int(data) for _, data in found[1::2]] == train.labels.tolist()
    for index, (_, data) in enumerate(found[0::2]):
        sample = train.read(index)
        assert data.endswith(sample.data)
        assert train.raw or data == sample.data
        if sample.shape is not None:
            assert data.startswith(b"P6\n%d %d\n255\n" % sample.shape[::-1])


def test_images_in_shards_are_files_that_pillow_opens(train: PackedSplit) -> None:
    with tarfile.open(train.shard_paths()[0]) as shard:
        file = shard.extractfile(shard.getmembers()[0])
        assert file is not None
        image = Image.open(file)
        assert image.size == (train.entries.widths[0], train.entries.heights[0])
        if train.raw:
            assert np.asarray(image).tobytes() == train.read(0).data


def test_tar_lists_a_shard(train: PackedSplit) -> None:
    done = subprocess.run(["tar", "tf", train.shard_paths()[0]], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "000000000.cls"
    assert done.stderr == ""


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it leaves files to the collector
def test_webdataset_decodes_images_and_labels(train: PackedSplit) -> None:
    webdataset = pytest.importorskip("webdataset")
    kind = "ppm" if train.raw else "jpg"
    paths = [str(path) for path in train.shard_paths()]
    samples = webdataset.WebDataset(paths, shardshuffle=False).decode("pil").to_tuple(kind, "cls")
    found = [(image.size, label) for image, label in samples]
    sizes = zip(train.entries.widths.tolist(), train.entries.heights.tolist(), strict=True)
    assert found == list(zip(sizes, train.labels.tolist(), strict=True))
    del samples
    gc.collect()


def shards_of(train: PackedSplit) -> npt.NDArray[np.int64]:
    return np.arange(len(train.shard_paths()))


def read_directly(train: PackedSplit, files: ShardFiles, indices: npt.NDArray[np.int64]) -> list[bytes]:
    """The images of these samples, by position, each with the right checksum."""
    shards = np.searchsorted(train._ends, indices, side="right")
    with train.located(indices) as stored, files.of(shards) as opened:
        records = [
            os.pread(descriptor, size, offset)
            for descriptor, size, offset in zip(
                opened.tolist(), stored["size"].tolist(), stored["offset"].tolist(), strict=True
            )
        ]
        checksums = [
            zlib.crc32(record, seed) for record, seed in zip(records, stored["seed"].tolist(), strict=True)
        ]
        assert checksums == stored["checksum"].tolist()
    return records


def test_located_images_equal_those_read(train: PackedSplit) -> None:
    indices = np.random.default_rng(0).permutation(len(train)).repeat(2)
    records = read_directly(train, ShardFiles(train.shard_paths()), indices)
    assert records == [train.read(index).data for index in indices.tolist()]
    with train.located(indices) as stored:
        shown = train.entries.heights[indices] if train.raw else np.zeros(len(indices))
        np.testing.assert_array_equal(stored["height"], shown)


def test_places_do_not_depend_on_classes(train: PackedSplit) -> None:
    other = open_packed(train.root, "train", [*reversed(train.classes), "zebra"])
    indices = np.arange(len(train))
    with train.located(indices) as ours, other.located(indices) as theirs:
        for name in ("offset", "size", "seed", "checksum"):
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_no_places_of_no_samples(train: PackedSplit) -> None:
    with train.located(np.zeros(0, dtype=np.int64)) as stored:
        assert len(stored) == 0


@pytest.mark.parametrize("index", [-1, 23])
def test_a_place_out_of_range(train: PackedSplit, index: int) -> None:
    with pytest.raises(IndexError, match=f"sample {index} of 23"), train.located(np.array([0, index])):
        pass


any_facts = st.tuples(
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)


@given(facts=st.lists(any_facts, max_size=20))
def test_a_checksum_goes_on_from_its_seed(facts: list[tuple[int, int, int, int]]) -> None:
    kinds = (np.int64, np.int64, np.uint32, np.uint32)
    columns = [np.array([row[place] for row in facts], dtype=kind) for place, kind in enumerate(kinds)]
    seeds = checksum_seeds(*columns)
    assert seeds.dtype == np.uint32
    assert [zlib.crc32(b"data", seed) for seed in seeds.tolist()] == [
        record_checksum(b"data", *row) for row in facts
    ]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_only_the_first_files_stay_open(train: PackedSplit) -> None:
    everything = shards_of(train)
    assert len(everything) > 2
    gc.collect()
    before = open_files()
    descriptors = ShardFiles(train.shard_paths(), max_open=2)
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
    descriptors = ShardFiles(train.shard_paths(), max_open=max_open)
    batches = np.random.default_rng(0).integers(0, len(train), (60, 8))
    before = open_files()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: read_directly(train, descriptors, batch), batches))
    assert found == [[expected[index] for index in batch] for batch in batches.tolist()]
    kept = len(train.shard_paths()) if max_open is None else max_open
    assert open_files() <= before + (kept + 8 if kept else 0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("max_open", [0, 1, 99])
def test_forked_process_reads_with_its_parents_files(train: PackedSplit, max_open: int) -> None:
    everything = np.arange(len(train))
    descriptors = ShardFiles(train.shard_paths(), max_open=max_open)
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
    descriptors = ShardFiles(train.shard_paths(), max_open=1)
    everything = np.arange(len(train))
    expected = read_directly(train, descriptors, everything)
    again = pickle.loads(pickle.dumps(descriptors))
    del descriptors
    assert read_directly(train, again, everything) == expected


def test_missing_shard_is_named_and_others_closed(packed: Path) -> None:
    train = open_packed(packed, "train")
    (packed / "train-00001.tar").unlink()
    descriptors = ShardFiles(train.shard_paths(), max_open=0)
    before = open_files()
    with (
        pytest.raises(UserError, match=r"train-00001\.tar.*No such file.*`data verify`"),
        descriptors.of(shards_of(train)),
    ):
        pass
    assert open_files() == before


def test_too_many_open_files_are_not_called_damage(train: PackedSplit) -> None:
    descriptors = ShardFiles(train.shard_paths())
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
def test_verify_names_images_with_wrong_places(packed: Path, column: str) -> None:
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
        assert reason in ("its checksum differs", "it lies beyond the end of its shard")
        path.write_bytes(whole)
