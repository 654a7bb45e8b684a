"""Every mistake a user can make ends in one message, the right exit code, and no traceback."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.variables import init

Command = Callable[..., tuple[int, str, str]]

TINY = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--epochs", 1, "--device", "cpu")


def check_refused(outcome: tuple[int, str, str], code: int, *words: str) -> None:
    """Check the exit code, that no traceback is printed, and one error message that has all ``words``."""
    got, out, err = outcome
    assert got == code, err
    assert "Traceback" not in out + err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1 or "Usage: " in err
    for word in words:
        assert word in err, f"{word!r} is not in: {err}"


@pytest.fixture
def broken_copy(image_folder: Path, tmp_path: Path) -> Path:
    """A copy of the image folder that a test may damage."""
    return Path(shutil.copytree(image_folder, tmp_path / "data"))


def test_class_in_val_that_train_lacks(command: Command, broken_copy: Path) -> None:
    (broken_copy / "val" / "red").rename(broken_copy / "val" / "rde")
    check_refused(command("train", *TINY, "--data", broken_copy), 2, "rde", "red")


def test_file_that_is_no_image(command: Command, broken_copy: Path) -> None:
    (broken_copy / "train" / "red" / "03.jpg").write_text("this is not an image")
    check_refused(command("train", *TINY, "--data", broken_copy, "--run-dir", "run"), 1, "03.jpg")
    assert "03.jpg" in (broken_copy.parent / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "nowhere"), ("nowhere",)),
        (("--data", "empty"), ("empty", "train")),
        (("--run-dir", "file/run"), ("file/run", "--run-dir")),
        (("--run-dir", "taken"), ("taken", "--resume")),
        (("--devices", 2, "--batch-size", 7), ("7", "2 devices", "6", "8")),
        (("--running-stats", "kernel"), ("--running-stats kernel is for device npu", "device cpu")),
        (("--arch", "x1_1"), ("x1_1", "did you mean", "shufflenet_v2_x1_0", "x2_0")),
        (("--preset", "ascend-8"), ("ascend-8", "did you mean 'ascend-8p'", "demo")),
        (("--batch-size", 1), ("1 image per microbatch", "--batch-size 2", "--image-size 33")),
        (
            ("--batch-size", 4, "--accumulate", 2, "--lanes", 8),
            ("1 image per microbatch", "fewer --microbatches"),
        ),
        (("--batch-size", 2, "--devices", 2), ("1 image per microbatch", "--devices")),
        (("--schedule", "cosin"), ("cosin", "did you mean 'cosine'", "epoch-cosine")),
        (("--precision", "bf61"), ("bf61", "did you mean 'bf16'", "O2")),
        (("--backend", "refrence"), ("refrence", "did you mean 'reference'")),
        (("--device", "gpu"), ("gpu", "cuda", "npu")),
        (("--loss-scale", "-1"), ("-1", "dynamic", "64")),
        (("--momentum", "1.5"), ("--momentum", "1.5", "below 1")),
        (("--learning-rate", "0"), ("--learning-rate", "above 0")),
        (("--learning-rate", "nan"), ("--learning-rate", "nan")),
        (("--head-lr", "inf"), ("--head-lr", "inf", "finite")),
        (("--nesterov", "--momentum", "0"), ("--nesterov", "--momentum")),
        (("--eval-resize", "16"), ("--eval-resize 16", "--image-size 32")),
        (("--amp", "--precision", "bf16"), ("--amp", "--precision")),
        (("--num-classes", "2"), ("--num-classes 2", "3 classes")),
        (("--batch-size", "48"), ("48", "24")),
        (("--dist-backend", "hccl"), ("hccl", "gloo")),
        (("--node-rank", "3"), ("--node-rank 3", "--nnodes 1")),
        (("--nnodes", "2"), ("--nnodes 2", "--rdzv-endpoint", "--addr")),
        (("--nnodes", "2", "--rdzv-endpoint", "host"), ("'host'", "HOST:PORT")),
        (("--nnodes", "2", "--rdzv-endpoint", "host:port"), ("'host:port'", "host0:29500")),
        (("--nnodes", "2", "--rdzv-endpoint", "host:99999"), ("host:99999", "1 to 65535")),
        (
            ("--nnodes", "2", "--addr", "host0", "--max-restarts", "1"),
            ("--max-restarts 1", "--nnodes is 2", "--resume auto"),
        ),
        (("--opt-level", "O3"), ("--opt-level O3", "--amp")),
        (
            ("--freeze", "stem,stag2"),
            ("'stem,stag2'", "'stag2' is no part", "did you mean 'stage2'", "conv5"),
        ),
        (("--freeze", ""), ("--freeze '': '' is no part", "stem, stage2")),
        (("--freeze", "stage2,head"), ("the classifier is always trained", "stem, stage2")),
        (("--head-lr", "0"), ("--head-lr", "above 0")),
        (("--opt", "adam"), ("did you mean 'adamw'", "sgd")),
        (("--opt", "adamw"), ("--opt adamw needs a learning rate", "0.1 (default)", "--lr 0.001")),
        (("--preset", "finetune", "--opt", "adamw"), ("0.01 (preset finetune)", "--lr 0.001")),
        (("--opt", "adamw", "--lr", "0.001", "--nesterov"), ("--nesterov is for --opt sgd",)),
        (("--opt", "adamw", "--lr", "0.001", "--momentum", "0.5"), ("--momentum 0.5 is for --opt sgd",)),
        (("--device-list", "0,0"), ("0,0",)),
        (("--pretrained", "none.pth"), ("none.pth",)),
        (("--resume", "none"), ("none",)),
        (("--config", "none.yaml"), ("none.yaml",)),
        (("--run-dir", "/proc/nothing/here"), ("/proc/nothing/here", "--run-dir")),
    ],
)
def test_value_that_is_not_allowed(
    command: Command, image_folder: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    for folder in ("empty", "taken"):
        Path(folder).mkdir()
    for file in ("file", "taken/config.json"):
        Path(file).write_text("{}")
    before = {path: path.is_dir() or path.read_text() for path in Path.cwd().rglob("*")}
    check_refused(command("train", *TINY, "--data", image_folder, *arguments), 2, *words)
    # Nothing is left that would be in the way of the corrected command.
    assert {path: path.is_dir() or path.read_text() for path in Path.cwd().rglob("*")} == before


def test_missing_data_and_unknown_option_are_named(command: Command) -> None:
    check_refused(command("train", *TINY), 2, "no training data", "--data", "demo")
    check_refused(command("train", "--learning-rat", "1"), 2, "--learning-rat", "--learning-rate")


@pytest.mark.parametrize("device", ["npu", "cuda"])
def test_devices_that_are_not_there(command: Command, image_folder: Path, device: str) -> None:
    check_refused(
        command("train", *TINY, "--data", image_folder, "--device", device, "--devices", 8),
        3,
        f"device {device} is not available",
        "--device cpu",
    )


def test_checkpoint_of_another_architecture(command: Command, image_folder: Path, tmp_path: Path) -> None:
    done = command("train", *TINY, "--data", image_folder, "--run-dir", "run", "--max-steps", 1)
    assert done.code == 0, done.err
    check_refused(
        command("train", "--resume", "run", "--arch", "x1_0"), 2, "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"
    )
    check_refused(command("evaluate", "run", "--arch", "x1_0"), 2, "shufflenet_v2_x0_5", "shufflenet_v2_x1_0")
    weights = next((tmp_path / "run" / "checkpoints").glob("step-*")) / "weights.safetensors"
    check_refused(
        command("evaluate", weights, "--arch", "x1_0", "--data", image_folder), 2, "do not fit", "--arch x0_5"
    )
    check_refused(command("evaluate", weights, "--data", image_folder), 2, "--arch")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (2, ("w.pth are of 2 classes", "has 3", "'classes'", "--pretrained w.pth")),
        (1000, ("w.pth are of 1000 classes", "has 3", "'classes'", "--pretrained w.pth")),
        (None, ("no classifier (fc.weight, fc.bias)", "--pretrained w.pth")),
    ],
)
def test_evaluating_weights_without_fitting_classes(
    command: Command, image_folder: Path, tmp_path: Path, classes: int | None, words: tuple[str, ...]
) -> None:
    import torch

    from shufflenet_fn.checkpoint.torchvision import to_torchvision

    config = get_config("x0_5", num_classes=classes or 3)
    weights = to_torchvision(init(config, torch.Generator()), config)
    if classes is None:
        del weights["fc.weight"], weights["fc.bias"]
    torch.save(weights, tmp_path / "w.pth")
    check_refused(command("evaluate", "w.pth", "--arch", "x0_5", "--data", image_folder), 2, *words)


def test_damaged_checkpoint_is_skipped(command: Command, image_folder: Path, tmp_path: Path) -> None:
    arguments = (*TINY, "--epochs", 2, "--data", image_folder, "--run-dir", "run")
    assert command("train", *arguments).code == 0
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    file = newest / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    done = command("train", "--resume", "run")
    assert done.code == 0, done.err
    assert "skipped" in done.out and newest.name in done.out
    assert "at step 3" in done.out


def test_error_in_one_of_two_processes(process: Command, broken_copy: Path) -> None:
    (broken_copy / "train" / "red" / "03.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    outcome = process("train", *TINY, "--data", broken_copy, "--devices", 2)
    check_refused(outcome, 1, "03.jpg", "rank")


def test_updates_that_are_all_skipped_are_a_failure(command: Command, image_folder: Path) -> None:
    outcome = command(
        *("train", *TINY, "--data", image_folder, "--amp", "--loss-scale", 64, "--lr", 1e20),
        *("--epochs", 3, "--run-dir", "run"),
    )
    check_refused(outcome, 1, "diverged")


def test_full_disk(command: Command, image_folder: Path, tmp_path: Path) -> None:
    arguments = ("train", *TINY, "--data", image_folder, "--run-dir", "run", "--max-steps", 1)
    assert command(*arguments).code == 0
    (tmp_path / "run" / "log.txt").unlink()
    try:  # The device that is always full; a link to it would be refused.
        os.mknod(tmp_path / "run" / "log.txt", stat.S_IFCHR | 0o666, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("only root may make a device that is full")
    check_refused(command("train", "--resume", "run"), 1, "No space left", "--resume run")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("1 2", ("RANK=1", "LOCAL_RANK=", "torchrun")),
        ("x 2 0 2", ("RANK=x", "torchrun")),
        ("1 2 1 2", ("--device-list 0", "--nproc-per-node")),
        ("0 1 0 1", ("--max-restarts 2", "torchrun")),
        ("0 3 0 2 2", ("2 of 3 processes on 2 machines", "--devices", "--nproc-per-node")),
    ],
)
def test_environment_of_torchrun_that_does_not_fit(
    command: Command, image_folder: Path, monkeypatch: pytest.MonkeyPatch, values: str, words: tuple[str, ...]
) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
    for name, value in (("MASTER_ADDR", "localhost"), *zip(names, values.split(), strict=False)):
        monkeypatch.setenv(name, value)
    arguments = ("--run-dir", "r", "--device-list", "0", "--max-restarts", 2)
    check_refused(command("train", *TINY, "--data", image_folder, *arguments), 2, *words)
