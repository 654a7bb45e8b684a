"""What a training step costs an NPU, counted: the bars, and the table in docs/ascend.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.bench.launches_ranks import count_case
from shufflenet_fn.bench.launches_worker import PEER, Case
from tests.conftest import REPOSITORY

Counts = dict[str, Any]


@pytest.fixture(scope="module")
def fp32(libraries: Path, npu: Any) -> dict[str, Counts]:
    names = (PEER, "routed", "gather", "npu")
    return {
        name: count_case(libraries, Case(name, "fp32", 32, 128), timeout_s=240) for name in names
    }


def test_launches_in_float32(fp32: dict[str, Counts]) -> None:
    assert fp32[PEER]["launches"] == 493, "the peer is not the one that the figures are of"
    assert fp32["routed"]["launches"] <= 0.8 * fp32[PEER]["launches"]
    assert fp32["npu"]["launches"] == fp32["routed"]["launches"] < fp32["gather"]["launches"]


def test_launches_of_what_nobody_can_avoid(fp32: dict[str, Counts]) -> None:
    """56 convolutions and batch norms with their backward, 37 ReLU with theirs: nothing twice."""
    for counts in fp32.values():
        kernels = counts["kernels"]
        names = ("Convolution", "ConvolutionBackward", "BatchNorm", "BatchNormBackward")
        assert [kernels[f"aclnn{name}"] for name in names] == [56] * 4
        assert kernels["aclnnInplaceRelu"] == kernels["aclnnThresholdBackward"] == 37


def test_bytes_copied(fp32: dict[str, Counts]) -> None:
    assert 0 < fp32["routed"]["copied"] <= 0.4 * fp32[PEER]["copied"]


def test_a_step_waits_for_nothing(fp32: dict[str, Counts]) -> None:
    assert fp32[PEER]["host_syncs"] > 0, "waits are not counted"
    for name in ("routed", "gather", "npu"):
        assert (fp32[name]["host_syncs"], fp32[name]["host_copies"]) == (0, 0)


def test_no_launch_is_for_the_order_of_weights(fp32: dict[str, Counts]) -> None:
    assert "aclnnIndexSelect" not in fp32["routed"]["kernels"]


def test_launches_of_o2_on_two_cards(libraries: Path, npu: Any) -> None:
    found = {
        name: count_case(libraries, Case(name, "O2", 4, 64), cards=2, timeout_s=240)
        for name in (PEER, "npu")
    }
    assert found["npu"]["launches"] <= 0.65 * found[PEER]["launches"]
    assert found["npu"]["kernels"]["HcclAllReduce"] == 1
    assert (found["npu"]["host_syncs"], found["npu"]["host_copies"]) == (0, 0)


def test_the_table_in_the_documentation(fp32: dict[str, Counts]) -> None:
    page = (REPOSITORY / "docs" / "ascend.md").read_text(encoding="utf-8")
    block = page.partition("<!-- launches: begin -->")[2].partition("<!-- launches: end -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|$", block, re.MULTILINE)
    table = {name: (int(peer), int(ours)) for name, peer, ours in rows}
    names = {*fp32[PEER]["kernels"], *fp32["npu"]["kernels"]}
    assert table == {
        name: (fp32[PEER]["kernels"].get(name, 0), fp32["npu"]["kernels"].get(name, 0))
        for name in names
    }
