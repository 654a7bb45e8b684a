"""Fixtures for what runs on the emulator of CANN: ``ascend-emulator run -- python -m pytest tests/npu``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from ascend_emulator.counters import DeviceCounts, reset, snapshot
from ascend_emulator.pytest_plugin import forks, libraries, npu, on_emulator, pytest_configure
from tests.conftest import Command

__all__ = ["forks", "libraries", "npu", "on_emulator", "pytest_configure"]


@pytest.fixture
def command(npu: object, command: Command) -> Iterator[Command]:
    """Run ``shufflenet-fn`` on the devices of this process, without leaving its variables set."""
    with patch.dict(os.environ):
        yield command


def counted_run(command: Command, images: Path, run: Path, *options: object) -> DeviceCounts:
    """Train one epoch into ``run`` with ``options``, and count."""
    recipe = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 2, "--epochs", 1, "--device", "npu")
    reset()
    outcome = command("train", "--data", images, *recipe, "--run-dir", run, *options)
    assert outcome.code == 0, outcome.err
    return snapshot().total
