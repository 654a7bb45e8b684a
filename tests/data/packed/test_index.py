"""``packed.json``: its fields, its hash, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
        ({"shard_bytes": 0}, "--shard-size"),
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


def test_fields_come_back(path: Path) -> None:
    assert read_sealed(path) == FIELDS
    assert list(path.parent.iterdir()) == [path]


def test_it_is_json(path: Path) -> None:
    assert json.loads(path.read_text())["count"] == 3


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_found(path: Path, bit: int) -> None:
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        with pytest.raises(UserError):
            read_sealed(path)


def test_every_cut_is_found(path: Path) -> None:
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            read_sealed(path)


def test_an_edit_is_found(path: Path) -> None:
    path.write_text(path.read_text().replace('"count": 3', '"count": 4'))
    with pytest.raises(UserError, match="damaged or was edited"):
        read_sealed(path)


def test_newer_version_is_named(path: Path) -> None:
    path.write_text(path.read_text().replace('"version": 3', '"version": 4'))
    with pytest.raises(UserError, match=r"version 4 .* reads version 3\. Read it with the version"):
        read_sealed(path)


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_version_names_the_command(tmp_path: Path, version: int) -> None:
    settings = {"format": "raw", "short_side": 128, "quality": None, "shard_bytes": 1 << 20}
    old = {"settings": settings, "provenance": {"source": "/data/my images"}}
    path = tmp_path / INDEX_NAME
    path.write_text(json.dumps({"kind": KIND, "version": version, **old}))
    with pytest.raises(UserError) as caught:
        read_sealed(path)
    command = (
        f"shufflenet-fn data pack '/data/my images' {tmp_path} --format raw --short-side 128 "
        "--shard-size 1 --overwrite"
    )
    assert str(caught.value).endswith(f"Pack the images again: `{command}`.")
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
    with pytest.raises(UserError, match="no index has more"):
        read_sealed(path)
