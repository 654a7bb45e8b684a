"""``gather`` compared with the module of torch_npu, if torch_npu can be imported."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn_backends.shuffle_split import shuffle, shuffle_split
from tests.model.support import generator
from tests.parity.cases import HALVES


@functools.cache
def contrib() -> Any:
    """``torch_npu.contrib.module``, or a skip with the reason.

    First in a process of its own: beside a CUDA build of torch the import does not raise but abort.
    """
    if importlib.util.find_spec("torch_npu") is None:
        pytest.skip("torch_npu is not installed")
    if "torch_npu" not in sys.modules:
        program = "from torch_npu.contrib.module import ChannelShuffle"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            pytest.skip(f"torch_npu does not load (exit code {done.returncode}): {last}")
    import torch_npu.contrib.module

    return torch_npu.contrib.module


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("half", HALVES.values())
def test_as_torch_npus_channel_shuffle(half: int, split: bool, train: bool, device: torch.device) -> None:
    peer = contrib().ChannelShuffle(2 * half, split_shuffle=split).train(train)
    rng = generator(half)
    args = [torch.randn(2, half, 7, 5, generator=rng).to(device) for _ in range(2)]
    cotangents = [torch.randn(2, half, 7, 5, generator=rng).to(device) for _ in range(2)]

    def outputs_and_gradients(function: Any) -> tuple[list[Tensor], Any]:
        leaves = [x.clone().requires_grad_() for x in args]
        out = function(*leaves)
        outs = list(out) if split else [out]
        given = cotangents if split else [torch.cat(cotangents, 1)]
        return [y.detach() for y in outs], torch.autograd.grad(outs, leaves, given)

    ours = outputs_and_gradients(shuffle_split if split else shuffle)
    torch.testing.assert_close(ours, outputs_and_gradients(peer), rtol=0, atol=0)
