"""What training and evaluation launch was compared with the vendor's documents."""

from __future__ import annotations

from pathlib import Path

from ascend_emulator.counters import snapshot
from ascend_emulator.vendor_sources import emulated_functions
from tests.conftest import Command
from tests.npu.conftest import counted_run


def test_launched_operators_have_a_source(command: Command, image_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--max-steps", 2, "--precision", "O2", "--ema-decay", 0.9, "--clip-norm", 1)
    counted_run(command, image_folder, run, *options, "--mixup", 0.2, "--accumulate", 2)
    evaluated = command("evaluate", run, "--data", image_folder, "--device", "npu", "--batch-size", 2)
    assert evaluated.code == 0, evaluated.err
    launched = {name for name in snapshot().total.kernels if name.startswith("aclnn")}
    functions = {one.name: one for one in emulated_functions()}
    assert {"aclnnConvolution", "aclnnAddmm"} <= launched <= functions.keys()
    assert [name for name in sorted(launched) if not functions[name].sources] == []
