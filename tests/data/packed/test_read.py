from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shufflenet_fn.data.dataset import Dataset, Encoded
from shufflenet_fn.data.loader import eval_loader, train_loader
from shufflenet_fn.data.native.reader import NativeReader, functions
from shufflenet_fn.data.opening import open_split, open_train_val
from shufflenet_fn.data.packed.entries import Entries, Row, entries_bytes, entries_of, joined, map_entries
from shufflenet_fn.data.packed.index import (
    INDEX_NAME,
    FileFacts,
    PackedIndex,
    PackSettings,
    SplitIndex,
    index_fields,
    write_sealed,
)
from shufflenet_fn.data.packed.read import PackedSplit, open_packed
from shufflenet_fn.data.packed.verify import verify
from shufflenet_fn.data.packed.write import pack
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn_backends.support.errors import UsageError, UserError


def all_samples(split: Dataset) -> list[Encoded]:
    return [split.read(index) for index in range(len(split))]


@pytest.fixture
def train(packed_once: Path) -> PackedSplit:
    return open_packed(packed_once, "train")


@pytest.mark.parametrize("stored", [PackSettings(short_side=0), PackSettings("raw", 0, None)])
def test_packed_batches_equal_those_of_the_folder(
    photo_root: Path, tmp_path: Path, stored: PackSettings
) -> None:
    pack(photo_root, tmp_path / "x", stored, workers=2)
    batches = []
    for train, val in (open_train_val(photo_root), open_train_val(tmp_path / "x")):
        with (
            train_loader(
                train, TrainTransform(size=32), seed=5, global_batch=8, stop_step=5, threads=2
            ) as steps,
            eval_loader(val, EvalTransform(size=32), batch_size=4, threads=2) as scored,
        ):
            batches.append(
                [
                    (batch.images.clone(), batch.labels.clone(), batch.indices.clone())
                    for loader in (steps, scored)
                    for batch in loader
                ]
            )
    assert len(batches[0]) == len(batches[1]) == 8
    for of_folder, of_shards in zip(*batches, strict=True):
        assert all(map(torch.equal, of_folder, of_shards))


def test_pickled_it_is_opened_again(train: PackedSplit) -> None:
    known = [*reversed(train.classes), "zebra"]
    for split in (train, open_packed(train.root, "train", known)):
        again = pickle.loads(pickle.dumps(split))
        assert len(pickle.dumps(split)) < 2000
        assert all_samples(again) == all_samples(split)
        np.testing.assert_array_equal(again.labels, split.labels)
        assert again.classes == split.classes


def test_labels_follow_the_classes_asked_for(packed_once: Path, photo_root: Path) -> None:
    known = ("zebra", "cat", "bee", "ant")
    for name in ("train", "val"):
        packed, folder = (open_split(root, name, known) for root in (packed_once, photo_root))
        assert packed.classes == known
        np.testing.assert_array_equal(packed.labels, folder.labels)
        assert not packed.labels.flags.writeable
        packed.read(0)


def test_unknown_classes_and_splits_are_refused(packed_once: Path) -> None:
    with pytest.raises(UsageError, match=r"1 classes .* lack: bee"):
        open_split(packed_once, "train", ("ant", "cat"))
    # val has no bees
    assert len(open_split(packed_once, "val", ("ant", "cat"))) == 11
    with pytest.raises(UsageError, match="no split 'test'; it has train and val"):
        open_split(packed_once, "test")


def test_swapped_records_are_found(photo_root: Path, tmp_path: Path) -> None:
    """Two shards of equal size that change places are right by themselves."""
    settings = PackSettings("raw", 1, None, shard_bytes=1)
    pack(photo_root, tmp_path, settings, workers=1)
    shards = [tmp_path / f"train-{number:05d}.tar" for number in (3, 7)]
    assert shards[0].stat().st_size == shards[1].stat().st_size
    contents = [shard.read_bytes() for shard in shards]
    for shard, content in zip(shards, reversed(contents), strict=True):
        shard.write_bytes(content)
    train = open_packed(tmp_path, "train")
    train.read(2)
    for index in (3, 7):
        with pytest.raises(UserError, match=r"record 0 \(train/.*\) is not what was packed"):
            train.read(index)


