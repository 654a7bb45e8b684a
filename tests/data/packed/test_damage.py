"""Any changed byte of any file is found: by verifying, and by reading where reading depends on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.packed.index import PackSettings
from shufflenet_fn.data.packed.verify import Damage, verify
from shufflenet_fn.data.packed.write import pack
from shufflenet_fn_backends.support.errors import UsageError, UserError

MUTATIONS = 150


def damage_of(folder: Path) -> tuple[Damage, ...] | UserError:
    try:
        return verify(folder, workers=2).damage
    except UserError as error:
        return error


def all_data(folder: Path) -> list[tuple[str, int, bytes, object]]:
    """All that training takes from a packed set."""
    return [
        (split.split, int(split.labels[index]), bytes(sample.data), sample.shape)
        for split in open_train_val(folder)
        for index in range(len(split))
        for sample in [split.read(index)]
    ]


@pytest.mark.parametrize("kind", ["packed.json", "entries", "tar"])
def test_seeded_mutations_are_all_found(packed: Path, kind: str) -> None:
    rng = np.random.default_rng(list(kind.encode()))
    paths = sorted(path for path in packed.iterdir() if path.name.endswith(kind))
    right = all_data(packed)
    found_by_reading = 0
    for _ in range(MUTATIONS):
        path = paths[rng.integers(len(paths))]
        data = path.read_bytes()
        path.write_bytes(mutated(data, rng))
        try:
            assert damage_of(packed) != (), path
            try:
                assert all_data(packed) == right
            except UserError:
                found_by_reading += 1
        finally:
            path.write_bytes(data)
    assert damage_of(packed) == ()
    assert found_by_reading > MUTATIONS // 10


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A flipped bit three times in four; else cut, or a stretch of zeros, or doubled."""
    place = int(rng.integers(len(data)))
    way = rng.integers(12)
    if way < 9:
        return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
    if way == 9:
        return data[:place]
    if way == 10 and any(data[place : place + 64]):
        return data[:place] + bytes(len(data[place : place + 64])) + data[place + 64 :]
    return data[:place] + data[place:] + data[place:]


def test_an_intact_set(packed_once: Path) -> None:
    result = verify(packed_once, workers=2)
    assert result.damage == ()
    assert result.images == 34
    assert result.files == len(list(packed_once.iterdir())) - 1  # the lock
    size = sum(path.stat().st_size for path in packed_once.iterdir())
    assert result.bytes == size - (packed_once / "packed.json").stat().st_size


def test_a_damaged_record_is_named(packed: Path) -> None:
    shard = packed / "train-00000.tar"
    data = bytearray(shard.read_bytes())
    record = bytes(open_train_val(packed)[0].read(1).data)
    data[data.index(record[-100:]) + 50] ^= 16
    shard.write_bytes(data)
    whole, one = verify(packed, workers=1).damage
    assert (whole.file, whole.record) == (shard.name, None)
    assert "SHA-256" in whole.reason
    assert (one.file, one.record, one.original) == (shard.name, 1, "train/ant/1.jpg")


def test_a_damaged_entry_names_the_image(packed: Path) -> None:
    path = packed / "val.entries"
    data = bytearray(path.read_bytes())
    data[8] ^= 1  # the label of the second image
    path.write_bytes(data)
    whole, one = verify(packed, workers=1).damage
    assert (whole.file, whole.record) == ("val.entries", None)
    assert one.original == "val/ant/1.jpg"


@pytest.mark.parametrize("place", [0, 148, 511, -1])  # of the first header, and of the end
def test_damage_outside_of_the_images_is_told_apart(packed: Path, place: int) -> None:
    shard = packed / "train-00000.tar"
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
    (damage,) = verify(packed, workers=1).damage
    assert damage.reason.endswith("; all its records are intact")


def test_missing_cut_and_strange_files_are_named(packed: Path) -> None:
    (packed / "train-00000.tar").unlink()
    shard = packed / "val-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    (packed / "train-00077.tar").write_bytes(b"?")
    (packed / "README").write_text("a note of the user's is none of our business")
    found = {damage.file: damage.reason for damage in verify(packed, workers=2).damage}
    assert found.keys() == {"train-00000.tar", shard.name, "train-00077.tar"}
    assert found["train-00000.tar"] == "it is missing"
    assert "not list" in found["train-00077.tar"]
    strays = [damage.file for damage in verify(packed, workers=2).damage if damage.stray]
    assert strays == ["train-00077.tar"]


def test_without_entries_the_shards_are_still_verified(packed: Path) -> None:
    (packed / "train.entries").unlink()
    shard = packed / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[::-1])
    found = {damage.file for damage in verify(packed, workers=2).damage}
    assert found == {"train.entries", shard.name}


def test_a_shard_of_another_set_is_found(photo_root: Path, packed: Path, tmp_path: Path) -> None:
    pack(photo_root, tmp_path / "other", PackSettings("raw", 8, None, 1000), workers=1)
    other = tmp_path / "other" / "train-00000.tar"
    other.replace(packed / "train-00000.tar")
    assert verify(packed, workers=1).damage[0].file == "train-00000.tar"


def test_what_is_not_packed_cannot_be_verified(photo_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not packed"):
        verify(photo_root, workers=1)
    with pytest.raises(UsageError, match="is not a folder"):
        verify(tmp_path / "nowhere", workers=1)
    with pytest.raises(UsageError, match="--workers"):
        verify(tmp_path, workers=0)
