"""A run that has ended, for tests of what is done with one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

TINY = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--device", "cpu")


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
