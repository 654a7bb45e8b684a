"""Resumed runs come to the bytes of uninterrupted ones; on another number of devices, up to rounding."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.checkpoint.read import Content
from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.model.config import frozen_parts, get_config
from shufflenet_fn.model.variables import init
from tests.cli.conftest import check_same, checkpoint, records

Command = Callable[..., Any]

TRAIN = ("train", "--arch", "x0_5", "--image-size", 32, "--device", "cpu", "--threads", 1)
RECIPE = ("--epochs", 2, "--print-freq", 1, "--ema-decay", 0.9, "--eval-freq", 2, "--lr", 0.02)
MIXED = ("--mixup", 0.4, "--cutmix", 1, "--auto-augment", "trivial", "--erase", 0.5)
RAND = ("--auto-augment", "rand", "--rand-ops", 1, "--crop-ratio", 2, "--label-smoothing", 0.1)
SHOWN_TWICE = ("--repeats", 2, "--mixup", 0.2, *RAND)
FROZEN = ("--freeze", "conv1,stage3", "--head-lr", 0.1)
ADAMW = ("--opt", "adamw", "--head-lr", 0.01, "--lr", 0.001, "--freeze", "stage2")


@pytest.fixture(scope="module")
def data(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The images as they are (``folder``), or packed as ``raw`` pixels or as ``jpeg``."""
    from shufflenet_fn_cli.main import app

    @functools.cache
    def of_kind(kind: str) -> Path:
        if kind == "folder":
            return image_folder
        packed = tmp_path_factory.mktemp("packed") / kind
        arguments = ["data", "pack", str(image_folder), str(packed), "--format", kind]
        app(arguments, standalone_mode=False)
        return packed

    return of_kind


@pytest.mark.parametrize(
    ("kind", "cut", "options"),
    [
        ("folder", 4, ("--backend", "cpu", "--precision", "fp32", "--clip-norm", 0.5, *MIXED)),
        ("raw", 1, ("--backend", "routed", "--precision", "bf16", "--nesterov", *MIXED, *FROZEN)),
        # A scale that overflows at first, so that skipped steps and changes of scale are crossed.
        ("folder", 2, ("--backend", "native", "--precision", "O2", "--loss-scale", "dynamic", *ADAMW)),
        ("jpeg", 5, ("--backend", "gather", "--precision", "O1", "--accumulate", 2)),
        # Between two epochs.
        ("folder", 6, ("--backend", "reference", "--precision", "fp32", *SHOWN_TWICE)),
    ],
    ids=["cpu", "routed", "native", "gather", "reference"],
)
def test_one_rank(
    command: Command,
    data: Callable[[str], Path],
    tmp_path: Path,
    kind: str,
    cut: int,
    options: tuple[object, ...],
) -> None:
    size = 2 if "--accumulate" in options else 4
    start = (*TRAIN, "--data", data(kind), "--batch-size", size, *RECIPE, *options)
    for name, limit in (("whole", ()), ("cut", ("--max-steps", cut))):
        outcome = command(*start, "--run-dir", name, *limit)
        assert outcome.code == 0, outcome.err
        assert ("without --pretrained freezes random weights" in outcome.err) == ("--freeze" in options)
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # as a kill in the middle of a line leaves it
    outcome = command("train", "--resume", "cut")
    assert outcome.code == 0, outcome.err
    assert "since the checkpoint was written" not in outcome.err
    check_same(tmp_path / "cut", tmp_path / "whole", 12)
    check_frozen(checkpoint(tmp_path / "whole", 12))


def check_frozen(content: Content) -> None:
    """What is frozen is in the manifest, and keeps its initial tensors, also in averages."""
    frozen, settings = content.manifest["frozen"], content.manifest["settings"]
    assert frozen == list(frozen_parts(settings["freeze"]))
    config = get_config("x0_5", num_classes=3)
    before = to_torchvision(init(config, torch.Generator().manual_seed(settings["seed"])), config)
    for file in ("weights.safetensors", "ema.safetensors"):
        for key, tensor in content.files[file].items():
            if key.partition(".")[0] in frozen and "num_batches" not in key:
                assert torch.equal(tensor, before[key]), key


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in records(run, "train")]


def check_close(ours: Path, theirs: Path, step: int) -> None:
    """Sums in another order: rounding, grown over a few steps of small batches."""
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-4)
    first, second = (checkpoint(run, step).files["weights.safetensors"] for run in (ours, theirs))
    for name, tensor in second.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_ranks_and_other_numbers_of_them(
    command: Command, process: Command, image_folder: Path, tmp_path: Path
) -> None:
    recipe = (*RECIPE, "--precision", "bf16", "--clip-norm", 1, *MIXED, *FROZEN)
    start = (*TRAIN, "--data", image_folder, "--batch-size", 4, *recipe)
    two = ("--devices", 2)
    saved = ("--checkpoint-freq", 5, "--keep", 9)
    assert process(*start, *two, *saved, "--run-dir", "whole").code == 0
    assert (tmp_path / "whole" / "log.rank1.txt").read_text().endswith("rank 1 is done\n")
    for copy in ("cut", "on-one"):
        shutil.copytree(tmp_path / "whole", tmp_path / copy)
    outcome = process("train", "--resume", "cut/checkpoints/step-00000005")
    assert outcome.code == 0, outcome.err
    check_same(tmp_path / "cut", tmp_path / "whole", 12)

    on_one = ("train", "--resume", "on-one/checkpoints/step-00000005", "--devices")
    refused = command(*on_one, 4)
    assert refused.code == 2 and "may be one of: 1, 2" in refused.err
    outcome = command(*on_one, 1)
    assert outcome.code == 0, outcome.err
    assert "world size is 1 and was 2 since the checkpoint was written" in outcome.err
    assert "in 2 microbatches of 2, 2 per device" in outcome.out
    check_close(tmp_path / "on-one", tmp_path / "whole", 12)
    cut = ("--max-steps", 5)
    assert command(*start, "--microbatches", 2, "--run-dir", "one", *cut).code == 0
    outcome = process("train", "--resume", "one", *two)
    assert outcome.code == 0, outcome.err
    check_close(tmp_path / "one", tmp_path / "whole", 12)
    # The groups of batch norms matter: one microbatch of 4 images has other statistics.
    assert command(*start, "--run-dir", "one-microbatch", *cut).code == 0
    assert losses(tmp_path / "one-microbatch") != pytest.approx(losses(tmp_path / "whole")[:5], rel=1e-3)
