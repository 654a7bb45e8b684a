"""Training from the command line with every augmentation on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

Command = Callable[..., Any]

TINY = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--device", "cpu")
EVERYTHING = (
    *("--auto-augment", "rand", "--rand-ops", 1, "--erase", 0.5, "--crop-ratio", 2),
    *("--mixup", 0.2, "--cutmix", 1, "--repeats", 2, "--label-smoothing", 0.1),
)


@pytest.fixture
def train(command: Command, image_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """``train(name, *options)`` trains with everything on, and must succeed; returns the run."""

    def run(name: str, *options: object) -> Path:
        place = tmp_path / name
        common = ("--data", image_folder, "--run-dir", place, "--print-freq", 1)
        outcome = command("train", *TINY, *common, *EVERYTHING, *options)
        assert outcome.code == 0, outcome.err
        return place

    return run


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return safetensors.torch.load_file(newest / "weights.safetensors")


def losses_of(run: Path) -> list[float]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["kind"] == "train"]


def test_resumed_run_equals_uninterrupted_run(train: Callable[..., Path], command: Command) -> None:
    whole = train("whole", "--epochs", 3)
    steps = len(losses_of(whole))
    part = train("part", "--epochs", 3, "--max-steps", steps // 2)
    outcome = command("train", "--resume", part, "--max-steps", steps)
    assert outcome.code == 0, outcome.err
    assert losses_of(part) == losses_of(whole)
    ours, theirs = weights_of(part), weights_of(whole)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_mixing_needs_a_partner_for_each_image(command: Command, image_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = command(
        "train", *TINY, "--data", image_folder, "--run-dir", run, "--mixup", 0.2, "--batch-size", 7
    )
    assert outcome.code == 2
    assert "Pass --batch-size 6 or 8" in " ".join(outcome.err.split())
    assert not run.exists()
