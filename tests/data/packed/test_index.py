"""``packed.json``: its fields, its hash, and what is refused; and ``data verify``."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drills.fuzz.mutations import mutate
from drills.fuzz.packed import PackedSet
from drills.fuzz.pictures import made_pictures
from shufflenet_fn.data.packed.index import (
    INDEX_NAME,
    KIND,
    PackSettings,
    index_fields,
    read_index,
    read_sealed,
    write_sealed,
)
from shufflenet_fn.data.packed.read import open_packed
from shufflenet_fn.data.packed.verify import verify
from shufflenet_fn_backends.support.errors import UsageError, UserError

Fields = dict[str, Any]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"format": "png"}, "png"),
        ({"short_side": -1}, "-1"),
        ({"quality": 0}, "0"),
        ({"quality": 101}, "101"),
        ({"quality": None}, "None"),
        ({"format": "raw", "quality": 90}, "--quality"),
    ],
)
def test_settings_out_of_range_are_named(wrong: Fields, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        PackSettings(**wrong)


def test_the_index_comes_back_from_its_fields(packed_once: Path) -> None:
    assert index_fields(read_index(packed_once)) == read_sealed(packed_once / INDEX_NAME)


def drop(key: str) -> Callable[[Fields], None]:
    return lambda fields: fields.pop(key)


def replace(key: str, value: object) -> Callable[[Fields], None]:
    return lambda fields: fields.update({key: value})


def in_train(key: str, value: object) -> Callable[[Fields], None]:
    return lambda fields: fields["splits"]["train"].update({key: value})


def in_entries(key: str, value: object) -> Callable[[Fields], None]:
    return lambda fields: fields["splits"]["train"]["entries"].update({key: value})


def in_shard(key: str, value: object) -> Callable[[Fields], None]:
    return lambda fields: fields["splits"]["train"]["shards"][0].update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        *(drop(key) for key in ("settings", "classes", "splits", "source", "provenance")),
        in_shard("name", "/etc/passwd"),
        in_shard("name", "train-00001.tar"),
        in_shard("images", "3"),
        in_shard("extra", 1),
        in_entries("name", "../train.entries"),
        in_entries("images", 10**12),
        in_train("shards", []),
        in_train("entries", []),
        lambda fields: fields.update(settings={"format": "exe"}),
        lambda fields: fields["splits"].pop("val"),
        *(replace(key, 5) for key in ("settings", "classes", "splits", "source", "provenance")),
    ],
)
def test_malformed_index_with_valid_hash_is_refused(packed: Path, change: Callable[[Fields], None]) -> None:
    fields = copy.deepcopy(read_sealed(packed / INDEX_NAME))
    change(fields)
    write_sealed(packed / INDEX_NAME, fields)
    with pytest.raises(UserError, match=r"packed\.json makes no sense"):
        open_packed(packed, "train")


def test_more_images_than_entries_are_refused(packed: Path) -> None:
    fields = read_sealed(packed / INDEX_NAME)
    train = fields["splits"]["train"]
    train["entries"]["images"] = train["shards"][0]["images"] = 10**12
    train["shards"] = train["shards"][:1]
    write_sealed(packed / INDEX_NAME, fields)
    with pytest.raises(UserError, match=r"train\.entries"):
        open_packed(packed, "train")


FIELDS = {"name": "ünï \udcff", "count": 3, "parts": [{"a": None}, {"b": 1}], "empty": []}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_sealed(tmp_path / "x.json", FIELDS)
    return tmp_path / "x.json"


def test_fields_come_back_from_json(path: Path) -> None:
    assert read_sealed(path) == FIELDS
    assert json.loads(path.read_text())["count"] == 3
    assert list(path.parent.iterdir()) == [path]
    (path.parent / "link.json").symlink_to(path)
    assert read_sealed(path.parent / "link.json") == FIELDS


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_and_every_cut_is_found(path: Path, bit: int) -> None:
    data = path.read_bytes()
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
        for changed in (flipped, data[:place]) if bit == 0 else (flipped,):
            path.write_bytes(changed)
            with pytest.raises(UserError):
                read_sealed(path)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ('"count": 3', '"count": 4', "damaged or was edited"),
        ('"count": 3', '"count": 3e999', "damaged or was edited"),
        ('"count": 3', '"count":  3', "damaged or was edited"),
        ('"version": 3', '"version": 4', r"version 4 .* reads version 3\. Read it with the version"),
    ],
)
def test_an_edit_is_found(path: Path, right: str, wrong: str, message: str) -> None:
    path.write_text(path.read_text().replace(right, wrong))
    with pytest.raises(UserError, match=message):
        read_sealed(path)


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_version_names_the_command(tmp_path: Path, version: int) -> None:
    old = {"settings": {"format": "raw"}, "provenance": {"source": "/data/my images"}}
    path = tmp_path / INDEX_NAME
    path.write_text(json.dumps({"kind": KIND, "version": version, **old}))
    with pytest.raises(UserError) as caught:
        read_sealed(path)
    command = f"shufflenet-fn data pack '/data/my images' {tmp_path} --overwrite"
    assert str(caught.value).endswith(f"Pack the images again, with the options that made it: `{command}`.")
    path.write_text(json.dumps({"kind": KIND, "version": version, "settings": []}))
    with pytest.raises(UserError, match="data pack SRC "):
        read_sealed(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, '{"kind": 1}', "\x80"])
def test_something_else_is_refused(path: Path, text: str) -> None:
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"x\.json"):
        read_sealed(path)


def test_too_large_file_is_not_read(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(UserError, match=r"bytes, more than 268,435,456\. Pack the data again"):
        read_sealed(path)


@pytest.mark.parametrize("kind", [".json", ".entries", ".tar"])
def test_seeded_mutations_are_all_found(tmp_path: Path, kind: str) -> None:
    """By verifying, and by reading where reading depends on it."""
    packed = PackedSet(tmp_path, made_pictures())
    paths = [path for path in packed.files if path.suffix == kind]
    rng = np.random.default_rng(list(kind.encode()))
    for _ in range(150):
        path = paths[rng.integers(len(paths))]
        _, damaged = mutate(packed.files[path], rng)
        if damaged != packed.files[path]:
            packed.check(path, damaged)


def test_an_intact_set(packed_once: Path) -> None:
    result = verify(packed_once, workers=2)
    assert result.damage == ()
    assert result.images == 34
    assert result.files == len(list(packed_once.iterdir())) - 1  # the lock
    size = sum(path.stat().st_size for path in packed_once.iterdir())
    assert result.bytes == size - (packed_once / "packed.json").stat().st_size


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
    found = {damage.file: damage for damage in verify(packed, workers=2).damage}
    assert found.keys() == {"train-00000.tar", shard.name, "train-00077.tar"}
    assert found["train-00000.tar"].reason == "it is missing"
    assert "not list" in found["train-00077.tar"].reason
    assert [name for name, damage in found.items() if damage.stray] == ["train-00077.tar"]


def test_without_entries_the_shards_are_still_verified(packed: Path) -> None:
    (packed / "train.entries").unlink()
    shard = packed / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[::-1])
    found = {damage.file for damage in verify(packed, workers=2).damage}
    assert found == {"train.entries", shard.name}


def test_what_is_not_packed_cannot_be_verified(photo_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not packed"):
        verify(photo_root, workers=1)
    with pytest.raises(UsageError, match="is not a folder"):
        verify(tmp_path / "nowhere", workers=1)
