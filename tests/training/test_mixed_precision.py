"""Training steps at every precision level, on the CPU."""

from __future__ import annotations

import pytest
import torch

from shufflenet_fn.training import schedules
from shufflenet_fn.training.loss_scale import LossScale, LossScaling, parse_loss_scaling
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, make_eval_step, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves
from tests.model.support import TINY, examples, tiny_variables

# Name, loss scale, how far the losses of five steps may be from those of float32. Measured, at losses
# about 1.6: O1 and O2 0.0004, O3 0.0026, bf16 0.0035.
LEVELS = [
    ("O0", "none", 0.0),
    ("O0", "64", 0.0),
    ("O1", "dynamic", 0.004),
    ("O2", "64", 0.004),
    ("O2", "dynamic", 0.004),
    ("O3", "none", 0.02),
    ("bf16", "none", 0.02),
]


def train(name: str, scale: str, *, steps: int = 5) -> tuple[list[float], TrainState]:
    policy = get_policy(name)
    scaling = parse_loss_scaling(scale)
    if scaling.kind == "dynamic":
        # apex starts at 2**16 and needs the first steps to come down; here the steps are few.
        scaling = LossScaling("dynamic", initial=128.0)
    optimizer = sgd(schedules.constant(2.0**-7), momentum=0.9, nesterov=True, weight_decay=1e-4)
    step = make_train_step(TINY, optimizer, policy=policy, loss_scaling=scaling, ema_decay=0.9)
    variables = tiny_variables(dtype=policy.param_dtype)
    state = create_train_state(variables, optimizer, loss_scaling=scaling, ema=True)
    losses = []
    for number in range(steps):
        state, metrics, flags = step(state, Examples(*examples(16, 64)), no_flags())
        assert flags.skipped.item() == 0.0, f"step {number} was skipped"
        losses.append(metrics.loss.item())
    return losses, state


@pytest.mark.parametrize(("name", "scale", "tolerance"), LEVELS)
def test_losses_are_near_float32_and_dtypes_stay(name: str, scale: str, tolerance: float) -> None:
    """Master weights, velocities and averages are float32 everywhere but in O3."""
    expected, _ = train("O0", "none")
    losses, state = train(name, scale)
    assert expected[-1] < expected[0] - 0.05
    torch.testing.assert_close(losses, expected, rtol=0.0, atol=tolerance)
    assert losses[-1] < losses[0]
    stored = torch.float16 if name == "O3" else torch.float32
    assert {leaf.dtype for leaf in tree_leaves((state.params, state.opt_state))} == {stored}
    assert {leaf.dtype for leaf in tree_leaves(state.ema)} == {stored, torch.float32}
    assert {leaf.dtype for leaf in tree_leaves(state.batch_stats)} == {torch.float32}
    assert state.step.dtype == torch.int64
    assert isinstance(state.loss_scale, LossScale) == (scale != "none")


def test_master_weights_take_updates_that_half_cannot_hold() -> None:
    """With a rate so small that ``1 + update`` is 1 in float16, O2 moves and O3 stands still."""
    moved = {}
    for name in ("O2", "O3"):
        policy = get_policy(name)
        optimizer = sgd(schedules.constant(2.0**-14))
        variables = tiny_variables(dtype=policy.param_dtype)
        state = create_train_state(variables, optimizer)
        step = make_train_step(TINY, optimizer, policy=policy)
        new, _, _ = step(state, Examples(*examples(16, 64)), no_flags())
        pair = (new.params["conv5"]["bn"]["weight"], state.params["conv5"]["bn"]["weight"])
        moved[name] = not torch.equal(*pair)
    assert moved == {"O2": True, "O3": False}


def test_loss_scale_keeps_small_half_gradients() -> None:
    """What a loss scale is for: the share of gradients that float16 rounds to zero."""
    zeros = {}
    for scale in ("none", "1024"):
        policy, scaling = get_policy("O2"), parse_loss_scaling(scale)
        optimizer = sgd(schedules.constant(1.0))
        variables = tiny_variables()
        # A classifier that hardly looks: gradients behind it are tiny.
        head = {key: leaf * 1e-5 for key, leaf in variables.params["fc"].items()}
        variables = variables._replace(params={**variables.params, "fc": head})
        state = create_train_state(variables, optimizer, loss_scaling=scaling)
        step = make_train_step(TINY, optimizer, policy=policy, loss_scaling=scaling)
        new, _, flags = step(state, Examples(*examples(16, 64)), no_flags())
        assert flags.skipped.item() == 0.0
        before, after = (s.params["conv5"]["conv"]["weight"] for s in (state, new))
        zeros[scale] = (before == after).double().mean().item()
    assert zeros["1024"] < zeros["none"] / 2


@pytest.mark.parametrize("name", ["O0", "O1", "O2", "O3", "bf16"])
def test_evaluation_after_training(name: str) -> None:
    """On the trained state, in the same precision: float32 statistics beside half parameters, in O3."""
    _, state = train(name, "none", steps=1)
    batch = Examples(*examples(8))
    sums = make_eval_step(TINY, policy=get_policy(name))(state.variables, batch)
    _, reference = train("O0", "none", steps=1)
    expected = make_eval_step(TINY)(reference.variables, batch)
    torch.testing.assert_close(sums.loss, expected.loss, rtol=0.02, atol=0.0)