@pytest.mark.parametrize("column", ["labels", "offsets", "sizes", "checksums", "heights", "widths"])
def test_changed_entry_is_found_on_reading_and_verifying(packed: Path, column: str) -> None:
    path = packed / "train.entries"
    whole = path.read_bytes()
    values = getattr(map_entries(path, 23), column)
    start = whole.index(values.tobytes()) + values.itemsize  # of the second image
    for bit in (0, 20, 8 * values.itemsize - 1):
        data = bytearray(whole)
        data[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"train-00000\.tar record 1 \(train/ant/1\.jpg\)"):
            open_packed(packed, "train").read(1)
        entries, image = verify(packed, workers=1).damage
        assert entries.file == "train.entries"
        assert "SHA-256" in entries.reason
        assert (image.record, image.original) == (1, "train/ant/1.jpg")
        assert image.reason in ("its checksum differs", "it lies beyond the end of its shard")


def test_damaged_record_is_named_on_reading_and_verifying(packed: Path) -> None:
    shard = packed / "train-00000.tar"
    data = bytearray(shard.read_bytes())
    record = bytes(open_packed(packed, "train").read(1).data)
    data[data.index(record[-100:]) + 50] ^= 16
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"train-00000\.tar record 1 \(train/ant/1\.jpg\).*`data verify`"):
        open_packed(packed, "train").read(1)
    whole, one = verify(packed, workers=1).damage
    assert (whole.file, whole.record) == (shard.name, None)
    assert "SHA-256" in whole.reason
    assert (one.file, one.record, one.original) == (shard.name, 1, "train/ant/1.jpg")


@pytest.mark.parametrize("name", ["train-00001.tar", "train.entries"])
@pytest.mark.parametrize("how", ["missing", "cut", "longer"])
def test_opening_finds_missing_and_resized_files(packed: Path, name: str, how: str) -> None:
    path = packed / name
    if how == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size + (1 if how == "longer" else -1))
    with pytest.raises(UserError, match=rf"{name} is not the file that .* lists: it .*`data verify`"):
        open_packed(packed, "train")


def test_a_set_may_be_moved(packed: Path, tmp_path: Path) -> None:
    expected = all_samples(open_packed(packed, "train"))
    moved = shutil.move(packed, tmp_path / "elsewhere")
    assert all_samples(open_packed(moved, "train")) == expected


def test_shard_cut_during_reading_is_named(packed: Path) -> None:
    train = open_packed(packed, "train")
    train.read(0)
    os.truncate(packed / "train-00000.tar", 1000)
    with pytest.raises(UserError, match=r"record 1 \(.*: it lies beyond the end of its shard"):
        train.read(1)


NAMES = ["a/1.jpg", "b/zwei words.jpg", "c/ünï.jpg", os.fsdecode(b"d/\xff.jpg")]
ROWS = [Row(label, 64 + i, i, 2**32 - 1 - i, 3, 4, NAMES[i]) for i, label in enumerate([0, 1, 2, 2])]


def test_entries_come_back_from_their_file(tmp_path: Path) -> None:
    path, entries = tmp_path / "x.entries", entries_of(ROWS)
    path.write_bytes(entries_bytes(entries))
    mapped, parts = map_entries(path, 4), joined([entries_of(ROWS[:1]), entries_of(ROWS[1:])])
    for name, column in entries._asdict().items():
        np.testing.assert_array_equal(getattr(mapped, name), column)
        np.testing.assert_array_equal(getattr(parts, name), column)
    assert [mapped.name(index) for index in range(4)] == [*NAMES[:3], "d/\\xff.jpg"]
    with pytest.raises(ValueError, match="read-only"):
        mapped.labels[0] = 1
    with pytest.raises(ValueError, match="1000000000000 entries"):
        map_entries(path, 10**12)


# ---- the native reader ----


TRANSFORM = TrainTransform(24, jitter=0.0)


@pytest.fixture
def reader() -> NativeReader:
    return NativeReader(functions())


def read(reader: NativeReader, split: PackedSplit) -> tuple[Any, Any]:
    """All samples and which of them were done."""
    indices = np.arange(len(split))
    out = np.zeros((len(split), 24, 24, 3), dtype=np.uint8)
    with split.located(indices) as stored:
        done = reader.train(stored, TRANSFORM, seed=1, epoch=2, indices=indices, repeats=indices * 0, out=out)
    return out, done


