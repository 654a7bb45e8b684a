"""Training from the command line, end to end on real JPEGs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.cli.conftest import TINY, records
from tests.model.support import assert_close_to_scale

Command = Callable[..., Any]


def newest(run: Path) -> Path:
    """The last checkpoint of a run."""
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(newest(run) / "weights.safetensors")


@pytest.fixture
def train(command: Command, image_folder: Path) -> Command:
    """``shufflenet-fn train`` on the small folder; must succeed."""

    def run(*arguments: object) -> Any:
        outcome = command("train", *TINY, "--data", image_folder, *arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    return run


def test_a_run_leaves_everything_behind(train: Command, command: Command, tmp_path: Path) -> None:
    from torchvision.models import shufflenet_v2_x0_5

    out = train("--epochs", 2, "--print-freq", 1).out
    run = tmp_path / "runs" / "x0_5-001"
    names = {path.name for path in run.iterdir()}
    files = "config.json env.json metrics.jsonl log.txt run.lock results.json results.md curves.png"
    assert names == {*files.split(), "checkpoints"}
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["epochs"] == 2 and config["origin"]["epochs"] == "command line"
    assert config["settings"]["momentum"] == 0.9 and config["origin"]["momentum"] == "default"
    packages = json.loads((run / "env.json").read_text())["packages"]
    assert torch.__version__.startswith(packages["torch"])
    results = json.loads((run / "results.json").read_text())
    assert results["num_images"] == 10 and results["steps"] == 6
    row = (run / "results.md").read_text().splitlines()
    assert row[0] == "| NAME | Acc@1 | FPS | Epochs | AMP_Type | Torch_version |"
    assert row[2].startswith(f"| 1p-CPU | {results['accuracy1']:.3f} |")
    assert len(records(run, "train")) == 6
    # The forms that the original's scripts look for, on standard output as in the log.
    for text in (out, (run / "log.txt").read_text()):
        assert re.search(r"^\[cpu id: 0 \] Epoch: \[1\]\[2/3\]\tTime ", text, re.M)
        assert re.search(r"^\[cpu id: 0 \] \* FPS@all [\d.]+, TIME@all [\d.]+$", text, re.M)
        assert re.search(r"^\[cpu id: 0 \] \[AVG-ACC\] \* Acc@1 [\d.]+ Acc@5 [\d.]+ ", text, re.M)
        assert re.search(r"Data \d+% Upload \d+% Compute \d+% Reduce \d+%", text)
    model = shufflenet_v2_x0_5(num_classes=3)
    model.load_state_dict(weights_of(run), strict=True)
    assert model.conv1[1].num_batches_tracked == 6
    nothing_left = command("train", "--resume", run)
    assert nothing_left.code == 0 and "done" in nothing_left.out, nothing_left.err
    train("--epochs", 1, "--max-steps", 1)
    assert (tmp_path / "runs" / "x0_5-002").is_dir()


def test_files_use_torchvision_order_for_every_backend(
    train: Command, command: Command, tmp_path: Path
) -> None:
    """After one step: backends add in different orders, and a few steps here multiply the difference."""
    recipe = ("--epochs", 1, "--ema-decay", 0.5, "--max-steps", 1)
    for backend in ("reference", "routed"):
        train(*recipe, "--backend", backend, "--run-dir", backend)
    for file in ("weights.safetensors", "ema.safetensors", "state.safetensors"):
        expected, found = (
            safetensors.torch.load_file(newest(tmp_path / run) / file) for run in ("reference", "routed")
        )
        assert_close_to_scale(found, expected, 1e-3)
    scores = [
        json.loads(command("evaluate", "routed", "--backend", backend, "--json").out)["loss"]
        for backend in ("reference", "routed")
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_resume_with_another_backend_is_reported(train: Command, command: Command, tmp_path: Path) -> None:
    """In float64: these steps multiply rounding, in float32 to 2e-3 of a tensor, which hides mistakes.

    2e-3 times the ratio of both precisions' roundings, 2 ** -29, is 4e-12. Statistics are float32.
    """
    recipe = ("--epochs", 2, "--backend", "reference", "--precision", "p=f64,c=f64,o=f64,n=f64")
    train(*recipe, "--run-dir", "whole", "--max-steps", 4)
    train(*recipe, "--run-dir", "cut", "--max-steps", 3)
    resumed = command("train", "--resume", "cut", "--backend", "routed", "--max-steps", 4)
    assert resumed.code == 0, resumed.err
    assert "backend is routed and was reference" in resumed.err
    cut, whole = weights_of(tmp_path / "cut"), weights_of(tmp_path / "whole")
    for dtype, allowed in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        names = [name for name, tensor in whole.items() if tensor.dtype == dtype]
        assert_close_to_scale(*({n: run[n] for n in names} for run in (cut, whole)), allowed)


def test_fine_tuning_replaces_the_head(train: Command, command: Command, tmp_path: Path) -> None:
    from torchvision.models import shufflenet_v2_x0_5

    model = shufflenet_v2_x0_5(num_classes=7)
    # As a DistributedDataParallel checkpoint of the original would hold it.
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "model_best.pth.tar")
    out = train("--pretrained", "model_best.pth.tar", "--max-steps", 1, "--lr", 1e-4, "--run-dir", "run").out
    assert "has 7 classes; it was replaced by a fresh one of 3" in out
    weights = weights_of(tmp_path / "run")
    assert weights["fc.weight"].shape == (3, 1024)
    moved = (weights["conv1.0.weight"] - model.conv1[0].weight).abs().max()
    assert 0 < moved < 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--amp", "--loss-scale", 64, "--nesterov", "--label-smoothing", 0.1, "--decay-on", "weights"),
        ("--amp", "--opt-level", "O1", "--schedule", "linear", "--benchmark", 0, "--flip", 0),
        ("--precision", "bf16", "--memory-format", "channels_last"),
    ],
)
def test_options_work_together(train: Command, arguments: tuple[object, ...]) -> None:
    assert "FPS@all" in train("--epochs", 1, *arguments).out


def test_presets_warn_and_are_overridable(train: Command) -> None:
    outcome = train(
        *("--preset", "ascend-1p", "--no-amp", "--loss-scale", "none", "--workers", 2), *("--max-steps", 1)
    )
    assert "momentum 0 included" in outcome.err
    assert "train_full_1p.sh" in outcome.out
    assert re.search(r"^from preset ascend-1p: .*learning_rate=0.75", outcome.out, re.M)


def test_stored_config_is_a_config_file(train: Command) -> None:
    train("--momentum", 0.7, "--max-steps", 1, "--run-dir", "run")
    again = train("--config", "run/config.json", "--max-steps", 1, "--run-dir", "again")
    assert re.search(r"^from run/config.json: .*momentum=0.7", again.out, re.M)


def test_mixing_needs_a_partner_for_each_image(command: Command, image_folder: Path, tmp_path: Path) -> None:
    odd = ("--run-dir", "run", "--mixup", 0.2, "--batch-size", 7)
    outcome = command("train", *TINY, "--data", image_folder, *odd)
    assert outcome.code == 2 and "Pass --batch-size 6 or 8" in outcome.err
    assert not (tmp_path / "run").exists()
