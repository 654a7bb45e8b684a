"""Runs whose numbers are no longer any: the step is named, dumped, and can be gone back to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from shufflenet_fn.checkpoint.format import OWN_HASH, WEIGHTS
from shufflenet_fn.checkpoint.read import read_checkpoint
from shufflenet_fn.checkpoint.write import write_checkpoint
from shufflenet_fn.run.divergence import BATCH, STEP

Command = Callable[..., Any]
TRAIN = ("train", "--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--device", "cpu")


def start(folder: Path, *more: object) -> tuple[object, ...]:
    return (*TRAIN, "--data", folder, "--epochs", 4, "--keep", 9, "--run-dir", "run", *more)


def dumps(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("dump-step-*"))


def test_the_step_that_diverged_is_kept_whole(command: Command, image_folder: Path, tmp_path: Path) -> None:
    outcome = command(*start(image_folder, "--lr", 1e30))
    assert outcome.code == 1 and len(outcome.err.strip().splitlines()) == 1
    assert ". Start again with a lower --learning-rate" in outcome.err
    run = tmp_path / "run"
    (name,) = dumps(run)
    number = int(name.rpartition("-")[2])
    for words in (f"at step {number} (epoch 0)", "learning rate 1e+30", str(Path("run") / name)):
        assert words in outcome.err
    tensors = safetensors.torch.load_file(run / name / BATCH)
    assert tensors["images"].dtype == torch.uint8 and tensors["images"].shape == (8, 3, 32, 32)
    told = json.loads((run / name / STEP).read_text())
    assert len(told["samples"]) == len(tensors["labels"]) == 8
    assert all(Path(sample).is_file() for sample in told["samples"])
    assert told["ranks"][0]["loss"] == "nan" or not math.isfinite(told["ranks"][0]["loss"])
    norms = told["ranks"][0]["gradient_norms"]
    assert "fc.weight" in norms and "nan" in norms.values()
    # From the state before it, the step comes out as it did.
    before = run / name / f"step-{number:08d}"
    weights = read_checkpoint(before).files["weights.safetensors"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    again = command("train", "--resume", before)
    assert again.code == 1
    assert f"the loss is nan at step {number} (epoch 0), with" in again.err


@pytest.mark.parametrize("devices", [1, 2])
def test_failed_dump_does_not_hide_divergence(
    command: Command, image_folder: Path, tmp_path: Path, devices: int
) -> None:
    """Whichever rank tells it: one that writes nothing waits for the one that does."""
    more = ("--devices", devices, "--threads", 1)
    begun = command(*start(image_folder, "--lr", 1e30, "--max-steps", 1, *more))
    assert begun.code == 0, begun.err
    in_the_way = tmp_path / "run" / "dump-step-1"
    in_the_way.write_text("a file")
    outcome = command("train", "--resume", "run")
    assert outcome.code == 1 and len(outcome.err.strip().splitlines()) == 1
    assert "error: training diverged: the loss is nan at step 1 (epoch 0)" in outcome.err
    assert "Go on from an earlier checkpoint with --resume" in outcome.err
    assert "the step itself could not be kept: " in outcome.err
    assert in_the_way.read_text() == "a file"


def test_bad_steps_are_skipped_up_to_a_number(command: Command, image_folder: Path, tmp_path: Path) -> None:
    outcome = command(*start(image_folder, "--lr", 1e30, "--max-bad-steps", 3))
    assert outcome.code == 1
    assert "the loss is nan at step 3 (epoch 1), bad step 3 in a row" in outcome.err
    assert dumps(tmp_path / "run") == ["dump-step-3"]
    for step in (1, 2):
        assert f"step {step} (epoch 0) changed nothing: the loss is nan" in outcome.err
    # Skipped updates have left the state as it was before the first.
    folder = tmp_path / "run" / "dump-step-3" / "step-00000003"
    assert all(t.isfinite().all() for t in read_checkpoint(folder).files["weights.safetensors"].values())


def test_overflows_under_a_static_scale(command: Command, image_folder: Path, tmp_path: Path) -> None:
    scaled = ("--precision", "O2", "--loss-scale", 1e30, "--max-bad-steps", 2)
    outcome = command(*start(image_folder, *scaled))
    assert outcome.code == 1
    assert "the scaled gradient overflowed at step 1 (epoch 0)" in outcome.err
    told = json.loads((tmp_path / "run" / "dump-step-1" / STEP).read_text())
    assert told["loss_scale"] == [pytest.approx(1e30)]


@pytest.mark.parametrize(
    ("verb", "code", "more"),
    [
        (("train", "--resume", "{step}"), 1, ""),
        (("train", "--resume", "run"), 0, "at step 6"),
        ((*TRAIN, "--data", "{data}", "--pretrained", "{step}"), 1, ""),
        ((*TRAIN, "--data", "{data}", "--pretrained", "{step}/" + WEIGHTS), 2, ""),
        (("evaluate", "{step}"), 1, ""),
        (("checkpoint", "verify", "run"), 1, "step-00000006: good"),
        (("checkpoint", "list", "run"), 0, ""),
        (("checkpoint", "show", "{step}"), 0, "conv1.0.weight"),
        (("checkpoint", "show", "run"), 0, "skipped"),
        (("checkpoint", "diff", "{step}", "run"), 1, "differ"),
    ],
)
def test_weights_that_are_not_finite_are_named(
    command: Command, run: Path, image_folder: Path, verb: tuple[object, ...], code: int, more: str
) -> None:
    newest = run / "checkpoints" / "step-00000009"
    content = read_checkpoint(newest)
    content.files[WEIGHTS]["fc.bias"][:2] = torch.tensor([math.nan, -math.inf])
    about = {name: value for name, value in content.manifest.items() if name != OWN_HASH}
    write_checkpoint(newest.parent, 9, content.files, about)
    outcome = command(*(str(word).format(step=newest, data=image_folder) for word in verb))
    told = " ".join((outcome.out + outcome.err).split())
    assert outcome.code == code, told
    assert "hold" in told and "finite (NaN or infinite): fc.bias (2 of 3 values)" in told
    assert more in told and "Traceback" not in told
