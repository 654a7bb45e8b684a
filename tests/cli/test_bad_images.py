"""``--on-bad-image`` and ``--max-bad`` from the command line, with one and with two ranks."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command

TINY = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--device", "cpu", "--epochs", 2)
SKIP = ("--on-bad-image", "skip", "--max-bad", "20%")


@pytest.fixture
def folder(image_folder: Path, tmp_path: Path) -> Path:
    """A copy with four bad files to train on, each bad in another way, and two to validate with."""
    data = Path(shutil.copytree(image_folder, tmp_path / "data"))
    train, val = data / "train", data / "val"
    (train / "blue" / "01.jpg").write_bytes(b"")
    os.truncate(train / "green" / "02.jpg", 400)
    (train / "red" / "03.jpg").unlink()
    (train / "red" / "03.jpg").symlink_to("nowhere")
    (train / "red" / "04.jpg").unlink()
    os.mkfifo(train / "red" / "04.jpg")
    (val / "blue" / "00.jpg").write_bytes(b"<html>")
    (val / "red" / "02.jpg").write_bytes(bytes(2000))
    return data


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(run: Path) -> set[str]:
    return {
        record["name"].split("/data/")[1] for path in run.glob("bad_images*.jsonl") for record in lines(path)
    }


ALL_BAD = {
    "train/blue/01.jpg",
    "train/green/02.jpg",
    "train/red/03.jpg",
    "train/red/04.jpg",
    "val/blue/00.jpg",
    "val/red/02.jpg",
}


def test_the_default_stops_and_names_the_file(command: Command, folder: Path) -> None:
    done = command("train", *TINY, "--data", folder)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert any(
        f"cannot {verb} image {folder}/{name}: " in done.err
        for verb in ("read", "decode")
        for name in ALL_BAD
    )


def test_skipping_replaces_counts_and_writes_down(command: Command, folder: Path, tmp_path: Path) -> None:
    done = command("train", *TINY, *SKIP, "--data", folder, "--run-dir", "run")
    assert done.code == 0, done.err
    run = tmp_path / "run"
    assert recorded(run) == ALL_BAD
    reason_of = {record["name"]: record["reason"] for record in lines(run / "bad_images.jsonl")}
    assert reason_of[f"{folder}/train/blue/01.jpg"] == "the file is empty"
    assert reason_of[f"{folder}/train/red/04.jpg"] == "it is not a regular file"
    log = (run / "log.txt").read_text()
    assert "4 of 24 training images are bad and were replaced by others so far" in log
    assert "they are named in run/bad_images*.jsonl" in log
    left_out = "2 of 10 images to evaluate are bad and were left out: the scores are over 8 images"
    assert f"warning: {left_out}" in log
    assert json.loads((run / "results.json").read_text())["num_images"] == 8
    evaluated = command("evaluate", "run", *SKIP, "--device", "cpu", "--json")
    assert evaluated.code == 0, evaluated.err
    result = json.loads(evaluated.out)
    assert (result["num_images"], result["bad_images"]) == (8, 2)
    names = result["bad_image_names"]
    assert names == [f"{folder}/val/blue/00.jpg", f"{folder}/val/red/02.jpg"]
    assert f"warning: {left_out}. They are: {', '.join(names)}\n" in evaluated.err
    stopped = command("evaluate", "run", "--device", "cpu")
    assert stopped.code == 1
    assert "cannot decode image" in stopped.err


def test_two_ranks_count_their_bad_images_together(process: Command, folder: Path, tmp_path: Path) -> None:
    arguments = (*TINY, *SKIP, "--data", folder, "--run-dir", "two")
    two = process("train", *arguments, "--threads", 1, "--devices", 2)
    assert two.code == 0, two.err
    assert recorded(tmp_path / "two") == ALL_BAD
    assert sorted(path.name for path in (tmp_path / "two").glob("bad_images*")) == [
        "bad_images.jsonl",
        "bad_images.rank1.jsonl",
    ]
    assert "4 of 24 training images are bad" in (tmp_path / "two" / "log.txt").read_text()


def test_too_many_stop_the_run(command: Command, folder: Path) -> None:
    done = command("train", *TINY, "--data", folder, "--on-bad-image", "skip", "--max-bad", "2")
    assert done.code == 1
    assert f"3 of the 24 images in {folder}/train are bad so far; --max-bad 2 allows 2" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on-bad-image", "ignore"], "--on-bad-image 'ignore' is not valid"),
        (["--max-bad", "3"], "--max-bad 3 has an effect only with --on-bad-image skip"),
        (["--on-bad-image", "skip", "--max-bad", "many"], "--max-bad 'many' is no limit"),
    ],
)
def test_settings_that_cannot_be(command: Command, folder: Path, arguments: list[str], message: str) -> None:
    done = command("train", *TINY, "--data", folder, *arguments)
    assert done.code == 2
    assert message in done.err
