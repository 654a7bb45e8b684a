"""Resuming: nothing is lost, nothing is silently different."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.checkpoint.weights import read_weights
from shufflenet_fn.run import training
from shufflenet_fn.run.directory import LOCK
from tests.cli.conftest import TINY, checkpoint, records

Command = Callable[..., Any]


@pytest.fixture
def data(image_folder: Path, tmp_path: Path) -> Path:
    """A copy of its data that a test may change."""
    return Path(shutil.copytree(image_folder, tmp_path / "data"))


def steps(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())


def content(run: Path) -> dict[Path, bytes]:
    """All files of a run, save the lock, which has a line for each start."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != LOCK}


def log(run: Path) -> str:
    return (run / "log.txt").read_text()


def test_resume_from_earlier_checkpoint_keeps_old_branch(command: Command, run: Path) -> None:
    first = run / "checkpoints" / "step-00000003"
    outcome = command("train", "--resume", first, "--max-steps", 4, "--keep", 1)
    assert outcome.code == 0, outcome.err
    assert "renamed to superseded-step-00000009" in outcome.out
    assert "step-00000004" in steps(run)
    assert {"superseded-step-00000006", "superseded-step-00000009"} <= set(steps(run))
    again = command("train", "--resume", run)
    assert again.code == 0, again.err
    assert "at step 4" in again.out and steps(run)[-1].startswith("superseded")
    assert [r["epoch"] for r in records(run, "eval")] == [0, 1, 2]
    # The log keeps what was taken back, and says so before it is told again.
    parts = re.split(r"\n===== .*: going on after (?:3|4) updates\. .*\n", log(run))
    told = [[part.count(f"Epoch: [{epoch}][0/3]") for epoch in range(3)] for part in parts]
    assert told == [[1, 1, 1], [0, 1, 0], [0, 0, 1]]


_COUNTING = """
import os, sys

def count(event, args):
    if event == "open" and isinstance(args[0], (str, os.PathLike)):
        path, flags = os.fspath(args[0]), args[2]
        if path.endswith("step-00000006/weights.safetensors") and not flags & (os.O_WRONLY | os.O_RDWR):
            descriptor = os.open(os.environ["READS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, b"%d\\n" % os.getpid())
            os.close(descriptor)

sys.addaudithook(count)
"""


@pytest.mark.parametrize(
    "resume", ["directory", "auto", "checkpoint", pytest.param("two ranks", marks=pytest.mark.slow)]
)
def test_resume_reads_its_checkpoint_once(run: Path, tmp_path: Path, resume: str) -> None:
    """In each process that reads it; ranks are handed what their launcher has read."""
    shutil.rmtree(run / "checkpoints" / "step-00000009")
    (run / "results.json").unlink()
    hook, reads = tmp_path / "hook", tmp_path / "reads"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_COUNTING)
    paths = os.pathsep.join([str(hook), *sys.path])
    where: dict[str, tuple[object, ...]] = {
        "directory": (run,),
        "auto": ("auto", "--run-dir", run),
        "checkpoint": (run / "checkpoints" / "step-00000006",),
        "two ranks": (run, "--devices", 2, "--microbatches", 2),
    }
    subprocess.run(
        [sys.executable, "-m", "shufflenet_fn_cli.main", "train", "--max-steps", "7", "--resume"]
        + [str(part) for part in where[resume]],
        env={**os.environ, "PYTHONPATH": paths, "READS": str(reads)},
        cwd=tmp_path,
        check=True,
    )
    assert (run / "checkpoints" / "step-00000007").is_dir()
    assert len(reads.read_text().splitlines()) == 1


@pytest.mark.parametrize("before", [None, "step-00000001"])
def test_resume_restores_missing_best_pointer(command: Command, run: Path, before: str | None) -> None:
    """As if the run had been killed between writing it and saying that it is the best."""
    pointer = run / "checkpoints" / "best.json"
    pointer.unlink()
    if before is not None:
        pointer.write_text(json.dumps({"checkpoint": before}))
    first = run / "checkpoints" / "step-00000003"
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest["best"]["epoch"] == 0, "the first evaluation is the best so far"
    outcome = command("train", "--resume", first, "--max-steps", 4)
    assert outcome.code == 0, outcome.err
    assert json.loads(pointer.read_text()) == {"checkpoint": "step-00000003"}
    after = json.loads((run / "checkpoints" / "step-00000004" / "manifest.json").read_text())
    assert after["best"] == manifest["best"]


