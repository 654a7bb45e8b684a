from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.data.packed.index import (
    INDEX_NAME,
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
        in_shard("name", "../train-00000.tar"),
        in_shard("name", "train-00001.tar"),
        in_shard("images", -1),
        in_shard("images", 10**30),
        in_shard("images", "3"),
        in_shard("images", True),
        in_shard("images", 1.5),
        in_shard("bytes", None),
        in_shard("sha256", "../.."),
        in_shard("extra", 1),
        in_entries("name", "../train.entries"),
        in_entries("images", 10**12),
        in_train("shards", "train-00000.tar"),
        in_train("shards", []),
        in_train("kept", -3),
        in_train("left_out", [1]),
        lambda fields: fields.update(classes="abc"),
        lambda fields: fields.update(settings={"format": "exe"}),
        lambda fields: fields.update(settings={**fields["settings"], "short_side": 1.5}),
        lambda fields: fields["source"].update(train=5),
        lambda fields: fields["provenance"].update(created=None),
        lambda fields: fields["splits"].pop("val"),
        *(
            replace(key, value)
            for key in ("settings", "classes", "splits", "source", "provenance")
            for value in ([], "x", None, 5)
            if (key, value) != ("classes", [])
        ),
        lambda fields: fields["splits"].update(train=[]),
        in_train("entries", []),
    ],
)
def test_a_hostile_index_with_a_right_hash_is_refused(
    packed: Path, change: Callable[[Fields], None]
) -> None:
    fields = copy.deepcopy(read_sealed(packed / INDEX_NAME))
    change(fields)
    write_sealed(packed / INDEX_NAME, fields)
    with pytest.raises(UserError, match=r"packed\.json makes no sense"):
        open_packed(packed, "train")


def test_more_images_than_the_entries_file_holds_are_refused(packed: Path) -> None:
    fields = read_sealed(packed / INDEX_NAME)
    train = fields["splits"]["train"]
    train["entries"]["images"] = train["shards"][0]["images"] = 10**12
    train["shards"] = train["shards"][:1]
    write_sealed(packed / INDEX_NAME, fields)
    with pytest.raises(UserError, match=r"train\.entries"):
        open_packed(packed, "train")


def test_what_is_wrong_with_a_hostile_index_is_said(packed: Path) -> None:
    fields = read_sealed(packed / INDEX_NAME)
    write_sealed(packed / INDEX_NAME, {**fields, "provenance": []})
    with pytest.raises(UserError, match=r"provenance is \[\], not an object with named fields"):
        open_packed(packed, "train")
