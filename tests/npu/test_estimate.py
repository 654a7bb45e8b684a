"""The estimate behind ``--backend auto`` on an NPU without a measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.launch_counts.ranks import count_case
from benchmarks.launch_counts.step_counts import StepCounts
from benchmarks.launch_counts.worker import Case
from shufflenet_fn.run.backend_choice import WORK, Work


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["gather", "npu"])
def test_work_is_what_the_model_gives(libraries: Path, npu: Any, name: str) -> None:
    small, large = (
        StepCounts(**count_case(libraries, Case(name, "fp32", size, 224, "x0_5"), timeout_s=240))
        for size in (2, 4)
    )
    per_image = (large.moved - small.moved) // 2
    assert WORK["shufflenet_v2_x0_5", "fp32"][name] == Work(
        large.kernels, large.moved - 4 * per_image, per_image
    )