def test_native_reader_reads_every_record_alike(reader: NativeReader, train: PackedSplit) -> None:
    split = train
    assert len(split.shard_paths()) > 1
    assert read(reader, split)[1].all()

    def batches(native: NativeReader | None) -> list[torch.Tensor]:
        transform = TrainTransform(24, jitter=0.3)
        with train_loader(split, transform, seed=1, global_batch=4, stop_step=9, native=native) as loader:
            images = [batch.images.clone() for batch in loader]
        with eval_loader(split, EvalTransform(32, 24), batch_size=5, native=native) as loader:
            return images + [batch.images.clone() for batch in loader]

    assert all(map(torch.equal, batches(reader), batches(None)))


def test_native_reader_leaves_damage_to_others(reader: NativeReader, packed: Path) -> None:
    split = open_packed(packed, "train")
    whole, _ = read(reader, split)
    for index in range(len(split)):
        path = Path(split.name(index).split(" record ")[0])
        content = path.read_bytes()
        middle = int(split.entries.offsets[index] + split.entries.sizes[index] // 2)
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        found, done = read(reader, split)
        assert np.flatnonzero(~done).tolist() == [index]
        np.testing.assert_array_equal(np.delete(found, index, 0), np.delete(whole, index, 0))
        path.write_bytes(content)
    path.write_bytes(content[:middle])
    with pytest.raises(UserError, match="beyond the end of its shard"):
        list(train_loader(split, TRANSFORM, seed=1, global_batch=12, stop_step=2, native=reader))


def test_native_reader_refuses_wrong_positions(
    reader: NativeReader, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_packed(packed, "train")
    entries = split.entries
    for column, value in product(("offsets", "sizes"), (0, 2**63 + 5, 2**64 - 1, 2**40)):
        columns = getattr(entries, column).copy()
        columns[3] = value
        monkeypatch.setattr(split, "entries", entries._replace(**{column: columns}))
        _, done = read(reader, split)
        assert np.flatnonzero(~done).tolist() == [3], (column, value)


# ---- a million images cost no more memory than a hundred: their entries stay in the page cache ----


SHARDS = 200

OPEN = """
import sys
import numpy as np
from shufflenet_fn.data.opening import open_train_val

def own_kib():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["RssAnon"].split()[0])

before = own_kib()
train, val = open_train_val(sys.argv[1])
rows = np.random.default_rng(0).integers(0, len(train), 256)
labels = [int(train.labels[rows].sum()) for _ in range(100)]
names = [train.name(int(row)) for row in rows]
print(own_kib() - before, names[0])
"""


def write_index_of(folder: Path, images: int) -> None:
    """A packed set of that many images as far as opening looks: shards of the right size, empty."""
    entries = Entries(
        labels=np.arange(images, dtype="<i8") * 1000 // images,
        name_ends=np.arange(1, images + 1, dtype="<u8") * 27,
        offsets=np.zeros(images, dtype="<u8"),
        sizes=np.zeros(images, dtype="<u8"),
        checksums=np.zeros(images, dtype="<u4"),
        heights=np.full(images, 256, dtype="<u4"),
        widths=np.full(images, 341, dtype="<u4"),
        names=np.frombuffer(b"class_0000/image_000000.jpg" * images, dtype=np.uint8),
    )
    data = entries_bytes(entries)
    splits = {}
    for split in ("train", "val"):
        (folder / f"{split}.entries").write_bytes(data)
        names = [f"{split}-{number:05d}.tar" for number in range(SHARDS)]
        for name in names:
            with open(folder / name, "wb") as file:
                file.truncate(1 << 16)  # sparse
        shards = tuple(FileFacts(name, 1 << 16, images // SHARDS, "0" * 64) for name in names)
        own = FileFacts(f"{split}.entries", len(data), images, "0" * 64)
        splits[split] = SplitIndex(own, shards, 0, ())
    classes = tuple(f"class_{number:04d}" for number in range(1000))
    index = PackedIndex(PackSettings(), classes, splits, {"train": "", "val": ""}, {})
    write_sealed(folder / INDEX_NAME, index_fields(index))


@pytest.mark.parametrize("images", [SHARDS, 1_000_000])
def test_opening_costs_the_same_for_a_million_images(tmp_path: Path, images: int) -> None:
    write_index_of(tmp_path, images)
    command = [sys.executable, "-c", OPEN, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown_kib, name = done.stdout.split(maxsplit=1)
    assert "class_0000/image_000000.jpg" in name
    assert int(grown_kib) < 3000  # the labels of a million alone would be 7,800
