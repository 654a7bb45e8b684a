"""``data pack``, ``verify`` and ``info`` as they are typed, and training on what they made."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Command

TRAIN = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--epochs", 1, "--device", "cpu")


@pytest.fixture
def packed(command: Command, image_folder: Path, tmp_path: Path) -> Path:
    code, out, err = command("data", "pack", image_folder, "packed", "--workers", 2)
    assert code == 0, err
    train, val, advice = out.splitlines()
    assert train.startswith("train: 24 images in 1 shard, ")
    assert train.endswith("24 of them kept byte for byte")
    assert val.startswith("val: 10 images in 1 shard, ")
    assert advice == "train on it with --data packed"
    assert err.splitlines() == ["packing train: 24 of 24", "packing val: 10 of 10"]
    return tmp_path / "packed"


def test_pack_verify_info(command: Command, packed: Path) -> None:
    code, out, _ = command("data", "verify", "packed")
    assert code == 0
    assert "packed is as it was packed: 34 images, 5 files" in out
    code, out, _ = command("data", "info", "packed")
    assert code == 0
    for words in ("packed, 3 classes", "jpeg, short side at most 256, quality 90", "created: 20"):
        assert words in out


def test_json(command: Command, packed: Path, image_folder: Path) -> None:
    verified = json.loads(command("data", "verify", "packed", "--json")[1])
    assert (verified["ok"], verified["damage"], verified["images"]) == (True, [], 34)
    info = json.loads(command("data", "info", "packed", "--json")[1])
    assert info["packed"] is True
    assert info["classes"] == ["blue", "green", "red"]
    assert info["splits"]["train"]["images"] == info["splits"]["train"]["kept"] == 24
    assert info["splits"]["val"]["short_sides"] == {"smallest": 40, "median": 40, "largest": 40}
    assert info["settings"]["short_side"] == 256
    assert info["provenance"]["source"] == str(image_folder)
    raw = json.loads(command("data", "info", image_folder, "--json")[1])
    assert (raw["packed"], raw["settings"], raw["splits"]["val"]["images"]) == (False, None, 10)
    size = sum(path.stat().st_size for path in (image_folder / "train").rglob("*.jpg"))
    assert raw["splits"]["train"]["bytes"] == size


def test_damage_is_an_exit_code_and_strays_are_told_apart(command: Command, packed: Path) -> None:
    (packed / "train-00077.tar").write_bytes(b"?")
    code, out, _ = command("data", "verify", "packed")
    assert code == 1
    stray, verdict = out.splitlines()
    assert stray.startswith("train-00077.tar: packed.json does not list it")
    assert verdict.startswith("packed is as it was packed (34 images, 5 files")
    assert verdict.endswith("delete 1 file, named above.")
    shard = packed / "val-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    code, out, _ = command("data", "verify", "packed")
    assert code == 1
    assert "val-00000.tar: it has" in out
    assert "packed is damaged: 1 of 5 files" in out
    code, out, _ = command("data", "verify", "packed", "--json")
    assert code == 1
    damage = json.loads(out)["damage"]
    assert [found["file"] for found in damage] == ["train-00077.tar", "val-00000.tar"]


def test_names_that_are_not_utf8(command: Command, image_folder: Path, tmp_path: Path) -> None:
    folder = os.fsdecode(b"\xff")
    code, out, err = command("data", "pack", image_folder, folder, "--workers", 1)
    assert code == 0, err
    assert out.splitlines()[-1] == r"train on it with --data \xff"
    assert command("data", "pack", image_folder, folder).out.startswith(r"\xff is packed already")
    assert command("data", "verify", folder).out.startswith(r"\xff is as it was packed")
    assert command("data", "info", folder).out.startswith(r"\xff: packed, 3 classes")
    assert json.loads(command("data", "info", folder, "--json").out)["folder"] == folder
    (tmp_path / folder / "train-00000.tar").unlink()
    assert r"\xff/train-00000.tar is not the file that" in command("data", "info", folder).err


def test_packed_and_folder_score_the_same(
    command: Command, packed: Path, image_folder: Path, tmp_path: Path
) -> None:
    code, _, err = command("train", *TRAIN, "--data", packed)
    assert code == 0, err
    run = tmp_path / "runs" / "x0_5-001"
    losses = []
    for data in (image_folder, packed):
        code, out, err = command("evaluate", run, "--data", data, "--json")
        assert code == 0, err
        losses.append(json.loads(out)["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("missing", "code", "words"),
    [("packed.json", 2, ["half packed"]), ("train-00000.tar", 1, ["train-00000.tar", "data verify"])],
)
def test_training_on_incomplete_packed_data(
    command: Command, packed: Path, missing: str, code: int, words: list[str]
) -> None:
    (packed / missing).rename(packed / "packing.json")
    done = command("train", *TRAIN, "--data", packed)
    assert done.code == code
    assert all(word in done.err for word in words)
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("pack", "nowhere", "x"), "nowhere does not exist"),
        (("pack", "{data}", "{data}/x"), "lies in the source"),
        (("pack", "{data}", "x", "--format", "png"), "jpeg, raw"),
        (("pack", "{data}", "x", "--short-side", -2), "--short-side"),
        (("pack", "{data}", "x", "--quality", 0), "--quality"),
        (("pack", "{data}", "x", "--quality", 80, "--format", "raw"), "--quality"),
        (("pack", "{data}", "x", "--shard-size", 0), "--shard-size"),
        (("pack", "{data}", "x", "--shard-size", "nan"), "--shard-size"),
        (("pack", "{data}", "x", "--shard-size", "inf"), "--shard-size"),
        (("pack", "{data}", "x", "--on-bad-image", "weep"), "stop, skip"),
        (("verify", "nowhere"), "nowhere is not a folder"),
        (("verify", "{data}"), "is not packed"),
        (("info", "nowhere"), "nowhere does not exist"),
    ],
)
def test_wrong_input_is_one_message(
    command: Command, image_folder: Path, arguments: tuple[object, ...], named: str
) -> None:
    filled = [str(argument).format(data=image_folder) for argument in arguments]
    code, out, err = command("data", *filled)
    assert code == 2
    assert "Traceback" not in out + err
    (message,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert named in message
