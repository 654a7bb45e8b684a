"""``pytest tests/parity --device …``: a missing device is one usage error."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shufflenet_fn_backends.runtimes import cuda
from shufflenet_fn_backends.runtimes.npu import runtime as npu
from tests.conftest import REPOSITORY

REASONS = {"cuda": cuda.unavailable_reason, "npu": npu.unavailable_reason}


def collect(device: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "tests/parity/test_contrib.py", "--device", device]
    return subprocess.run(
        [*command, "--collect-only", "-q"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("name", REASONS)
def test_a_device_that_is_not_there(name: str) -> None:
    reason = REASONS[name]()
    if reason is None:
        pytest.skip(f"{name} is there")
    done = collect(name)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert reason in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_device_that_does_not_exist() -> None:
    done = collect("tpu")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "tpu" in done.stderr and "npu" in done.stderr
