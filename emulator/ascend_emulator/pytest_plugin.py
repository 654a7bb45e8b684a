"""Fixtures for tests that run on the emulator.

Import ``libraries``, ``npu``, ``forks``, ``on_emulator`` and ``pytest_configure`` in a ``conftest.py``, or
start pytest with ``-p ascend_emulator.pytest_plugin``. Elsewhere, tests that need the emulator are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from ascend_emulator.build import LIBRARIES
from ascend_emulator.counters import Counts
from ascend_emulator.environment import Machine, variables
from ascend_emulator.forks import Forks
from ascend_emulator.report import PATTERN, read_reports

HOW = "run it in an environment with torch_npu: ascend-emulator run --devices 2 -- python -m pytest"


def pytest_configure(config: pytest.Config) -> None:
    # Where torch_npu is installed, ``import torch`` loads it, and fails without CANN's libraries: then the
    # modules that import torch could not even be collected to be skipped.
    if not os.environ.get(LIBRARIES):
        os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    # torch_npu says this once a process, in whichever test comes first.
    config.addinivalue_line("filterwarnings", "ignore:Cannot create tensor with internal format:UserWarning")


class Ran(NamedTuple):
    """How a script on the emulator ended, and what each of its processes counted."""

    code: int
    out: str
    err: str
    counts: list[Counts]


OnEmulator = Callable[..., Ran]


@pytest.fixture(scope="session")
def libraries() -> Path:
    """The emulator's libraries, which this process runs on."""
    folder = os.environ.get(LIBRARIES)
    if not folder:
        pytest.skip(f"not on the emulator; {HOW}")
    return Path(folder)


@pytest.fixture(scope="session")
def npu(libraries: Path) -> ModuleType:
    """``torch.npu``, with the real torch_npu under it."""
    pytest.importorskip("torch_npu", reason=f"torch_npu cannot be imported; {HOW}")
    import torch

    return torch.npu  # type: ignore[no-any-return, attr-defined]  # torch_npu adds it


@pytest.fixture(scope="session")
def forks(npu: ModuleType) -> Iterator[Forks]:
    """A process that has imported torch and torch_npu, which others are forked from."""
    with Forks() as started:
        yield started


@pytest.fixture
def on_emulator(libraries: Path, tmp_path: Path, request: pytest.FixtureRequest) -> OnEmulator:
    """Run a Python script in a process of its own, on a machine of its own.

    With ``imported=True``, the process has imported torch and torch_npu already, which saves seconds.
    """

    def run(
        script: str,
        *arguments: str,
        imported: bool = False,
        timeout: float = 120.0,
        environ: dict[str, str] | None = None,
        **machine: object,
    ) -> Ran:
        folder = tmp_path / "counts"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        settings = variables(
            libraries,
            Machine(**machine),  # type: ignore[arg-type]
            report=str(folder / PATTERN),
        )
        env = {**os.environ, **settings, **(environ or {})}
        cwd = request.config.rootpath
        if imported:
            forks: Forks = request.getfixturevalue("forks")
            (ended,) = forks.run(script, arguments, [env], cwd=cwd, within=timeout)
            return Ran(ended.code, ended.out, ended.err, read_reports(folder))
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(
            command, env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr, read_reports(folder))

    return run
