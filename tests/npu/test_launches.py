"""What a training step costs an NPU, counted: the bars, and the table in docs/ascend.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ascend_emulator.counters import snapshot
from ascend_emulator.vendor_sources import emulated_functions
from benchmarks.launch_counts.ranks import count_case
from benchmarks.launch_counts.step_counts import StepCounts, at_batch_size
from benchmarks.launch_counts.worker import PEER, Case, counted
from tests.conftest import REPOSITORY, Command
from tests.npu.conftest import counted_run


@pytest.fixture(scope="module")
def fp32(npu: Any) -> dict[str, StepCounts]:
    return {name: in_this_process(Case(name, "fp32", 4, 64)) for name in (PEER, "gather", "npu")}


def in_this_process(case: Case) -> StepCounts:
    return StepCounts(**json.loads(counted(case)))


def test_peer_is_the_one_of_the_figures(fp32: dict[str, StepCounts]) -> None:
    assert fp32[PEER].calls == 493


def test_layers_are_computed_once(fp32: dict[str, StepCounts]) -> None:
    """56 convolutions and batch norms with their backward, 37 ReLU with theirs."""
    for counts in fp32.values():
        calls = counts.operators
        names = ("Convolution", "ConvolutionBackward", "BatchNorm", "BatchNormBackward")
        assert [calls[f"aclnn{name}"] for name in names] == [56] * 4
        assert calls["aclnnInplaceRelu"] == calls["aclnnThresholdBackward"] == 37


def test_a_step_waits_for_nothing(fp32: dict[str, StepCounts]) -> None:
    assert fp32[PEER].host_syncs > 0, "waits are not counted"
    for name in ("gather", "npu"):
        assert (fp32[name].host_syncs, fp32[name].host_copies) == (0, 0)


def test_no_call_is_for_the_order_of_weights(fp32: dict[str, StepCounts]) -> None:
    assert "aclnnIndexSelect" not in fp32["npu"].operators


@pytest.mark.campaign
def test_bytes_are_linear_in_batch_size(fp32: dict[str, StepCounts]) -> None:
    small, between = (in_this_process(Case("gather", "fp32", size, 64)) for size in (2, 3))
    assert at_batch_size(small, fp32["gather"], (2, 4), 3) == between
    with pytest.raises(ValueError, match="other kernels"):
        at_batch_size(small, fp32[PEER], (2, 4), 64)


@pytest.mark.campaign
def test_launches_of_o2_on_two_cards(libraries: Path, npu: Any) -> None:
    peer, ours = (
        StepCounts(**count_case(libraries, Case(name, "O2", 4, 64), 2, timeout_s=240))
        for name in (PEER, "gather")
    )
    assert ours.calls <= 0.65 * peer.calls
    assert ours.operators["HcclAllReduce"] == 1
    assert (ours.host_syncs, ours.host_copies) == (0, 0)


def test_the_table_in_the_documentation(fp32: dict[str, StepCounts]) -> None:
    page = (REPOSITORY / "docs" / "ascend.md").read_text(encoding="utf-8")
    block = page.partition("<!-- launches: begin -->")[2].partition("<!-- launches: end -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|$", block, re.MULTILINE)
    table = {name: (int(peer), int(ours)) for name, peer, ours in rows}
    names = {*fp32[PEER].operators, *fp32["gather"].operators}
    assert table == {
        name: (fp32[PEER].operators.get(name, 0), fp32["gather"].operators.get(name, 0)) for name in names
    }


def test_launched_operators_have_a_source(command: Command, image_folder: Path, tmp_path: Path) -> None:
    """What training and evaluation launch was compared with the vendor's documents."""
    run = tmp_path / "run"
    options = ("--max-steps", 2, "--precision", "O2", "--ema-decay", 0.9, "--clip-norm", 1)
    counted_run(command, image_folder, run, *options, "--mixup", 0.2, "--accumulate", 2)
    evaluated = command("evaluate", run, "--data", image_folder, "--device", "npu", "--batch-size", 2)
    assert evaluated.code == 0, evaluated.err
    launched = {name for name in snapshot().total.kernels if name.startswith("aclnn")}
    functions = {one.name: one for one in emulated_functions()}
    assert {"aclnnConvolution", "aclnnAddmm"} <= launched <= functions.keys()
    assert [name for name in sorted(launched) if not functions[name].sources] == []
