"""Calls of CANN, device kernels, bytes and host waits of a training step on an NPU.

Calls and waits are counted on the emulator; device kernels and the bytes that they move are a model from
CANN's sources (``ascend_emulator.kernel_model``).
"""

from __future__ import annotations

from typing import Final

import torch

from ascend_emulator.counters import DeviceCounts, reset, snapshot
from ascend_emulator.kernel_model import model
from benchmarks.launch_counts.step_counts import StepCounts
from shufflenet_fn.bench.workers import Step

COPYING: Final = (
    *("Cat", "IndexSelect", "Gather", "ChannelShuffle", "Split", "Slice"),
    *("Copy", "Cast", "Permute", "Transpose"),
)
"""Operators that only move values: their names, without ``aclnn``, contain one of these words."""

_WARM_UP: Final = 2


def count(step: Step) -> StepCounts:
    """Return the counts of the third call of ``step``. Earlier calls create constants and momentum."""
    for _ in range(_WARM_UP):
        step()
    torch.get_device_module("npu").synchronize()
    reset()
    step()
    # Read the host's waits before this function waits itself. The other counts need an empty queue.
    syncs = snapshot().total.host_syncs
    torch.get_device_module("npu").synchronize()
    return _summary(snapshot().total, syncs)


def _summary(counts: DeviceCounts, syncs: int) -> StepCounts:
    operators = {name: kernel.launches for name, kernel in counts.kernels.items()}
    copied = sum(
        kernel.bytes_written
        for name, kernel in counts.kernels.items()
        if any(word in name for word in COPYING)
    )
    host = sum(counts.copies[way].copies for way in ("h2d", "d2h") if way in counts.copies)
    modelled = model(counts.signatures)
    return StepCounts(
        sum(operators.values()),
        operators,
        copied,
        syncs,
        host,
        modelled.kernels,
        modelled.low,
        modelled.high,
        modelled.kinds,
        modelled.nbytes,
    )
