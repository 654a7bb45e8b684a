"""The loss scale: its rules, and steps whose gradients overflow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn.errors import UsageError
from shufflenet_fn.training import schedules
from shufflenet_fn.training.loss_scale import (
    LossScale,
    LossScaling,
    adjust,
    init_loss_scale,
    parse_loss_scaling,
    scale_loss,
    unscale,
)
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, TrainStep, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves
from tests.model.support import (
    TINY,
    assert_close_to_scale,
    assert_trees_equal,
    examples,
    tiny_variables,
    unchanged,
)

CPU = torch.device("cpu")
STATIC = LossScaling("static", initial=64.0)
DYNAMIC = LossScaling("dynamic", initial=1024.0, growth_interval=3)


def follow(scaling: LossScaling, outcomes: str) -> list[tuple[float, int]]:
    """Scale and good steps after each of ``outcomes``: ``.`` finite, ``x`` overflow."""
    state = init_loss_scale(scaling, CPU)
    history = []
    for outcome in outcomes:
        state = adjust(scaling, state, torch.tensor(outcome == "."))
        assert isinstance(state, LossScale)
        assert (state.scale.dtype, state.good_steps.dtype) == (torch.float32, torch.int32)
        assert state.scale.shape == state.good_steps.shape == ()
        history.append((state.scale.item(), int(state.good_steps.item())))
    return history


@pytest.mark.parametrize(
    ("scaling", "outcomes", "scales", "good_steps"),
    [
        (
            DYNAMIC,
            ".....x...xxx.",
            [*[1024] * 2, *[2048] * 3, *[1024] * 3, 2048, 1024, 512, 256, 256],
            [1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 1],
        ),
        (
            LossScaling("dynamic", 8.0, growth_factor=4.0, backoff_factor=0.25, growth_interval=1),
            *("..xx.", [32, 128, 32, 8, 32], [0] * 5),
        ),
        (
            LossScaling("dynamic", 8.0, minimum=3.0, growth_interval=2),
            "xxx..",
            [4, 3, 3, 3, 6],
            [0, 0, 0, 1, 0],
        ),
        # From infinity no backoff would come back, and every later step would be skipped.
        (
            LossScaling("dynamic", 2.0**126, growth_interval=1),
            *("....x", [2.0**127] * 4 + [2.0**126], [0, 1, 2, 3, 0]),
        ),
        (STATIC, ".x..x", [64] * 5, [0] * 5),
        # The default is apex's.
        (
            LossScaling("dynamic"),
            "." * 2000 + "x",
            [2.0**16] * 1999 + [2.0**17, 2.0**16],
            [*range(1, 2000), 0, 0],
        ),
    ],
    ids=["dynamic", "other factors", "minimum", "largest", "static", "default"],
)
def test_the_scale_follows_its_rule(
    scaling: LossScaling, outcomes: str, scales: list[float], good_steps: list[int]
) -> None:
    assert follow(scaling, outcomes) == list(zip(scales, good_steps, strict=True))


def test_no_scale_is_the_empty_tuple() -> None:
    loss, grads = torch.tensor(2.0), {"w": torch.tensor([3.0])}
    assert init_loss_scale(LossScaling(), CPU) == ()
    assert scale_loss((), loss) is loss and unscale((), grads) is grads
    assert adjust(LossScaling(), (), torch.tensor(False)) == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_unscale_undoes_scale(dtype: torch.dtype) -> None:
    state = LossScale(torch.tensor(64.0), torch.tensor(0, dtype=torch.int32))
    assert scale_loss(state, torch.tensor(0.5)).item() == 32.0
    scaled = {"w": torch.tensor([64.0, -0.5, 0.0], dtype=dtype)}
    with unchanged(scaled, state):
        grads = unscale(state, scaled)
    assert torch.equal(grads["w"], torch.tensor([1.0, -1 / 128, 0.0], dtype=dtype))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", LossScaling("none")),
        ("dynamic", LossScaling("dynamic")),
        ("64", LossScaling("static", initial=64.0)),
        ("1e3", LossScaling("static", initial=1000.0)),
        ("0.5", LossScaling("static", initial=0.5)),
    ],
)
def test_parse(text: str, expected: LossScaling) -> None:
    assert parse_loss_scaling(text) == expected


@pytest.mark.parametrize("text", ["", "Dynamic", "auto", "0", "-64", "inf", "nan", "64,0", "None"])
def test_parse_errors_name_value_and_allowed_values(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_loss_scaling(text)
    for part in (repr(text), "64", "dynamic", "none"):
        assert part in str(error.value)


def build(
    scaling: LossScaling | None, *, ema: bool = True, rate: float = 0.125
) -> tuple[TrainStep, TrainState]:
    optimizer = sgd(schedules.constant(rate), momentum=0.9, weight_decay=0.01)
    step = make_train_step(TINY, optimizer, loss_scaling=scaling, ema_decay=0.75 if ema else None)
    return step, create_train_state(tiny_variables(), optimizer, loss_scaling=scaling, ema=ema)


def spoiled(value: float) -> Examples:
    """One image of a batch that makes every gradient NaN or infinite."""
    images, labels = examples(4)
    images[1, 0, 3, 3] = value
    return Examples(images, labels)


def kept(state: TrainState) -> Any:
    """What a skipped step leaves as it was."""
    return state._replace(step=torch.tensor(0), loss_scale=())


@pytest.mark.parametrize("scaling", [STATIC, DYNAMIC], ids=["static", "dynamic"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_overflow_skips_one_step(scaling: LossScaling, value: float) -> None:
    step, state = build(scaling)
    state, _, flags = step(state, Examples(*examples(4)), no_flags())
    assert flags.skipped.item() == 0.0

    skipped, _, flags = step(state, spoiled(value), no_flags())

    assert flags.skipped.item() == 1.0
    assert skipped.step.item() == 2
    assert_trees_equal(kept(skipped), kept(state))
    assert isinstance(state.loss_scale, LossScale) and isinstance(skipped.loss_scale, LossScale)
    factor = 0.5 if scaling.kind == "dynamic" else 1.0
    assert skipped.loss_scale.scale.item() == scaling.initial * factor

    third, metrics, flags = step(skipped, Examples(*examples(4, seed=9)), no_flags())
    assert flags.skipped.item() == 0.0 and third.step.item() == 3
    assert metrics.loss.isfinite()
    assert all(leaf.isfinite().all() for leaf in tree_leaves(third))
    for new, old in ((third.params, skipped.params), (third.ema, skipped.ema)):
        pairs = zip(tree_leaves(new), tree_leaves(old), strict=True)
        assert all(not torch.equal(a, b) for a, b in pairs)


def test_device_reported_overflow_skips_the_step() -> None:
    step, state = build(STATIC)
    reported = no_flags()._replace(skipped=torch.tensor(0.5))
    new, _, flags = step(state, Examples(*examples(4)), reported)
    assert flags.skipped.item() == 1.0
    assert_trees_equal(kept(new), kept(state))


def test_without_a_scale_nothing_is_skipped_silently() -> None:
    """A NaN in float32 is no overflow: it shows in the loss, and the state tells."""
    step, state = build(None)
    new, metrics, flags = step(state, spoiled(float("nan")), no_flags())
    assert flags.skipped.item() == 0.0
    assert metrics.loss.isnan() and new.params["fc"]["weight"].isnan().any()


@pytest.mark.parametrize("initial", [64.0, 1000.0, 2.0**16])
def test_a_scaled_float32_run_is_the_unscaled_one(initial: float) -> None:
    """Bit for bit where the scale is a power of two."""
    runs = []
    for scaling in (None, LossScaling("static", initial=initial)):
        step, state = build(scaling, rate=2.0**-8)
        losses: list[Tensor] = []
        for seed in range(4):
            state, metrics, _ = step(state, Examples(*examples(4, seed=seed)), no_flags())
            losses.append(metrics.loss)
        runs.append((kept(state), torch.stack(losses)))
    (plain, plain_losses), (scaled, scaled_losses) = runs
    if initial.is_integer() and (int(initial) & (int(initial) - 1)) == 0:
        assert torch.equal(scaled_losses, plain_losses)
        assert_trees_equal(scaled, plain)
    else:
        torch.testing.assert_close(scaled_losses, plain_losses, rtol=1e-4, atol=0.0)
        assert_close_to_scale(scaled.params, plain.params, 1e-4)
