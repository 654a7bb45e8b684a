"""Training from the command line, end to end on real JPEGs."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.model.support import assert_close_to_scale

Command = Callable[..., Any]

TINY = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--device", "cpu")


def newest(run: Path) -> Path:
    """The last checkpoint of a run."""
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(newest(run) / "weights.safetensors")


def losses_of(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [r["loss"] for r in map(json.loads, lines) if r["kind"] == "train"]


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
    assert names == {
        "config.json",
        "env.json",
        "metrics.jsonl",
        "log.txt",
        "checkpoints",
        "run.lock",
        "results.json",
        "results.md",
        "curves.png",
    }
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
    assert len(losses_of(run)) == 6
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
        ("--amp",),
        ("--amp", "--opt-level", "O1"),
        ("--amp", "--loss-scale", 64),
        ("--precision", "bf16", "--memory-format", "channels_last"),
        ("--nesterov", "--label-smoothing", 0.1, "--decay-on", "weights"),
        ("--schedule", "linear", "--benchmark", 0, "--flip", 0),
    ],
)
def test_options_work_together(train: Command, arguments: tuple[object, ...]) -> None:
    assert "FPS@all" in train("--epochs", 1, *arguments).out


def test_the_originals_command_line(command: Command, image_folder: Path, tmp_path: Path) -> None:
    """The spelling of its 1-card script, with what it passes and this machine can hold."""
    outcome = command(
        *("train", "--data_path", image_folder, "--addr=127.0.0.1", "--seed=49", "--workers=4"),
        *("--learning-rate=0.75", "--print-freq=1", "--eval-freq=5", "--arch=shufflenet_v2_x0_5"),
        *("--dist-backend=gloo", "--batch-size=8", "--epoch=1", "--warm_up_epochs=0", "--rank=0"),
        *("--amp", "--momentum=0", "--wd=3.0517578125e-05", "--device-list=0", "--benchmark=0"),
        *("--device_num=1", "--dist-url=tcp://127.0.0.1:23456", "--world-size=1"),
        *("--multiprocessing-distributed", "--opt-level=O2", "--loss-scale=64", "--device=cpu"),
        *("--workspace=.", "--max-steps=1"),
    )
    assert outcome.code == 0, outcome.err
    assert "--rdzv-endpoint is not used by one machine" in outcome.out
    stored = json.loads((tmp_path / "x0_5-001" / "config.json").read_text())["settings"]
    assert stored["weight_decay"] == 2.0**-15 and stored["momentum"] == 0.0
    assert stored["learning_rate"] == 0.75 and stored["num_nodes"] == 1


def test_presets_warn_and_are_overridable(train: Command) -> None:
    outcome = train(
        *("--preset", "ascend-1p", "--no-amp", "--loss-scale", "none", "--workers", 2), *("--max-steps", 1)
    )
    assert "momentum 0 included" in outcome.err
    assert "train_full_1p.sh" in outcome.out
    assert re.search(r"^from preset ascend-1p: .*learning_rate=0.75", outcome.out, re.M)


def test_config_file_between_preset_and_command_line(train: Command, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("learning-rate: 0.02\nmomentum: 0.8\nweight_decay: 4e-5\n")
    train("--config", "c.yaml", "--momentum", 0.7, "--max-steps", 1, "--run-dir", "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    settings, origin = config["settings"], config["origin"]
    assert (settings["learning_rate"], origin["learning_rate"]) == (0.02, "c.yaml")
    assert (settings["momentum"], origin["momentum"]) == (0.7, "command line")
    assert settings["weight_decay"] == 4e-5
    # What one run stored is a config file for the next.
    train("--config", "run/config.json", "--max-steps", 1, "--run-dir", "again")


def test_live_display_on_a_terminal(image_folder: Path, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    arguments = ["train", *TINY, "--data", image_folder, "--epochs", 2, "--run-dir", "run"]
    child = subprocess.Popen(
        [sys.executable, "-m", "shufflenet_fn_cli.main", *map(str, arguments)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "50"},
    )
    os.close(follower)
    shown = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ready, _, _ = select.select([leader], [], [], 1.0)
        if not ready:
            continue
        try:
            block = os.read(leader, 65536)
        except OSError:  # the other end was closed: the program has ended
            break
        if not block:
            break
        shown += block
    assert child.wait(timeout=300) == 0, shown.decode()
    os.close(leader)
    text = shown.decode()
    for word in ("Acc@1 val", "2/2", "ETA", "FPS", "done in", "1p-CPU"):
        assert word in text, word
