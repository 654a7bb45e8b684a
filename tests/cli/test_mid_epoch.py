"""A run cut short at any update goes on as if it had not been: weights, best scores and log lines."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.checkpoint.format import WEIGHTS, step_of
from shufflenet_fn.checkpoint.inventory import newest_good
from shufflenet_fn.checkpoint.read import read_checkpoint, read_manifest
from shufflenet_fn.distributed.world import World
from shufflenet_fn.errors import UserError
from shufflenet_fn.io import RealDisk
from shufflenet_fn.run.events import Reporter
from shufflenet_fn.run.plan import prepare_run
from shufflenet_fn.run.rank import run_rank

Command = Callable[..., Any]

TRAIN = ("train", "--arch", "x0_5", "--image-size", 32, "--batch-size", 2, "--device", "cpu")
# 24 images: epochs of 12 steps.
RECIPE = ("--epochs", 2, "--print-freq", 5, "--ema-decay", 0.9, "--keep", 99)
RECIPE = (*RECIPE, "--eval-freq", 2, "--learning-rate", 0.01)
TIMES = {"time", "times", "mean_times", "fps", "eta_s", "seconds"}


def records(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl`` without what tells of time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in lines
        if line["kind"] in kinds
    ]


@pytest.fixture(scope="module")
def straight(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    from shufflenet_fn_cli.main import app

    run = tmp_path_factory.mktemp("straight") / "run"
    arguments = [*TRAIN, "--data", image_folder, *RECIPE, "--run-dir", run]
    app([str(argument) for argument in arguments], standalone_mode=False)
    return run


def test_checkpoints_between_epochs(
    command: Command, image_folder: Path, tmp_path: Path, straight: Path
) -> None:
    arguments = (*TRAIN, "--data", image_folder, *RECIPE, "--checkpoint-freq", 5)
    outcome = command(*arguments, "--run-dir", "run")
    assert outcome.code == 0, outcome.err
    run = tmp_path / "run"
    folder = run / "checkpoints"
    found = sorted(filter(None, (step_of(path.name) for path in folder.iterdir())))
    assert found == [5, 10, 12, 15, 20, 24]
    unfinished = {step: read_manifest(folder / f"step-{step:08d}")["unfinished"] for step in found}
    assert [step for step in found if unfinished[step] is None] == [12, 24]
    assert {step: unfinished[step]["steps"] for step in (5, 10, 15, 20)} == {5: 5, 10: 10, 15: 3, 20: 8}
    # One taken on the way is the very state that a run stopped there would have.
    assert [r["step"] for r in records(run, "checkpoint")] == found
    assert "ms beside training, which waited" in outcome.out
    costs = json.loads((run / "results.json").read_text())["checkpoints"]
    assert costs["written"] == 6 and 0 < costs["blocked_max_s"] <= costs["blocked_s"]
    # From each of them a run goes on to the same end.
    for step in (20, 5):
        outcome = command("train", "--resume", folder / f"step-{step:08d}", "--checkpoint-freq", 0)
        assert outcome.code == 0, outcome.err
        ends = [
            read_checkpoint(place / "checkpoints" / "step-00000024").files[WEIGHTS]
            for place in (run, straight)
        ]
        assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[1])
        for kinds in (("train",), ("epoch",), ("eval",)):
            assert records(run, *kinds) == records(straight, *kinds)


class FullDisk(RealDisk):
    """A disk that is full once there are so many checkpoints."""

    def write(self, path: Path, content: bytes) -> None:
        full = (path.parent.parent / "step-00000004").exists()
        super().write(Path("/dev/full") if full else path, content)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to be a full disk")
def test_failed_save_ends_run_with_reason(image_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = {
        "data": str(image_folder),
        "arch": "x0_5",
        "image_size": 32,
        "batch_size": 2,
        "device": "cpu",
        "checkpoint_freq": 4,
        "epochs": 1,
        "run_dir": str(run),
    }
    with contextlib.ExitStack() as held:
        plan = prepare_run(given, preset=None, config_file=None, argv=["train"], held=held)
        with pytest.raises(UserError, match=r"cannot write .*step-00000008.*No space left on device"):
            run_rank(plan, World(), Reporter(), disk=FullDisk())
    folder = run / "checkpoints"
    found, _ = newest_good(folder)
    assert found is not None and found.path == folder / "step-00000004"
    assert {path.name for path in folder.iterdir()} == {"step-00000004", "latest.json"}
    assert "step-00000008" in (run / "log.txt").read_text()
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint-writer"]
