"""The backend of the least estimated cost on an NPU, where nothing was measured."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import torch

from shufflenet_fn.run.measured import StepCase
from shufflenet_fn.training.precision import get_policy


class Work(NamedTuple):
    """What a step asks of one card: kernels, and bytes that they move at 224 pixels.

    Modelled (``ascend_emulator.kernel_model``), with running statistics updated by the kernels.
    """

    kernels: int
    fixed_bytes: int
    bytes_per_image: int


KERNEL_S: Final = 8e-6
"""A guess, not measured: seconds that one kernel costs whatever it moves (launch, start, end)."""
BYTES_PER_S: Final = 1.0e12
"""A guess, not measured: memory bandwidth that kernels reach on an Atlas A2, published as 1.6e12."""

_SIDE: Final = 224
WORK: Final[Mapping[tuple[str, str], Mapping[str, Work]]] = MappingProxyType(
    {
        ("shufflenet_v2_x0_5", "fp32"): {
            "gather": Work(1065, 111723272, 135335817),
            "npu": Work(1210, 111723272, 130989321),
        },
        ("shufflenet_v2_x0_5", "half"): {
            "gather": Work(1145, 157041704, 76772233),
            "npu": Work(1290, 157041704, 74598985),
        },
        ("shufflenet_v2_x1_0", "fp32"): {
            "gather": Work(1049, 217477368, 259913417),
            "npu": Work(1208, 217477368, 249409385),
        },
        ("shufflenet_v2_x1_0", "half"): {
            "gather": Work(1127, 272541984, 138291929),
            "npu": Work(1286, 272541984, 133039913),
        },
        ("shufflenet_v2_x1_5", "fp32"): {
            "gather": Work(1026, 314555144, 361930633),
            "npu": Work(1187, 314555144, 345993481),
        },
        ("shufflenet_v2_x1_5", "half"): {
            "gather": Work(1106, 424395816, 190069641),
            "npu": Work(1267, 424395816, 182101065),
        },
        ("shufflenet_v2_x2_0", "fp32"): {
            "gather": Work(1036, 719091960, 491542217),
            "npu": Work(1203, 719091960, 469447529),
        },
        ("shufflenet_v2_x2_0", "half"): {
            "gather": Work(1114, 891627808, 254106329),
            "npu": Work(1281, 891627808, 243058985),
        },
    }
)
"""By architecture and width of the convolutions; half is O2 with a loss scale."""


def least_cost(case: StepCase) -> tuple[str, str] | None:
    """Return the backend of the least estimated cost and the reason, or ``None`` for an unknown case."""
    width = "half" if get_policy(case.precision).compute_dtype != torch.float32 else "fp32"
    work = WORK.get((case.arch, width))
    if work is None:
        return None
    area = (case.image_size / _SIDE) ** 2
    costs = {name: cost(one, case.batch_per_card, area) for name, one in work.items()}
    name = min(costs, key=lambda name: costs[name])
    told = ", ".join(f"{other} {1e3 * seconds:.3g} ms" for other, seconds in costs.items())
    return name, (
        f"backend {name}: auto, the least estimated cost of a step at {case.batch_per_card} images a card "
        f"({told}; kernels from CANN's sources, their time guessed, nothing measured). `shufflenet-fn bench "
        "step --device npu --keep` measures"
    )


def cost(work: Work, images: int, area: float) -> float:
    """Return seconds: a cost for each kernel and one for each byte."""
    nbytes = work.fixed_bytes + work.bytes_per_image * images * area
    return work.kernels * KERNEL_S + nbytes / BYTES_PER_S