def test_unwritable_run_directory_is_one_error(command: Command, run: Path) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    (run / ".metrics.jsonl.partial").mkdir()  # as a full disk, the new file cannot be written
    outcome = command("train", "--resume", run)
    assert outcome.code == 1 and len(outcome.err.strip().splitlines()) == 1
    assert f"error: cannot bring the run directory {run} back to 9 updates: " in outcome.err
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("link", ["step-00000009", "log.txt", "config.json"])
def test_a_link_out_of_the_run_directory(command: Command, run: Path, tmp_path: Path, link: str) -> None:
    """In place of a checkpoint it is set aside; what the run would write through it is refused."""
    outside = tmp_path / "outside"
    outside.write_text("precious")
    is_checkpoint = link.startswith("step")
    place = run / "checkpoints" / link if is_checkpoint else run / link
    if is_checkpoint:
        shutil.rmtree(place)
    else:
        place.unlink()
    place.symlink_to(outside)
    outcome = command("train", "--resume", run)
    assert outside.read_text() == "precious"
    if not is_checkpoint:
        assert outcome.code == 1 and f"error: {place} is a symbolic link" in outcome.err
        return
    assert outcome.code == 0, outcome.err
    assert (run / "checkpoints" / f"superseded-{link}").is_symlink()
    assert (place / "manifest.json").is_file() and not place.is_symlink()


def test_missing_results_are_written_on_resume(command: Command, run: Path) -> None:
    """As if it had been killed after its last checkpoint."""
    results, before = run / "results.json", records(run)
    whole = json.loads(results.read_text())
    results.unlink()
    outcome = command("train", "--resume", run)
    assert outcome.code == 0, outcome.err
    assert records(run) == before, "what was evaluated is not evaluated again"
    again = json.loads(results.read_text())
    same = ("accuracy1", "accuracy5", "loss", "num_images", "best_accuracy1", "best_epoch", "steps")
    assert {name: again[name] for name in same} == {name: whole[name] for name in same}


@pytest.mark.parametrize("change", ["another name", "one more"])
def test_other_classes_are_an_error(command: Command, run: Path, data: Path, change: str) -> None:
    for split in ("train", "val"):
        if change == "one more":
            shutil.copytree(data / split / "red", data / split / "rouge")
        else:
            (data / split / "red").rename(data / split / "rouge")
    before = content(run)
    outcome = command("train", "--resume", run / "checkpoints" / "step-00000006", "--data", data)
    assert outcome.code == 2
    assert "other classes" in outcome.err and "rouge" in outcome.err
    assert "--pretrained" in outcome.err
    assert content(run) == before, "refused before the run was brought back to that checkpoint"


def test_class_folders_with_hostile_names(command: Command, data: Path) -> None:
    for split in ("train", "val"):
        for old, new in (("red", b"\xffred"), ("green", b"\x1b[2J\nline")):
            (data / split / old).rename(data / split / os.fsdecode(new))
    train = ("train", *TINY, "--data", data, "--run-dir", "hostile", "--epochs", 1)
    for more in (("--max-steps", 1), ("--resume", "auto")):
        outcome = command(*train, *more)
        assert outcome.code == 0 and "\x1b" not in outcome.out, outcome.err
    shown = command("checkpoint", "show", "hostile").out
    assert "\\xffred" in shown and "\\x1b[2J\\nline" in shown


@pytest.mark.parametrize(("batch", "length"), [(12, 2), (4, 6)])
def test_another_batch_size_goes_on_after_the_same_epochs(
    command: Command, run: Path, monkeypatch: pytest.MonkeyPatch, batch: int, length: int
) -> None:
    made, read = training.train_loader, []

    def loader(*args: Any, **options: Any) -> Any:
        read.append(range(options["start_step"], options["stop_step"]))
        return made(*args, **options)

    monkeypatch.setattr(training, "train_loader", loader)
    third = run / "checkpoints" / "step-00000003"
    outcome = command("train", "--resume", third, "--batch-size", batch, "--print-freq", 1)
    assert outcome.code == 0, outcome.err
    assert f"steps_per_epoch is {length}, and was 3" in outcome.err
    assert read == [range(length, 3 * length)], "the whole of the last two epochs"
    assert json.loads((run / "results.json").read_text())["steps"] == 3 + 2 * length
    trained = [r for r in records(run, "train") if r["step"] >= 3]
    assert [(r["epoch"], r["step_in_epoch"]) for r in trained] == [
        (epoch, number) for epoch in (1, 2) for number in range(length)
    ]
    assert [round(r["learning_rate"], 4) for r in trained[::length]] == [0.075, 0.025]
    listed = json.loads(command("checkpoint", "list", run, "--json").out)["checkpoints"]
    epochs = {item["step"]: item["epoch"] for item in listed}
    assert epochs == {3: 1.0, 3 + length: 2.0, 3 + 2 * length: 3.0}
    # Back at its first epoch, and once more from there: nothing of the branch is left.
    kept = [r for r in records(run, "epoch", "eval") if r["epoch"] == 0]
    outcome = command("train", "--resume", third, "--max-steps", 4)
    assert outcome.code == 0, outcome.err
    assert [r for r in records(run, "epoch", "eval") if r["epoch"] == 0] == kept


