"""A run that has ended, for tests of what is done with one, and what two runs have in common."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.checkpoint.describe import compare
from shufflenet_fn.checkpoint.read import Content, read_checkpoint

TINY = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--device", "cpu")
OF_THE_CLOCK = {"time", "times", "mean_times", "fps", "eta_s", "seconds"}


@pytest.fixture(scope="session")
def finished(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs of three steps, all checkpoints kept."""
    from shufflenet_fn_cli.main import app

    run = tmp_path_factory.mktemp("finished") / "run"
    train = ("train", *TINY, "--data", image_folder, "--epochs", 3, "--keep", 9, "--run-dir", run)
    app([str(argument) for argument in train], standalone_mode=False)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def checkpoint(run: Path, step: int) -> Content:
    return read_checkpoint(run / "checkpoints" / f"step-{step:08d}")


def records(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """``metrics.jsonl``, of training and evaluation if no other ``kinds`` are named, without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in OF_THE_CLOCK}
        for line in lines
        if line["kind"] in (kinds or ("train", "epoch", "eval"))
    ]


def check_same(ours: Path, theirs: Path, step: int) -> None:
    """Check that two runs have come to the same bytes at ``step``, and have logged the same."""
    comparison = compare(checkpoint(ours, step), checkpoint(theirs, step))
    assert comparison.tensors > 100
    assert comparison.identical, comparison.different[:3]
    assert records(ours) == records(theirs)
