from __future__ import annotations

import json
from pathlib import Path

import pytest

from shufflenet_fn.data.packed.index import INDEX_NAME, KIND, read_sealed, write_sealed
from shufflenet_fn_backends.support.errors import UserError

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


def test_a_version_to_come_is_named(path: Path) -> None:
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


def test_a_file_too_large_to_be_one_is_not_read(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(UserError, match="no index has more"):
        read_sealed(path)