def test_a_change_within_an_epoch_names_the_way_out(command: Command, run: Path) -> None:
    third = run / "checkpoints" / "step-00000003"
    assert command("train", "--resume", third, "--max-steps", 4).code == 0
    before = content(run)
    wider = ("train", "--resume", run, "--batch-size", 24, "--epochs", 2)
    refused = command(*wider)
    assert refused.code == 2 and len(refused.err.strip().splitlines()) == 1
    assert "24 images per update instead of 8" in refused.err and f"{third}." in refused.err
    assert content(run) == before
    end = re.search(r"shufflenet-fn (train --resume \S+ --max-steps 6),", refused.err)
    assert end is not None, refused.err
    assert command(*end[1].split()).code == 0
    outcome = command(*wider)
    assert outcome.code == 0 and "nothing is left to do" in outcome.out, outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--run-dir", "elsewhere"), ("--run-dir has no place", "--pretrained")),
        (("--output", "elsewhere"), ("--output has no place", "--pretrained")),
        (("--ema-decay", 0.9), ("other settings",)),
        (("--momentum", 0), ("other settings",)),
        (("--clip-norm", 1), ("other settings",)),
        (("--precision", "O2"), ("other settings",)),
        (("--freeze", "stem"), ("of a run with --freeze none.", "--pretrained")),
        (("--opt", "adamw", "--lr", 0.1), ("of a run with --opt sgd.", "--pretrained")),
    ],
    ids=lambda value: value[0],
)
def test_unfit_settings_are_refused(
    command: Command, run: Path, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    before = content(run)
    outcome = command("train", "--resume", run / "checkpoints" / "step-00000003", *options)
    assert outcome.code == 2 and all(word in outcome.err for word in words), outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert content(run) == before, "refused before the run was brought back to that checkpoint"


def test_evaluate_uses_the_labels_of_the_run(command: Command, run: Path, data: Path) -> None:
    whole = json.loads(command("evaluate", run, "--data", data, "--json").out)
    for split in ("train", "val"):
        shutil.rmtree(data / split / "blue")
    part = json.loads(command("evaluate", run, "--data", data, "--json").out)
    assert (whole["num_images"], part["num_images"]) == (10, 6)
    # Green and red keep labels 1 and 2: what is right of them was right before.
    right = [round(r["accuracy1"] * r["num_images"] / 100) for r in (whole, part)]
    assert right[0] - 4 <= right[1] <= right[0]
    shutil.rmtree(data / "train")  # evaluating needs the evaluated split only
    bare = (run / "checkpoints" / "step-00000009" / "weights.safetensors", "--arch", "x0_5")
    for weights in ((run,), (*bare, "--image-size", 32)):
        told = command("evaluate", *weights, "--data", data).err
        assert "labels: mapped by class names; the data has 2 of the weights' 3 classes" in told
    (data / "val" / "red").rename(data / "val" / "rot")
    refused = command("evaluate", run, "--data", data)
    assert refused.code == 2 and "1 class that the list of the weights' classes lacks: rot" in refused.err


def test_evaluate_maps_class_names_of_a_file(command: Command, run: Path, data: Path, tmp_path: Path) -> None:
    weights = read_weights(run).tensors
    permuted = {key: value[[2, 0, 1]] if key.startswith("fc.") else value for key, value in weights.items()}
    torch.save({"net": permuted, "classes": ["red", "blue", "green"]}, tmp_path / "w.pth")
    more = ("--data", data, "--image-size", 32, "--json")
    told = command("evaluate", "w.pth", "--arch", "x0_5", *more)
    assert "labels: mapped by class names; the data has 3 of the weights' 3 classes" in told.err
    scores, expected = (json.loads(out) for out in (told.out, command("evaluate", run, *more).out))
    assert expected["labels_mapped"] is False and scores["labels_mapped"] is True
    assert scores["accuracy1"] == expected["accuracy1"]
    assert scores["loss"] == pytest.approx(expected["loss"])


def test_resume_does_not_need_initial_weights(
    command: Command, run: Path, data: Path, tmp_path: Path
) -> None:
    first = run.rename(tmp_path / "first")
    outcome = command(
        *("train", *TINY, "--data", data, "--epochs", 2, "--max-steps", 2, "--run-dir", "second"),
        *("--pretrained", first),
    )
    assert outcome.code == 0, outcome.err
    shutil.rmtree(first)
    outcome = command("train", "--resume", "second")
    assert outcome.code == 0, outcome.err
    stored = json.loads((tmp_path / "second" / "config.json").read_text())
    assert stored["settings"]["pretrained"] == str(first)


def test_a_static_loss_scale_given_at_a_resume(command: Command, image_folder: Path, tmp_path: Path) -> None:
    scaled = ("--precision", "O2", "--loss-scale", 64, "--max-steps", 1, "--run-dir", "scaled")
    assert command("train", *TINY, "--data", image_folder, "--epochs", 2, *scaled).code == 0
    outcome = command("train", "--resume", "scaled", "--loss-scale", 128, "--max-steps", 2)
    assert outcome.code == 0, outcome.err
    assert "loss_scale changes at the resume from '64' to '128'" in outcome.out
    state = checkpoint(tmp_path / "scaled", 2).files["state.safetensors"]
    (scale,) = (tensor for name, tensor in state.items() if name.endswith("loss_scale.scale"))
    assert scale == 128
    refused = command("train", "--resume", "scaled", "--loss-scale", "none", "--max-steps", 3)
    assert refused.code == 2 and "other settings" in refused.err
