"""Which backend the estimate takes at which batch."""

from __future__ import annotations

import pytest

from shufflenet_fn.run.backend_choice import WORK, StepCase, cost, least_cost


def case(batch: int, *, arch: str = "shufflenet_v2_x1_0", precision: str = "fp32") -> StepCase:
    return StepCase(
        device="npu",
        chip="Ascend910B3",
        emulated=False,
        versions={},
        arch=arch,
        precision=precision,
        batch_per_card=batch,
        image_size=224,
    )


def test_small_batches_take_fewer_kernels() -> None:
    found = least_cost(case(32))
    assert found is not None
    name, reason = found
    assert name == "gather" and "nothing measured" in reason and "32 images a card" in reason


def test_large_batches_take_fewer_bytes() -> None:
    found = least_cost(case(1024))
    assert found is not None and found[0] == "npu"


def test_cost_counts_kernels_and_bytes() -> None:
    work = WORK["shufflenet_v2_x1_0", "fp32"]["gather"]
    assert cost(work, 64, 1.0) - cost(work, 0, 1.0) == pytest.approx(64 * work.bytes_per_image / 1e12)


def test_unknown_architecture_has_no_estimate() -> None:
    assert least_cost(case(64, arch="other")) is None
