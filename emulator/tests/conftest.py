"""Fixtures for the emulator's tests.

    cd emulator && ascend-emulator run --devices 2 -- python -m pytest

runs all of them, in an environment with torch_npu. Elsewhere what needs torch_npu is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ascend_emulator.pytest_plugin import forks, libraries, npu, on_emulator, pytest_configure

__all__ = ["forks", "libraries", "npu", "on_emulator", "pytest_configure"]

REPOSITORY = Path(__file__).resolve().parent.parent
"""The folder of this distribution."""


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test session that all of pytest-xdist's workers see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def process(tmp_path: Path) -> Command:
    """Run ``ascend-emulator`` as a process of its own in ``tmp_path``."""

    def run(*arguments: object, timeout: float = 300.0) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "ascend_emulator.main", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run
