"""A run that is cut short anywhere saves, says how to go on, and goes on in the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.checkpoint.format import step_of
from shufflenet_fn.checkpoint.inventory import newest_good
from shufflenet_fn.checkpoint.read import read_manifest
from shufflenet_fn.distributed.world import World
from shufflenet_fn.errors import UserError
from shufflenet_fn.io import Content, Disk
from shufflenet_fn.run.events import EpochTrained, Event, Reporter, StepDone
from shufflenet_fn.run.plan import prepare_run
from shufflenet_fn.run.rank import run_rank
from shufflenet_fn.run.stopping import Stopped
from tests.cli.conftest import check_same, records

Command = Callable[..., Any]

TINY = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 2, "--device", "cpu")
# 24 images: epochs of 12 steps.
RECIPE: dict[str, Any] = {
    "arch": "x0_5",
    "image_size": 32,
    "batch_size": 2,
    "device": "cpu",
    "epochs": 2,
    "ema_decay": 0.9,
    "print_freq": 5,
    "learning_rate": 0.01,
    "keep": 99,
}


class SignalAt(Reporter):
    """Has this process sent a signal when an event comes, as a scheduler might at that moment."""

    def __init__(self, kind: type, number: int, step: int = 0) -> None:
        self._kind, self._number, self._step = kind, number, step

    def event(self, event: Event) -> None:
        if isinstance(event, self._kind) and getattr(event, "step", self._step) == self._step:
            os.kill(os.getpid(), self._number)


def run(
    run_dir: Path, data: Path, display: Reporter | None = None, disk: Disk | None = None, **more: Any
) -> Any:
    given = {**RECIPE, "data": str(data), "run_dir": str(run_dir), **more}
    with contextlib.ExitStack() as held:
        plan = prepare_run(given, preset=None, config_file=None, argv=["train"], held=held)
        return run_rank(plan, World(), display or Reporter(), disk=disk)


@pytest.fixture(scope="module")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of twelve steps that nothing has interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert run(path, image_folder, checkpoint_freq=5)["steps"] == 24
    return path


@pytest.mark.parametrize(
    ("display", "step", "name"),
    [
        # Step 5 is reported when step 7 is on its way; 8 carries the wish, which is read back with 10.
        (SignalAt(StepDone, signal.SIGUSR1, 5), 11, "SIGUSR1"),
        (SignalAt(StepDone, signal.SIGHUP, 11), 12, "SIGHUP"),
        # Between the last step of an epoch and its evaluation, which is then left.
        (SignalAt(EpochTrained, signal.SIGTERM), 12, "SIGTERM"),
    ],
)
def test_run_stopped_anywhere_resumes_byte_identical(
    command: Command, image_folder: Path, whole: Path, tmp_path: Path, display: SignalAt, step: int, name: str
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    stopped = run(tmp_path / "cut", image_folder, display)
    assert isinstance(stopped, Stopped)
    assert (stopped.step, stopped.reason) == (step, name)
    assert (tmp_path / "cut" / "checkpoints" / f"step-{step:08d}").is_dir()
    assert {number: signal.getsignal(number) for number in before} == before
    resumed = command("train", "--resume", "cut")
    assert resumed.code == 0, resumed.err
    check_same(tmp_path / "cut", whole, 24)


def test_checkpoints_between_epochs(command: Command, tmp_path: Path, whole: Path) -> None:
    folder = whole / "checkpoints"
    found = sorted(filter(None, (step_of(path.name) for path in folder.iterdir())))
    assert found == [5, 10, 12, 15, 20, 24] == [r["step"] for r in records(whole, "checkpoint")]
    unfinished = {step: read_manifest(folder / f"step-{step:08d}")["unfinished"] for step in found}
    steps = {step: part and part["steps"] for step, part in unfinished.items()}
    assert steps == {5: 5, 10: 10, 12: None, 15: 3, 20: 8, 24: None}
    assert "ms beside training, which waited" in (whole / "log.txt").read_text()
    costs = json.loads((whole / "results.json").read_text())["checkpoints"]
    assert costs["written"] == 6 and 0 < costs["blocked_max_s"] <= costs["blocked_s"]
    # From each of them a run goes on to the same end.
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for step in (20, 5):
        cut = run / "checkpoints" / f"step-{step:08d}"
        outcome = command("train", "--resume", cut, "--checkpoint-freq", 0)
        assert outcome.code == 0, outcome.err
        check_same(run, whole, 24)


class FullDisk(Disk):
    """A disk that is full once there are so many checkpoints."""

    def write(self, path: Path, content: Content) -> None:
        full = (path.parent.parent / "step-00000004").exists()
        super().write(Path("/dev/full") if full else path, content)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to be a full disk")
def test_failed_save_ends_run_with_reason(image_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(UserError, match=r"cannot write .*step-00000008.*No space left on device"):
        run(path, image_folder, disk=FullDisk(), checkpoint_freq=4)
    folder = path / "checkpoints"
    found, _ = newest_good(folder)
    assert found is not None and found.path == folder / "step-00000004"
    assert {path.name for path in folder.iterdir()} == {"step-00000004", "latest.json"}
    assert "step-00000008" in (path / "log.txt").read_text()
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint-writer"]


def test_max_time_stops_and_saves(command: Command, image_folder: Path, tmp_path: Path) -> None:
    outcome = command(
        *("train", *TINY, "--data", image_folder, "--epochs", 500, "--run-dir", "run"), *("--max-time", "2s")
    )
    assert outcome.code == 75, outcome.err
    assert outcome.err.endswith(
        "stopped by --max-time 2s after step 3, which is saved. Go on with: "
        "shufflenet-fn train --resume run\n"
    )
    assert "stopped by --max-time 2s" in (tmp_path / "run" / "log.txt").read_text()
    # The limit was of that start only.
    assert command("train", "--resume", "run", "--max-steps", 4).code == 0


def test_the_same_command_starts_and_goes_on(command: Command, image_folder: Path) -> None:
    named = ("train", *TINY, "--data", image_folder, "--resume", "auto", "--epochs", 1, "--run-dir", "run")
    first, again = (command(*named, "--max-steps", steps) for steps in (4, 5))
    assert first.code == 0 and "so this is a start" in first.out, first.err
    assert again.code == 0 and "going on with run" in again.out and "at step 4" in again.out, again.err


def test_max_steps_does_not_finish_a_run(command: Command, image_folder: Path, tmp_path: Path) -> None:
    named = ("train", *TINY, "--data", image_folder, "--resume", "auto", "--epochs", 1)
    runs = tmp_path / "runs"
    assert command(*named, "--max-steps", 2, "--checkpoint-freq", 1).code == 0
    assert "so this is a start" in command(*named, "--max-steps", 2).out
    # One whose newest checkpoint is damaged is not done for that.
    (runs / "x0_5-001").rename(runs / "x0_5-003")
    for name in ("x0_5-002", "x0_5-003"):
        (runs / name / "checkpoints" / "step-00000002" / "manifest.json").write_bytes(b"")
    longer = command(*named, "--max-steps", 3)
    assert "going on with runs/x0_5-003" in longer.out and "at step 1" in longer.out
    assert "step-00000002 is damaged" in longer.out
    # Results with nothing to go on from are left alone.
    shutil.rmtree(runs / "x0_5-003")
    assert "so this is a start" in command(*named, "--max-steps", 3).out
    # To the end, after which it is done.
    assert "going on with runs/x0_5-003" in command(*named).out
    assert "so this is a start" in command(*named, "--max-steps", 1).out
    assert sorted(path.name for path in runs.iterdir()) == [f"x0_5-00{n}" for n in (2, 3, 4)]


def test_run_without_usable_checkpoint_is_not_restarted(
    command: Command, image_folder: Path, tmp_path: Path
) -> None:
    named = ("train", *TINY, "--data", image_folder, "--resume", "auto", "--epochs", 1)
    for number in ("001", "002"):
        outcome = command(*named, "--run-dir", f"runs/x0_5-{number}", "--max-steps", 1)
        assert outcome.code == 0, outcome.err
        (tmp_path / "runs" / f"x0_5-{number}" / "results.json").unlink()  # as if it had been killed
    folder = tmp_path / "runs" / "x0_5-002" / "checkpoints"
    before = {path.name for path in folder.iterdir()}
    (folder / "step-00000001" / "manifest.json").write_bytes(b"")
    refused = command(*named, "--run-dir", "runs/x0_5-002")
    assert refused.code == 1 and "step-00000001 is damaged" in refused.err
    assert {path.name for path in folder.iterdir()} == before
    passed = command(*named, "--output", "runs", "--max-steps", 2)
    assert passed.code == 0, passed.err
    assert "going on with runs/x0_5-001" in passed.out and "step-00000001 is damaged" in passed.out
    # Nor is one that is refused in the way of another.
    (tmp_path / "runs" / "x0_5-001" / "results.json").unlink()
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path)
    passed = command(*named, "--output", "runs", "--max-steps", 3)
    assert passed.code == 0, passed.err
    assert "going on with runs/x0_5-001" in passed.out and "leads out of the run" in passed.out
