"""Updates are rounded as in torch.optim.SGD: equal gradients give equal bits."""

from __future__ import annotations

import pytest
import torch

from shufflenet_fn.training.optim import apply_updates, sgd
from shufflenet_fn.training.schedules import constant


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_gives_the_bits_of_torchs(momentum: float, nesterov: bool) -> None:
    # A rate that is not a power of two, so that its product with a gradient has to be rounded. torch gets
    # the float32 value, which is what a rate on the device is.
    rate = torch.tensor(0.0031).item()
    generator = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(100_003, generator=generator)}
    peer = torch.nn.Parameter(params["w"].clone())
    optimizer = sgd(constant(rate), momentum=momentum, nesterov=nesterov, weight_decay=5e-4)
    torchs = torch.optim.SGD([peer], lr=rate, momentum=momentum, nesterov=nesterov, weight_decay=5e-4)
    state = optimizer.init(params)
    for step in range(3):
        grad = torch.randn(100_003, generator=generator)
        updates, state = optimizer.update({"w": grad}, state, params, torch.tensor(step))
        params = apply_updates(params, updates)
        peer.grad = grad
        torchs.step()
        assert torch.equal(params["w"], peer.detach())
