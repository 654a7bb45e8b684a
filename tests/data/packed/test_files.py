"""Shards: what other programs read in them, and the files that stay open."""

from __future__ import annotations

import gc
import io
import os
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
from PIL import Image

from shufflenet_fn.data.packed.files import ShardFiles, most_open
from shufflenet_fn.data.packed.read import PackedSplit, open_packed
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
        sample, image = train.read(index), Image.open(io.BytesIO(data))
        assert image.size == (train.entries.widths[index], train.entries.heights[index])
        if sample.shape is None:
            assert data == sample.data
        else:
            assert data == b"P6\n%d %d\n255\n" % sample.shape[::-1] + bytes(sample.data)
            assert np.asarray(image).tobytes() == sample.data


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


def read_directly(train: PackedSplit, files: ShardFiles, indices: npt.NDArray[np.int64]) -> list[bytes]:
    """The images of these samples, by position, each with the right checksum."""
    shards = np.searchsorted(train._ends, indices, side="right")
    records: list[bytes] = []
    with train.located(indices) as stored, files.of(shards) as opened:
        for descriptor, place in zip(opened.tolist(), stored, strict=True):
            records.append(os.pread(descriptor, int(place["size"]), int(place["offset"])))
            assert zlib.crc32(records[-1], int(place["seed"])) == place["checksum"]
    return records


def test_located_images_equal_those_read(train: PackedSplit) -> None:
    indices = np.random.default_rng(0).permutation(len(train)).repeat(2)
    records = read_directly(train, ShardFiles(train.shard_paths()), indices)
    assert records == [train.read(index).data for index in indices.tolist()]
    other = open_packed(train.root, "train", [*reversed(train.classes), "zebra"])
    with train.located(indices) as ours, other.located(indices) as theirs:
        shown = train.entries.heights[indices] if train.raw else np.zeros(len(indices))
        np.testing.assert_array_equal(ours["height"], shown)
        for name in ("offset", "size", "seed", "checksum"):
            np.testing.assert_array_equal(ours[name], theirs[name])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_only_the_first_files_stay_open(train: PackedSplit) -> None:
    everything = np.arange(len(train.shard_paths()))
    assert len(everything) > 2
    gc.collect()
    before = open_files()
    descriptors = ShardFiles(train.shard_paths(), max_open=2)
    with descriptors.of(everything[:1]):
        pass
    for _ in range(3):
        with descriptors.of(everything.repeat(2)) as opened:
            assert open_files() == before + len(everything)
            found = [os.fstat(descriptor).st_ino for descriptor in opened.tolist()]
            assert found == [path.stat().st_ino for path in train.shard_paths() for _ in range(2)]
        assert open_files() == before + 2
    del descriptors
    assert open_files() == before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("max_open", [0, 2, None])
def test_threads_and_a_forked_process_read_by_position(train: PackedSplit, max_open: int | None) -> None:
    expected = [train.read(index).data for index in range(len(train))]
    descriptors = ShardFiles(train.shard_paths(), max_open=max_open)
    batches = np.random.default_rng(0).integers(0, len(train), (60, 8))
    before = open_files()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: read_directly(train, descriptors, batch), batches))
        train._shard_files = descriptors
        read = [sample.data for sample in pool.map(train.read, batches.flatten().tolist())]
    assert found == [[expected[index] for index in batch] for batch in batches.tolist()]
    assert read == [record for batch in found for record in batch]
    kept = len(train.shard_paths()) if max_open is None else max_open
    assert open_files() <= before + (kept + 8 if kept else 0)
    everything = np.arange(len(train))
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


def test_missing_shard_is_named_and_others_closed(packed: Path) -> None:
    paths = open_packed(packed, "train").shard_paths()
    (packed / "train-00001.tar").unlink()
    descriptors, before = ShardFiles(paths, max_open=0), open_files()
    message = r"train-00001\.tar.*No such file.*`data verify`"
    with pytest.raises(UserError, match=message), descriptors.of(np.arange(len(paths))):
        pass
    assert open_files() == before


def test_too_many_open_files_are_not_called_damage(train: PackedSplit) -> None:
    descriptors = ShardFiles(train.shard_paths())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The limit is one of numbers, and a new file takes the lowest that is free: there may be gaps above.
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, before[1]))
    message = r"Too many open files\. Raise .*`ulimit -n`"
    try:
        with pytest.raises(UserError, match=message), descriptors.of(np.arange(len(train.shard_paths()))):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("soft", "kept"), [(1024, 341), (30, 32), (12_000, 4000)])
def test_files_kept_open_follow_what_the_process_may(soft: int, kept: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        assert most_open() == kept
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
