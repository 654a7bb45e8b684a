"""Twenty steps give the same result as torchvision's module with torch.optim.SGD."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as nnf

from shufflenet_fn.checkpoint.torchvision import from_torchvision
from shufflenet_fn.model.config import get_config
from shufflenet_fn.training import schedules
from shufflenet_fn.training.decay import decay_weights
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from tests.model.support import assert_close_to_scale, examples

pytest.importorskip("torchvision")

from tests.model.peers import peer

RATE = 2.0**-7  # exact in float32, which our rates are


def run_both(
    dtype: torch.dtype,
    *,
    steps: int,
    nesterov: bool,
    only_weights: bool = False,
    frozen: tuple[str, ...] = (),
) -> tuple[list[float], list[float], TrainState, Any]:
    """Losses of ours, losses of torchvision's, our state, torchvision's variables."""
    config = get_config("x0_5", num_classes=10)
    module = peer("x0_5", dtype=dtype).train()
    for part in map(module.get_submodule, frozen):
        part.eval().requires_grad_(False)
    optimizer = sgd(
        schedules.constant(RATE),
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=1e-2,
        **({"decay": decay_weights} if only_weights else {}),
    )
    state = create_train_state(from_torchvision(module.state_dict(), config), optimizer, frozen=frozen)
    step = make_train_step(config, optimizer, frozen=frozen)
    undecayed = [p for p in module.parameters() if only_weights and p.ndim == 1]
    decayed = [p for p in module.parameters() if not only_weights or p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": 1e-2}]
    if undecayed:
        groups.append({"params": undecayed, "weight_decay": 0.0})
    peer_optimizer = torch.optim.SGD(groups, lr=RATE, momentum=0.9, nesterov=nesterov)

    ours, theirs = [], []
    for number in range(steps):
        images, labels = examples(4, 64, seed=number % 2, num_classes=10, dtype=dtype)
        state, metrics, _ = step(state, Examples(images, labels), no_flags())
        ours.append(metrics.loss.item())
        peer_optimizer.zero_grad()
        loss = nnf.cross_entropy(module(images), labels)
        loss.backward()
        peer_optimizer.step()
        theirs.append(loss.float().item())
    return ours, theirs, state, from_torchvision(module.state_dict(), config)


@pytest.mark.parametrize(
    ("nesterov", "only_weights", "frozen"),
    [
        (False, False, ()),
        (True, False, ()),
        (True, True, ()),
        (False, False, ("conv1", "stage2", "stage3")),
        (True, True, ("stage3", "conv5")),
    ],
)
def test_twenty_steps_in_float64(nesterov: bool, only_weights: bool, frozen: tuple[str, ...]) -> None:
    ours, theirs, state, expected = run_both(
        torch.float64, steps=20, nesterov=nesterov, only_weights=only_weights, frozen=frozen
    )
    assert ours[0] == theirs[0]
    assert ours[-1] < ours[0] / (1.2 if frozen else 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0.0)  # reported in float32
    # Measured: parameters are bit-equal, statistics within 2e-15.
    assert_close_to_scale(state.params, expected.params, 1e-9)
    assert_close_to_scale(state.batch_stats, expected.batch_stats, 1e-9)


def test_twenty_steps_in_float32() -> None:
    ours, theirs, state, expected = run_both(torch.float32, steps=20, nesterov=False)
    assert ours[0] == theirs[0]
    # Measured: parameters bit-equal, statistics within 8e-7; the room is for other kernels.
    torch.testing.assert_close(ours[:3], theirs[:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
    assert_close_to_scale(state.params, expected.params, 0.01)
