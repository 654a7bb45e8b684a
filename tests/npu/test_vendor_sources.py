"""What training and evaluation launch was compared with the vendor's documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from ascend_emulator.environment import Machine, variables
from ascend_emulator.report import PATTERN, read_reports
from ascend_emulator.vendor_sources import Kind, emulated_functions
from tests.conftest import Command

SOURCED: tuple[Kind, ...] = ("operator",)


@pytest.fixture
def launched(
    libraries: Path, image_folder: Path, process: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> set[str]:
    """Names of what two ranks in O2 launch, and an evaluation after them."""
    counts = tmp_path / "counts"
    counts.mkdir()
    settings = variables(libraries, Machine(devices=2), report=str(counts / PATTERN))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    data = ("--data", image_folder, "--device", "npu", "--batch-size", 2)
    recipe = ("--arch", "x0_5", "--image-size", 40, "--max-steps", 2, "--precision", "O2")
    more = ("--ema-decay", 0.9, "--clip-norm", 1, "--mixup", 0.2, "--accumulate", 2)
    run = tmp_path / "run"
    for command in (
        ("train", *data, *recipe, *more, "--devices", 2, "--run-dir", run),
        ("evaluate", run, *data),
    ):
        ended = process(*command)
        assert ended.code == 0, ended.err
    return {name for one in read_reports(counts) for name in one.total.kernels}


def test_launched_operators_have_a_source(npu: object, launched: set[str]) -> None:
    functions = {one.name: one for one in emulated_functions()}
    named = {name for name in launched if name.startswith(("aclnn", "Hccl"))}
    assert {"aclnnConvolution", "aclnnAddmm", "HcclAllReduce"} <= named <= functions.keys()
    assert [
        name for name in sorted(named) if functions[name].kind in SOURCED and not functions[name].sources
    ] == []
